"""A frozen base in four bits: QLoRA (Dettmers et al. 2023, 2305.14314), with NF4 by bitsandbytes.

The weights of the backbone's linear layers are kept as NF4: four bits each, and a scale for every 64 of them. Embedding
and output layer are kept in bf16. A weight is made whole only for the time of its product, forward and backward, so
neither autograd nor a kernel keeps it. Adapters are fp32, as always.

I inputs, O outputs, V vocabulary, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from concordant.core.errors import UserError
from concordant.models.peft_base import is_replaced

BLOCK = 64  # weights that share a scale
ROWS = 4096  # rows of a table that are made fp32 at once


def functional() -> ModuleType:
    """bitsandbytes' functions. UserError if the package is missing."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not needed here
    try:
        import bitsandbytes.functional as found
    except ImportError as problem:
        raise UserError(
            "model.quantize nf4 needs the package bitsandbytes: pip install 'concordant[qlora]'"
        ) from problem
    return found


class NF4Linear(nn.Module):
    """A frozen linear layer whose weight is kept in four bits. ``weight`` has the layout of the layer it replaces."""

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.transposed = isinstance(layer, Conv1D)  # Conv1D keeps (in, out)
        weight_OI = layer.weight.detach().float()
        weight_OI = weight_OI.T.contiguous() if self.transposed else weight_OI
        self.out_features, self.in_features = weight_OI.shape
        packed, state = functional().quantize_4bit(_in_blocks(weight_OI), blocksize=BLOCK, quant_type="nf4")
        for name, value in (("packed", packed), ("scales", state.absmax), ("code", state.code.to(packed.device))):
            self.register_buffer(name, value, persistent=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().float(), requires_grad=False)
        self.train(layer.training)

    packed: Tensor
    scales: Tensor
    code: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self, self.bias)

    def whole(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the four bits stand for, (O, I)."""
        library = functional()
        state = library.QuantState(
            absmax=self.scales,
            shape=torch.Size((len(self.scales), BLOCK)),
            code=self.code,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
        )
        flat = library.dequantize_4bit(self.packed, state).flatten()[: self.out_features * self.in_features]
        return flat.view(self.out_features, self.in_features).to(dtype)

    @property
    def weight(self) -> Tensor:
        """The weight in fp32, made anew at every call; a change of it is lost."""
        return self.whole().T if self.transposed else self.whole()

    def plain(self) -> nn.Linear | Conv1D:
        """A layer of the kind that this one replaced, frozen, with the weight in fp32."""
        with torch.device(self.packed.device):
            made = (
                Conv1D(self.out_features, self.in_features)
                if self.transposed
                else nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
            )
        with torch.no_grad():
            made.weight.copy_(self.weight)
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.requires_grad_(False).train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, nf4"


def _in_blocks(weight_OI: Tensor) -> Tensor:
    """The weights in rows of one block each, the last filled up with zeros.

    On a CPU bitsandbytes 0.50 reads wrong scales back where the rows of an even length are no multiple of a block.
    """
    flat = weight_OI.flatten()
    return F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)


class _Product(torch.autograd.Function):
    """y = x Wᵀ + b. The weight is made whole in both passes, and not kept between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear, bias: Tensor | None) -> Tensor:
        dtype = factors(x)
        ctx.layer, ctx.dtype, ctx.given = layer, dtype, x.dtype
        return F.linear(x.to(dtype), layer.whole(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return (grad.to(ctx.dtype) @ ctx.layer.whole(ctx.dtype)).to(ctx.given), None, None


def factors(x: Tensor) -> torch.dtype:
    """The dtype of the factors of a product with ``x``: autocast's, or that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class Table(nn.Module):
    """A frozen embedding in bf16, read as fp32."""

    stored: Tensor

    def __init__(self, stored_VH: Tensor) -> None:
        super().__init__()
        self.register_buffer("stored", stored_VH, persistent=False)

    @property
    def weight(self) -> Tensor:
        return self.stored

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.stored).float()


class TableHead(nn.Module):
    """A frozen output layer in bf16, which may be the embedding's table. Products with fp32 stay fp32."""

    stored: Tensor

    def __init__(self, stored_VH: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("stored", stored_VH, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self.out_features, self.in_features = stored_VH.shape

    @property
    def weight(self) -> Tensor:
        return self.stored

    def forward(self, hidden: Tensor) -> Tensor:
        logits = _TableProduct.apply(hidden, self.stored)
        return logits if self.bias is None else logits + self.bias.to(logits.dtype)


class _TableProduct(torch.autograd.Function):
    """y = x Wᵀ with some rows of W at a time in the dtype of the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored_VH: Tensor) -> Tensor:
        ctx.save_for_backward(stored_VH)
        ctx.dtype, ctx.given = factors(x), x.dtype
        out = x.new_empty(*x.shape[:-1], len(stored_VH), dtype=ctx.dtype)
        for at in range(0, len(stored_VH), ROWS):
            rows = slice(at, at + ROWS)
            out[..., rows] = F.linear(x.to(ctx.dtype), stored_VH[rows].to(ctx.dtype))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (stored_VH,) = ctx.saved_tensors
        summed = grad.new_zeros(*grad.shape[:-1], stored_VH.shape[1], dtype=torch.float32)
        for at in range(0, len(stored_VH), ROWS):
            rows = slice(at, at + ROWS)
            summed += grad[..., rows].to(ctx.dtype) @ stored_VH[rows].to(ctx.dtype)
        return summed.to(ctx.given), None


def keep_tables_in_bf16(model: PreTrainedModel) -> None:
    """Keep the embedding of tokens, and the output layer of a language model, in bf16.

    An embedding that an adapter brought stays as it is, and so does one that another module shares.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, nn.Embedding) or is_replaced(table) or table.weight.requires_grad:
        return
    owners = [m for m in model.modules() if getattr(m, "_parameters", {}).get("weight") is table.weight]
    if any(owner is not table and owner is not head for owner in owners):
        return
    stored = table.weight.detach().to(torch.bfloat16)
    if isinstance(head, nn.Linear) and not is_replaced(head) and not head.weight.requires_grad:
        own = stored if head.weight is table.weight else head.weight.detach().to(torch.bfloat16)
        model.set_output_embeddings(TableHead(own, head.bias))
    model.set_input_embeddings(Table(stored))


def whole_weights(model: nn.Module, wrapped: Collection[str], merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in few bits, which are in no state dict, as fp32 by their plain names; shared ones once.

    ``wrapped`` are the paths of layers with adapters, and ``merged`` the weights of some of them with the updates.
    """
    found: dict[str, Tensor] = {}
    tables: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        outer = path.removesuffix(".base")
        name = outer if path.endswith(".base") and outer in wrapped else path
        if isinstance(module, NF4Linear):
            found[f"{name}.weight"] = merged[name] if name in merged else module.weight  # noqa: SIM401 (made anew)
        elif isinstance(module, Table | TableHead):
            found[f"{name}.weight"] = tables.setdefault(module.stored.data_ptr(), module.stored.float())
    return found


def hidden_weights(model: nn.Module) -> int:
    """The number of weights that are no parameters of PyTorch, because they are kept in few bits; shared ones once."""
    sizes = {}
    for module in model.modules():
        if isinstance(module, NF4Linear):
            sizes[module.packed.data_ptr()] = module.in_features * module.out_features
        elif isinstance(module, Table | TableHead):
            sizes[module.stored.data_ptr()] = module.stored.numel()
    return sum(sizes.values())


def bytes_of_base(model: nn.Module) -> int:
    """Bytes of all weights but those of adapters, each once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    kept = {t.data_ptr(): t.numel() * t.element_size() for name, t in named if ".adapters." not in name}
    return sum(kept.values())
