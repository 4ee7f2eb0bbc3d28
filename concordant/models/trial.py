"""Random tokens on which a model is tried when it is loaded, and when two results count as the same.

R rows, L row length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.core.seeding import torch_stream
from concordant.core.trees import Branch, PromptTree
from concordant.models.backbone import CHECK_WINDOW

TOLERANCE = 1e-4  # of the hidden states' root mean square; fp32 gives 1e-6, a wrong mask 1e-1, wrong RoPE angles 1e-3


def random_trees(model: PreTrainedModel, length: int) -> list[PromptTree]:
    """Two trees of two branches, every trunk with its branch ``length`` tokens, so that plain rows need no padding."""
    stream = torch_stream(0, "models/layout")
    vocabulary = model.config.get_text_config().vocab_size

    def tokens(n: int) -> Tensor:
        return torch.randint(0, vocabulary, (n,), generator=stream)

    def tree(trunk: int) -> PromptTree:
        return PromptTree(tokens(trunk), tuple(Branch.response(tokens(length - trunk)) for _ in range(2)))

    return [tree(length - 6), tree(length - 8)]


def two_rows(model: PreTrainedModel) -> tuple[Tensor, int]:
    """Plain rows (2, L) that begin alike, and for how many tokens."""
    (tree, _) = random_trees(model, 2 * CHECK_WINDOW + 1)
    rows = torch.stack([torch.cat([tree.prompt_P, b.ids_T]) for b in tree.branches])
    return rows.to(model.device), len(tree.prompt_P)


def close(given: Tensor, wanted: Tensor) -> bool:
    return given.shape == wanted.shape and bool((given - wanted).abs().max() <= 1e-5 * wanted.abs().max())
