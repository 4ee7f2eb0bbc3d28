"""One linear layer and its low-rank adapters (Hu et al. 2021, arXiv:2106.09685).

    y = base(x) + alpha / r · B A x        A (r, in) random, B (out, r) zero at the start

If no adapter is active, the layer gives the same bits as its base. So the reference model needs no memory of its own.

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

from concordant.core.errors import UserError
from concordant.core.seeding import torch_stream

# Settings of the present call. Each thread has its own, also where several threads call one model at once.
_chosen: ContextVar[Mapping[LoRALinear, str | None]] = ContextVar("adapters of the present call", default={})  # noqa: B039
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
def choosing(adapters: Mapping[LoRALinear, str | None]) -> Iterator[None]:
    """Inside the block, each of these layers uses the given adapter, or none, instead of its active adapter."""
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

    Both are fp32 for every dtype of the base, because a bf16 weight rounds a step of 1e-6 away.
    """

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

    @property
    def scaling(self) -> float:
        """alpha / r; alpha / sqrt(r) when rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.r) if self.rank_stabilised else self.r)

    def forward(self, x: Tensor, linear: Callable[[Tensor, Tensor], Tensor] = F.linear) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_A.dtype)
        if not _without_dropout.get():
            x = self.dropout(x)
        return linear(linear(x, self.lora_A) * self.scaling, self.lora_B)

    def update_OI(self) -> Tensor:
        """The matrix that the adapter adds to a weight of shape (out, in)."""
        with torch.autocast(self.lora_A.device.type, enabled=False):
            return self.lora_B @ self.lora_A * self.scaling


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
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear | Conv1D):
            raise UserError(f"LoRA cannot adapt a {type(base).__name__}: expected nn.Linear or GPT-2's Conv1D")
        self.transposed = isinstance(base, Conv1D)  # Conv1D keeps (in, out)
        shape = tuple(base.weight.shape)
        self.in_features, self.out_features = shape if self.transposed else shape[::-1]
        self.base = base.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.add_adapter(name, r, alpha, dropout, generator, rank_stabilised)
        self._active: str | None = name
        self.train(base.training)

    @property
    def active(self) -> str | None:
        """The adapter that is used now: the choice of the present call (``choosing``), or else the one that was set."""
        return _chosen.get().get(self, self._active)

    @active.setter
    def active(self, name: str | None) -> None:
        self._active = name

    def add_adapter(
        self,
        name: str,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        rank_stabilised: bool = False,
    ) -> None:
        """Add a trainable adapter. The active adapter stays active."""
        check_adapter_name(name)
        if name in self.adapters:
            raise UserError(f'the model already has an adapter "{name}"; choose another name or remove_adapter it')
        weight = self.base.weight
        new = Adapter(self.in_features, self.out_features, r, alpha, dropout, rank_stabilised, weight, generator)
        self.adapters[name] = new.train(self.base.training)

    def adapter(self, name: str) -> Adapter:
        found = self.adapters[name]
        assert isinstance(found, Adapter)
        return found

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if (rows := _by_row.get()) is not None:
            for name, row_M in rows.items():
                if name in self.adapters:
                    out = out.index_add(0, row_M, self.adapter(name)(x[row_M]).to(out.dtype))
            return out
        if self.active is None:
            return out
        return out + self.adapter(self.active)(x).to(out.dtype)

    def merged_weight(self, name: str) -> Tensor:
        """The base's weight plus the adapter's update, in the layout and dtype of the base. The sum is made in fp32."""
        update = self.adapter(name).update_OI()
        weight = self.base.weight
        return (weight + (update.T if self.transposed else update)).to(weight.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight that is used now. Some models read the weight and do not call the layer (Mamba's ``dt_proj``)."""
        return self.base.weight if self.active is None else self.merged_weight(self.active)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def extra_repr(self) -> str:
        return f"active={self.active}"


def check_adapter_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in dir(nn.ModuleDict()):
        raise UserError(f'adapter name "{name}": expected letters, digits, "_" or "-", and no name that torch uses')


def check_settings(r: int, alpha: float, dropout: float) -> None:
    if r < 1:
        raise UserError(f"LoRA rank {r}: expected 1 or more")
    if not 0 < alpha < math.inf or not 0 <= dropout < 1:
        raise UserError(f"LoRA alpha {alpha}, dropout {dropout}: expected alpha > 0 and 0 <= dropout < 1")
