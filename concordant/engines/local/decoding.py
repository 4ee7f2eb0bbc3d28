"""Two ways to decode many responses at once, and the check that chooses one for a model.

``SlotDecoder``: rows of different lengths share a ``SlotCache``, and prompts join and leave at any step. It is exact if
attention follows a given mask and given positions. ``EqualLengthDecoder``: the rows start together from prompts of one
length, in transformers' own cache, so no padding is needed. It is exact for every architecture.

In both, the first decoding step reads the last token of the prompt. So a prefill needs no logits, and every sampled
token comes from the same code.

Here R counts the live rows and K the columns of the cache that attention reads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from concordant.core.seeding import torch_stream
from concordant.core.transfer import to_device
from concordant.core.trees import Layout
from concordant.engines.local.slot_cache import SlotCache
from concordant.kernels.put_on import ATTENTION, kernels_of
from concordant.kernels.ragged_attention import WASTE, RowGroup, attending, row_groups
from concordant.models.backbone import (
    FULL,
    REFUSALS,
    SLIDING,
    backbone,
    layer_types,
    narrow_window,
    sliding_window,
    undisturbed,
)
from concordant.models.layout import check_layout

PREFILL_TOKENS = 8192  # the most tokens (rows × length) of one prefill, to limit its memory
PREFILL_WASTE = 0.125  # the share of padding that a prefill may have; a smaller share would need more, smaller calls
TOLERANCE = 1e-4  # a share of the logits' standard deviation; fp32 gives 1e-6, a wrong mask or position 1e-1


class Decoder(Protocol):
    """Rows are numbered from 0. Admitted prompts come after the live rows, each with ``copies`` rows."""

    mixed_lengths: bool  # False: prompts are admitted only when no row is live, and only prompts of one length

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int]) -> None: ...

    def step(self, last_R: Tensor) -> Tensor:
        """Give each live row its last token, at first the prompt's. Returns the logits of the next token, (R, V).

        ``last_R`` is int64, on the model's device. A row that has ended may go on: its tokens change no other row.
        """
        ...

    def drop(self, rows: Sequence[int]) -> list[int]:
        """Remove finished rows. Returns the old numbers of the remaining rows, in their new order."""
        ...


class SlotDecoder:
    """At most ``rows`` rows of at most ``columns`` tokens each, prompt included."""

    mixed_lengths = True

    def __init__(self, model: PreTrainedModel, rows: int, columns: int, waste: int = WASTE) -> None:
        self.model = model
        self.waste = waste  # unused cells that a row group of ragged attention may read
        self.config = model.config.get_text_config()
        self.window = sliding_window(self.config)
        self.types = layer_types(self.config)
        self.cache = SlotCache(_is_sliding(model), rows, columns, model.device)
        self.column_K = torch.arange(columns, device=model.device)
        self.columns = columns
        self.lengths: list[int] = []  # tokens in the cache, for each live row
        self.position_R: Tensor | None = None  # ``lengths`` on the device; None after rows have joined, left or moved
        self.ragged = ATTENTION in kernels_of(model)
        self.row_groups: list[RowGroup] = []

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int]) -> None:
        cursor = self.cache.cursor
        for group in _prefill_groups([len(p) - 1 for p in prompts]):
            length = max(len(prompts[i]) - 1 for i in group)
            if length > 0:
                # Padding comes last, so that no token attends to it.
                ids_GL = torch.zeros((len(group), length), dtype=torch.int64)
                for row, i in enumerate(group):
                    ids_GL[row, : len(prompts[i]) - 1] = prompts[i][:-1]
                cursor.prefill([copies[i] for i in group])
                backbone(self.model)(
                    input_ids=to_device(ids_GL, self.model.device),
                    position_ids=self.column_K[:length].expand(len(group), -1),
                    past_key_values=self.cache,
                    use_cache=True,
                )
            self.lengths += [len(prompts[i]) - 1 for i in group for _ in range(copies[i])]
            cursor.live = len(self.lengths)
        self.row_groups = row_groups(self.lengths, self.waste)
        self.position_R = None

    def step(self, last_R: Tensor) -> Tensor:
        if self.position_R is None:
            self.position_R = to_device(torch.tensor(self.lengths), self.model.device)
        # A row that has ended and goes on overwrites its last column when it has no other.
        position_R = self.position_R.clamp(max=self.columns - 1)
        self.position_R = self.position_R + 1
        self.lengths = [min(n + 1, self.columns) for n in self.lengths]
        for group in self.row_groups:
            group.span += 1
        self.cache.cursor.decode(position_R, max(self.lengths))
        with attending(self.row_groups) if self.ragged and len(self.row_groups) > 1 else nullcontext():
            out = self.model(
                input_ids=last_R[:, None],
                attention_mask=self._masks(position_R),
                position_ids=position_R[:, None],
                past_key_values=self.cache,
                use_cache=True,
            )
        return out.logits[:, -1]

    def _masks(self, position_R: Tensor) -> Tensor | dict[str, Tensor]:
        """Masks to add to the attention scores, (R, 1, 1, K): one for all layers, or one for each type of layer."""
        hidden_RK = self.column_K[: self.cache.cursor.span] > position_R[:, None]
        if self.window is None or (self.types and SLIDING not in self.types):
            return _additive(hidden_RK)
        past_RK = self.column_K[: self.cache.cursor.span] <= position_R[:, None] - self.window
        if self.types:
            return {FULL: _additive(hidden_RK), SLIDING: _additive(hidden_RK | past_RK)}
        return _additive(hidden_RK | past_RK)

    def drop(self, rows: Sequence[int]) -> list[int]:
        order = list(range(len(self.lengths)))
        gone = set(rows)
        left = len(order) - len(gone)
        holes = [row for row in sorted(gone) if row < left]
        movers = [row for row in range(left, len(order)) if row not in gone]
        movers.sort(key=lambda row: -self.lengths[row])  # row groups are best when longer rows come first
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if movers:
            self.cache.move(movers, holes, max(self.lengths[row] for row in movers))
        order = order[:left]
        self.lengths = [self.lengths[row] for row in order]
        self.cache.cursor.live = left
        self.row_groups = row_groups(self.lengths, self.waste)
        self.position_R = None
        return order


class EqualLengthDecoder:
    """Decodes rows of one length with the architecture's own cache, which grows with the rows."""

    mixed_lengths = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self.cache_name = "cache_params" if "cache_params" in accepted else "past_key_values"  # state-space models
        self.cache = DynamicCache(config=model.config)
        self.rows = 0

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int]) -> None:
        self.cache = DynamicCache(config=self.model.config)
        if len(prompts[0]) > 1:
            ids_GL = to_device(torch.stack([p[:-1] for p in prompts]), self.model.device)
            backbone(self.model)(input_ids=ids_GL, use_cache=True, **{self.cache_name: self.cache})
            self._select([i for i, n in enumerate(copies) for _ in range(n)])
        self.rows = sum(copies)

    def step(self, last_R: Tensor) -> Tensor:
        out = self.model(input_ids=last_R[:, None], use_cache=True, **{self.cache_name: self.cache})
        return out.logits[:, -1]

    def drop(self, rows: Sequence[int]) -> list[int]:
        gone = set(rows)
        order = [row for row in range(self.rows) if row not in gone]
        self._select(order)
        self.rows = len(order)
        return order

    def _select(self, rows: Sequence[int]) -> None:
        """Reorder the cache to these rows. A row may be left out or repeated."""
        if rows:
            index_R = to_device(torch.tensor(rows, dtype=torch.int64), self.model.device)
            self.cache.reorder_cache(cast(torch.LongTensor, index_R))


def _additive(hidden_RK: Tensor) -> Tensor:
    mask_RK = torch.zeros(hidden_RK.shape, device=hidden_RK.device)
    return mask_RK.masked_fill_(hidden_RK, -math.inf)[:, None, None]


def _prefill_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Groups of neighbouring prompts that share a forward pass, of limited size and with little padding."""
    groups: list[list[int]] = []
    longest = tokens = 0
    for i, length in enumerate(lengths):
        grown = max(longest, length)
        rows = len(groups[-1]) + 1 if groups else 1
        waste = rows * grown - tokens - length
        if not groups or rows * grown > PREFILL_TOKENS or waste > PREFILL_WASTE * rows * grown + 64:
            groups.append([])
            grown, tokens = length, 0
        groups[-1].append(i)
        longest, tokens = grown, tokens + length
    return groups


# -- the choice between the two ---------------------------------------------------------------------


def slots_are_exact(model: PreTrainedModel) -> bool:
    """True if ``SlotDecoder`` gives the logits of plain rows. Both are run on random tokens and compared."""
    if check_layout(model) is not Layout.TREE or not _keeps_keys_and_values(model):
        return False
    try:
        with undisturbed(model), narrow_window(model.config.get_text_config()):
            return _slot_error(model) < TOLERANCE
    except REFUSALS:
        return False


def _slot_error(model: PreTrainedModel) -> float:
    """The largest difference from plain rows, in standard deviations of the logits, while rows join, leave and move."""
    stream = torch_stream(0, "engines/local/decoding")
    vocabulary = model.config.get_text_config().vocab_size

    def tokens(n: int) -> list[int]:
        return torch.randint(0, vocabulary, (n,), generator=stream).tolist()

    decoder = SlotDecoder(model, rows=5, columns=24, waste=0)
    rows: list[list[int]] = []
    worst = 0.0
    for joining, leaving in (([(15, 2), (9, 1), (4, 1)], [0, 2]), ([(11, 1), (1, 2)], [1])):
        prompts = [tokens(length) for length, _ in joining]
        decoder.admit([torch.tensor(p) for p in prompts], [copies for _, copies in joining])
        rows += [list(p) for p, (_, copies) in zip(prompts, joining, strict=True) for _ in range(copies)]
        for leave in ([], [], leaving, []):
            rows = [rows[row] for row in decoder.drop(leave)]
            logits_RV = decoder.step(torch.tensor([row[-1] for row in rows], device=model.device))
            for row, logits_V in zip(rows, logits_RV, strict=True):
                plain_V = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1]
                worst = max(worst, float((logits_V - plain_V).abs().max() / plain_V.std()))
                row += tokens(1)
    return worst


def _keeps_keys_and_values(model: PreTrainedModel) -> bool:
    """True if every layer caches its own keys and values. State-space layers and layers that share keys do not."""
    return all(type(x) in (DynamicLayer, DynamicSlidingWindowLayer) for x in DynamicCache(config=model.config).layers)


def _is_sliding(model: PreTrainedModel) -> list[bool]:
    return [type(x) is DynamicSlidingWindowLayer for x in DynamicCache(config=model.config).layers]
