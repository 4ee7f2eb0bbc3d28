"""What a model can do, proved by numbers once at load: lay prompts as trees or flat, and read the LM head alone.

Nothing is believed from an architecture's name. Random tokens run as plain rows through the model's own code,
and as trees through ours. Only where the numbers agree, and a wrong mask and wrong positions are seen to
disagree a hundred times more, is a model ``Layout.TREE``; whatever fails or raises is ``Layout.FLAT``.

R rows, L row length, H hidden size, N positions, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from concordant.core.errors import UserError
from concordant.core.seeding import torch_stream
from concordant.core.trees import Branch, Layout, PromptTree, TreeBatch, lay_out
from concordant.models import last_layer
from concordant.models.tree_attention import (
    backbone,
    hidden_states,
    output_embedding,
    run_backbone,
    sliding_window,
)

TOLERANCE = 1e-4  # of the hidden states' root mean square; fp32 gives 1e-6, a wrong mask 1e-1, wrong RoPE angles 1e-3
SENSITIVITY = 100.0  # how much further off a wrong mask or wrong positions must be than the layout that is believed
CHECK_WINDOW = 6  # tokens a sliding window is narrowed to while checking, so that short rows are longer than it
LONGEST_CHECK = 512  # tokens; a window that cannot be narrowed and is longer stays unproven
ROPE_WITH_MEMORY = ("dynamic", "longrope")  # angles depend on the longest row of the batch or of the past


@dataclass(frozen=True, slots=True)
class Head:
    """What the architecture does after its output embedding."""

    scale: float = 1.0  # logits are multiplied by it (Cohere's logit_scale, 1 / Granite's logits_scaling)
    softcap: float | None = None  # then x becomes softcap · tanh(x / softcap) (Gemma 2)
    own_code: bool = False  # something else: the model's own forward runs around the given hidden states


@dataclass(frozen=True, slots=True)
class ModelTraits:
    layout: Layout
    head: Head = Head()


def lm_logits(model: PreTrainedModel, hidden_NH: Tensor, head: Head) -> Tensor:
    """Next-token logits (N, V) of final hidden states, as the model's own forward would give them."""
    if head.own_code:
        return _own_logits(model, hidden_NH)
    logits_NV = output_embedding(model)(hidden_NH)
    if head.scale != 1.0:
        logits_NV = logits_NV * head.scale
    if head.softcap is not None:
        logits_NV = torch.tanh(logits_NV / head.softcap) * head.softcap
    return logits_NV


def prepare_model(model: PreTrainedModel) -> ModelTraits:
    """Decide a causal LM's layout and head. Draws nothing from global random state."""
    if not is_causal(model):
        raise UserError(f"{type(model).__name__} lets a token see later ones: expected a causal language model")
    return ModelTraits(decide_layout(model), find_head(model))


def is_causal(model: PreTrainedModel) -> bool:
    """True when a later token changes nothing before it."""
    rows, prompt = _two_rows(model)
    with undisturbed(model):
        one, other = run_backbone(model, rows)[:, :prompt].float()
    return bool((one - other).abs().max() < TOLERANCE * one.square().mean().sqrt())


def decide_layout(model: PreTrainedModel) -> Layout:
    """``check_layout``; a model that is laid as trees is marked with what its last layer may leave out.

    Once, when a model is made or loaded and before it has adapters, so that a run that is resumed decides the same.
    """
    layout = check_layout(model)
    if layout is Layout.TREE:
        last_layer.prove(backbone(model), lambda parts: _narrows_exactly(model, parts))
    return layout


def check_layout(model: PreTrainedModel) -> Layout:
    """Run the check on anything with a causal backbone."""
    config = model.config.get_text_config()
    length = _length_to_check(config)
    if length is None or _has_rope_with_memory(config.to_dict()):
        return Layout.FLAT
    try:
        with undisturbed(model), narrow_window(config):
            return Layout.TREE if _trees_are_exact(model, length) else Layout.FLAT
    except REFUSALS:
        return Layout.FLAT


# What architectures raise when they are given a 4-D mask or position ids they do not know. Running out of memory
# is a RuntimeError too, but 50 tokens do not.
REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError)


def _trees_are_exact(model: PreTrainedModel, length: int) -> bool:
    trees = _random_trees(model, length)
    rows = torch.stack([torch.cat([t.prompt_P, b.ids_T]) for t in trees for b in t.branches]).to(model.device)
    batch = lay_out(trees).to(model.device)
    plain = _response_states(run_backbone(model, rows), lay_out(trees, Layout.FLAT))
    scale = plain.square().mean().sqrt()

    def error(wrong: TreeBatch) -> Tensor:
        return (_response_states(hidden_states(model, wrong, Layout.TREE), batch) - plain).abs().max() / scale

    right = error(batch)
    siblings_seen = error(replace(batch, branch_RL=batch.branch_RL.clamp(max=0)))
    positions = torch.arange(batch.ids_RL.shape[1], device=model.device).expand_as(batch.ids_RL)
    row_positions = error(replace(batch, position_RL=positions))
    return bool(right < TOLERANCE and SENSITIVITY * right < torch.minimum(siblings_seen, row_positions))


def _narrows_exactly(model: PreTrainedModel, parts: Sequence[nn.Module]) -> bool:
    """Whether final hidden states stay what they were where ``parts`` of the last layer run, and change elsewhere."""
    rows, _ = _two_rows(model)
    read_N, unread_N = (torch.arange(start, rows.numel(), 2, device=model.device) for start in (0, 1))
    try:
        with undisturbed(model):
            whole = run_backbone(model, rows).flatten(0, 1).float()
            with last_layer.only_at(parts, read_N):
                narrowed = run_backbone(model, rows).flatten(0, 1).float()
    except REFUSALS:
        return False
    return _close(narrowed[read_N], whole[read_N]) and not _close(narrowed[unread_N], whole[unread_N])


def _two_rows(model: PreTrainedModel) -> tuple[Tensor, int]:
    """Plain rows (2, L) that begin alike, and for how many tokens."""
    (tree, _) = _random_trees(model, 2 * CHECK_WINDOW + 1)
    rows = torch.stack([torch.cat([tree.prompt_P, b.ids_T]) for b in tree.branches])
    return rows.to(model.device), len(tree.prompt_P)


def _response_states(hidden_RLH: Tensor, batch: TreeBatch) -> Tensor:
    """Hidden states that predict response tokens, in the caller's order, (N, H)."""
    source_N = batch.source_N[batch.token_N.argsort()].to(hidden_RLH.device)
    return hidden_RLH.flatten(0, 1)[source_N].float()


def _random_trees(model: PreTrainedModel, length: int) -> list[PromptTree]:
    """Two trees of two branches, every trunk with its branch ``length`` tokens, so that plain rows need no padding."""
    stream = torch_stream(0, "models/layout")
    vocabulary = model.config.get_text_config().vocab_size

    def tokens(n: int) -> Tensor:
        return torch.randint(0, vocabulary, (n,), generator=stream)

    def tree(trunk: int) -> PromptTree:
        return PromptTree(tokens(trunk), tuple(Branch.response(tokens(length - trunk)) for _ in range(2)))

    return [tree(length - 6), tree(length - 8)]


def _length_to_check(config: PretrainedConfig) -> int | None:
    """Tokens of a dialogue in the check, past every window; None where that is too many to prove anything."""
    windows = [
        value
        for name, value in config.to_dict().items()
        if re.search(r"window|chunk|local_attention", name)
        and name not in ("sliding_window", "max_window_layers", "chunk_size_feed_forward")
        and isinstance(value, int)
    ]
    length = 2 * CHECK_WINDOW + 1 + max(windows, default=0)
    return length if length <= LONGEST_CHECK else None


def _has_rope_with_memory(settings: Any) -> bool:
    if not isinstance(settings, dict):
        return False
    if settings.get("rope_type", settings.get("type")) in ROPE_WITH_MEMORY:
        return True
    return any(_has_rope_with_memory(value) for value in settings.values())


# -- the head -------------------------------------------------------------------------------------


def find_head(model: PreTrainedModel) -> Head:
    """The cheapest way from hidden states to the logits the model itself gives; ``UserError`` when there is none."""
    with undisturbed(model):
        (row,) = lay_out(_random_trees(model, 2 * CHECK_WINDOW + 1)[:1]).ids_RL.to(model.device).split(1)
        wanted = model(input_ids=row, use_cache=False).logits[0].float()
        hidden = run_backbone(model, row)[0]
        for head in _candidate_heads(model.config.get_text_config()):
            if _close(lm_logits(model, hidden, head).float(), wanted):
                return head
    raise UserError(
        f"the logits of {type(model).__name__} cannot be computed from its hidden states: "
        "Concordant trains causal language models whose head reads the backbone's last hidden state"
    )


def _close(given: Tensor, wanted: Tensor) -> bool:
    return given.shape == wanted.shape and bool((given - wanted).abs().max() <= 1e-5 * wanted.abs().max())


def _candidate_heads(config: PretrainedConfig) -> Iterator[Head]:
    """Each is tried by numbers, so a field that means something else does no harm.

    Capped ones come first: on the small logits of an untrained model a cap is hardly seen.
    """
    settings = config.to_dict()
    scales = [1.0]
    if settings.get("logit_scale"):
        scales.append(settings["logit_scale"])
    if settings.get("logits_scaling"):
        scales.append(1.0 / settings["logits_scaling"])
    caps = [settings["final_logit_softcapping"], None] if settings.get("final_logit_softcapping") else [None]
    yield from (Head(scale, cap) for cap, scale in product(caps, scales))
    yield Head(own_code=True)


class _Given(nn.Module):
    """Stands where the backbone was and hands on hidden states that are known already."""

    def __init__(self, hidden_NH: Tensor) -> None:
        super().__init__()
        self.hidden_NH = hidden_NH

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.hidden_NH[None])


def _own_logits(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    below = backbone(model)
    (name,) = (name for name, child in model.named_children() if child is below)
    ids = torch.zeros((1, len(hidden_NH)), dtype=torch.int64, device=hidden_NH.device)
    setattr(model, name, _Given(hidden_NH))
    try:
        return model(input_ids=ids, use_cache=False).logits[0]
    finally:
        setattr(model, name, below)


# -- leaving everything as it was -----------------------------------------------------------------


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """No gradient, no dropout; afterwards global random state and every module's training flag are as they were."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def narrow_window(config: PretrainedConfig) -> Iterator[None]:
    """Masks are made from the configuration at every call, so a window of 4,096 can be proved in 13 tokens."""
    window = sliding_window(config)
    if window is None:
        yield
        return
    config.sliding_window = min(window, CHECK_WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window
