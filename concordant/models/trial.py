"""Random tokens to check a model when it is loaded, and the tolerance within which two results count as equal."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.core.seeding import torch_stream
from concordant.core.trees import Branch, PromptTree
from concordant.models.backbone import CHECK_WINDOW

# A share of the hidden states' root mean square. Rounding in fp32 gives 1e-6, wrong RoPE angles 1e-3, a wrong mask 0.1.
TOLERANCE = 1e-4


def random_trees(model: PreTrainedModel, length: int) -> list[PromptTree]:
    """Two trees of two branches. A trunk with one branch has ``length`` tokens, so that plain rows need no padding."""
    stream = torch_stream(0, "models/layout")
    vocabulary = model.config.get_text_config().vocab_size

    def tokens(n: int) -> Tensor:
        return torch.randint(0, vocabulary, (n,), generator=stream)

    def tree(trunk: int) -> PromptTree:
        return PromptTree(tokens(trunk), tuple(Branch.response(tokens(length - trunk)) for _ in range(2)))

    return [tree(length - 6), tree(length - 8)]


def two_rows(model: PreTrainedModel) -> tuple[Tensor, int]:
    """Two plain rows, (2, L), that begin with the same tokens, and the number of these tokens."""
    (tree, _) = random_trees(model, 2 * CHECK_WINDOW + 1)
    rows = torch.stack([torch.cat([tree.prompt_T, b.ids_T]) for b in tree.branches])
    return rows.to(model.device), len(tree.prompt_T)


def close(given: Tensor, wanted: Tensor) -> bool:
    return given.shape == wanted.shape and bool((given - wanted).abs().max() <= 1e-5 * wanted.abs().max())
