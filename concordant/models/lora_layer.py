"""One linear layer and its low-rank adapters (Hu et al. 2021, arXiv:2106.09685).

    y = base(x) + alpha / r · B A x        A (r, in) random, B (out, r) zero at the start

If no adapter is active, the layer gives the same bits as its base. So the reference model needs no memory of its own.
The updates of several active adapters are added. DoRA and PiSSA are explained in lora_kinds.py.

r rank of an adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from concordant.config.names import LoraStart
from concordant.core.errors import UserError
from concordant.core.seeding import torch_stream
from concordant.models.lora_kinds import Factors, principal, row_lengths
from concordant.models.quantized import NF4Linear

# Settings of the present call. Each thread has its own, also where several threads call one model at once.
Names = tuple[str, ...]  # of the adapters that are active; empty: none
Active = str | Names | None
_chosen: ContextVar[Mapping[LoRALinear, Active]] = ContextVar("adapters of the present call", default={})  # noqa: B039
_by_row: ContextVar[Mapping[str, Tensor] | None] = ContextVar("adapters of the rows of the present call", default=None)
_without_dropout: ContextVar[bool] = ContextVar("no dropout in the present call", default=False)


@contextmanager
def still() -> Iterator[None]:
    """Inside the block there is no gradient and no dropout of adapters, in train mode too.

    So two passes give the same numbers.
    """
    token = _without_dropout.set(True)
    try:
        with torch.no_grad():
            yield
    finally:
        _without_dropout.reset(token)


@contextmanager
def choosing(adapters: Mapping[LoRALinear, Active]) -> Iterator[None]:
    """Inside the block, each of these layers uses the given adapters, or none, instead of its active ones."""
    token = _chosen.set({**_chosen.get(), **adapters})
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def by_row(rows: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block, every layer adds the update of each adapter to its own rows of the input alone.

    ``rows`` has the numbers of the rows of each adapter, int64. A row that is not named gets the base. The first
    dimension of the input counts the rows.
    """
    token = _by_row.set(rows)
    try:
        yield
    finally:
        _by_row.reset(token)


class Adapter(nn.Module):
    """One adapter of one layer. ``lora_A`` is (r, in), ``lora_B`` (out, r).

    Both are fp32 for every dtype of the base, because a bf16 weight rounds a step of 1e-6 away. ``lora_magnitude`` is
    DoRA's length of every row, (out,), or None. ``start_A`` and ``start_B`` are what PiSSA took out of the base.
    """

    lora_magnitude: nn.Parameter | None
    start_A: Tensor | None
    start_B: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        rank_stabilised: bool = False,
        like: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_settings(r, alpha, dropout)
        self.r, self.alpha, self.rank_stabilised = r, alpha, rank_stabilised
        self.dropout = nn.Dropout(dropout)
        like = torch.empty(0) if like is None else like
        # The CPU draws the numbers, so that a GPU starts from the same bits. Kaiming-uniform with a = sqrt(5).
        bound = 1 / math.sqrt(in_features)
        drawn = generator or torch_stream(0, "lora")
        a_rI = torch.empty(r, in_features, device="cpu").uniform_(-bound, bound, generator=drawn)
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.lora_A = nn.Parameter(a_rI.to(like.device, dtype))
        self.lora_B = nn.Parameter(torch.zeros(out_features, r, device=like.device, dtype=dtype))
        self.register_parameter("lora_magnitude", None)
        self.register_buffer("start_A", None)
        self.register_buffer("start_B", None)

    @property
    def scaling(self) -> float:
        """alpha / r; alpha / sqrt(r) when rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.r) if self.rank_stabilised else self.r)

    def forward(self, x: Tensor, linear: Callable[[Tensor, Tensor], Tensor] = F.linear) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_A.dtype)
        return linear(linear(self.dropped(x), self.lora_A) * self.scaling, self.lora_B)

    def dropped(self, x: Tensor) -> Tensor:
        """``x`` after the adapter's dropout."""
        return x if _without_dropout.get() else self.dropout(x)

    def update_OI(self) -> Tensor:
        """The matrix that the adapter adds to a weight of shape (out, in)."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            return self.lora_B @ self.lora_A * self.scaling

    @property
    def is_plain(self) -> bool:
        """Whether the adapter only adds its update to the base of its folder: neither DoRA nor PiSSA."""
        return self.lora_magnitude is None and self.start_A is None

    @property
    def factors(self) -> Factors:
        return Factors(self.lora_A.detach(), self.lora_B.detach(), self.scaling)


class LoRALinear(nn.Module):
    """A frozen ``nn.Linear`` or GPT-2 ``Conv1D`` with named adapters, of which only ``active`` is applied.

    In a state dict: ``<path>.base.weight``, ``<path>.adapters.<name>.lora_A`` and ``.lora_B``.
    """

    def __init__(
        self,
        base: nn.Module,
        r: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        name: str = "default",
        generator: torch.Generator | None = None,
        rank_stabilised: bool = False,
        dora: bool = False,
        start: LoraStart = "kaiming",
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear | Conv1D | NF4Linear):
            raise UserError(f"LoRA cannot adapt a {type(base).__name__}: expected nn.Linear or GPT-2's Conv1D")
        self.transposed = isinstance(base, Conv1D) or (isinstance(base, NF4Linear) and base.transposed)  # (in, out)
        shape = tuple(base.weight.shape)
        self.in_features, self.out_features = shape if self.transposed else shape[::-1]
        self.base = base.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.add_adapter(name, r, alpha, dropout, generator, rank_stabilised, dora, start)
        self._active: Active = name
        self.train(base.training)

    @property
    def actives(self) -> Names:
        """The adapters that are used now: the choice of the present call (``choosing``), or else those set before."""
        found = _chosen.get().get(self, self._active)
        return () if found is None else (found,) if isinstance(found, str) else found

    @property
    def active(self) -> str | None:
        """The adapter that is used now, or None. UserError where several are."""
        names = self.actives
        if len(names) > 1:
            raise UserError(f"several adapters are active ({', '.join(names)}), and one is expected here")
        return names[0] if names else None

    @active.setter
    def active(self, names: Active) -> None:
        self._active = names

    def add_adapter(
        self,
        name: str,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        rank_stabilised: bool = False,
        dora: bool = False,
        start: LoraStart = "kaiming",
    ) -> None:
        """Add a trainable adapter. The active adapters stay active. PiSSA changes the base."""
        check_adapter_name(name)
        if name in self.adapters:
            raise UserError(f'the model already has an adapter "{name}"; choose another name or remove_adapter it')
        weight = self.base.weight
        new = Adapter(self.in_features, self.out_features, r, alpha, dropout, rank_stabilised, weight, generator)
        if start == "pissa":
            self._take_principal(new)
        if dora:
            with torch.no_grad():
                new.lora_magnitude = nn.Parameter(row_lengths(self.weight_OI + new.update_OI()))
        self.adapters[name] = new.train(self.base.training)

    @torch.no_grad()
    def _take_principal(self, new: Adapter) -> None:
        """Move the greatest singular directions of the base into ``new``."""
        if isinstance(self.base, NF4Linear):
            raise UserError("PiSSA takes a part out of the base, which has four bits already: take the usual start")
        if self.adapters:
            raise UserError("PiSSA changes the base, on which there is another adapter already: take the usual start")
        a_rI, b_Or = principal(self.weight_OI, new.r, new.scaling)
        new.lora_A.copy_(a_rI)
        new.lora_B.copy_(b_Or)
        new.start_A, new.start_B = new.lora_A.detach().clone(), new.lora_B.detach().clone()
        rest_OI = self.weight_OI - new.update_OI()
        self.base.weight.copy_(rest_OI.T if self.transposed else rest_OI)

    def adapter(self, name: str) -> Adapter:
        found = self.adapters[name]
        assert isinstance(found, Adapter)
        return found

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if (rows := _by_row.get()) is not None:
            for name, row_M in rows.items():
                if name in self.adapters:
                    out = out.index_add(0, row_M, self.added(self.adapter(name), x[row_M], out[row_M]))
            return out
        for adapter in map(self.adapter, self.actives):
            out = out + self.added(adapter, x, out)
        return out

    def added(self, adapter: Adapter, x: Tensor, out: Tensor) -> Tensor:
        """What ``adapter`` adds to ``out``, the result of the base for ``x``."""
        more = adapter(x) if adapter.lora_magnitude is None else self._magnified(x, out, adapter)
        return more.to(out.dtype)

    def _magnified(self, x: Tensor, out: Tensor, adapter: Adapter) -> Tensor:
        """What DoRA adds to ``out``, the base's result for x.  The lengths that are divided by have no gradient."""
        assert adapter.lora_magnitude is not None
        dropped = adapter.dropped(x)
        token = _without_dropout.set(True)  # the base and the update read the same x
        try:
            update = adapter(dropped)
        finally:
            _without_dropout.reset(token)
        plain = out if dropped is x else self.base(dropped)
        plain = plain if self.bias is None else plain - self.bias
        with torch.no_grad():
            length_O = row_lengths(self.weight_OI + adapter.update_OI())
        factor_O = adapter.lora_magnitude / length_O
        return (factor_O - 1) * plain + factor_O * update

    def merged_weight(self, names: str | Names) -> Tensor:
        """The base's weight with the adapters' updates, in the layout and dtype of the base. Sums are made in fp32."""
        merged_OI = self.weight_OI
        for adapter in map(self.adapter, (names,) if isinstance(names, str) else names):
            merged_OI = merged_OI + adapter.update_OI()
            if adapter.lora_magnitude is not None:
                merged_OI = (adapter.lora_magnitude / row_lengths(merged_OI))[:, None] * merged_OI
        return (merged_OI.T if self.transposed else merged_OI).to(self.base.weight.dtype)

    @torch.no_grad()
    def keep_in_four_bits(self, fresh: bool) -> None:
        """Keep the base in NF4. The lengths of a ``fresh`` DoRA adapter are then those of the rounded weight."""
        assert isinstance(self.base, nn.Linear | Conv1D)
        self.base = NF4Linear(self.base)
        for adapter in map(self.adapter, self.adapters if fresh else ()):
            if adapter.lora_magnitude is not None:
                adapter.lora_magnitude.copy_(row_lengths(self.weight_OI + adapter.update_OI()))

    @property
    def weight_OI(self) -> Tensor:
        """The base's weight, (out, in)."""
        return self.base.weight.T if self.transposed else self.base.weight

    @property
    def weight(self) -> Tensor:
        """The weight that is used now. Some models read the weight and do not call the layer (Mamba's ``dt_proj``)."""
        return self.merged_weight(self.actives) if self.actives else self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def extra_repr(self) -> str:
        return f"active={', '.join(self.actives) or None}"


def check_adapter_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in dir(nn.ModuleDict()):
        raise UserError(f'adapter name "{name}": expected letters, digits, "_" or "-", and no name that torch uses')


def check_settings(r: int, alpha: float, dropout: float) -> None:
    if r < 1:
        raise UserError(f"LoRA rank {r}: expected 1 or more")
    if not 0 < alpha < math.inf or not 0 <= dropout < 1:
        raise UserError(f"LoRA alpha {alpha}, dropout {dropout}: expected alpha > 0 and 0 <= dropout < 1")
