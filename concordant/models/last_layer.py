"""The last layer, run for those positions alone whose hidden state is read.

Other tokens need their keys and values there and nothing after them: no query, no output projection, no MLP. Where
prompts are two thirds of the tokens, that is a twelfth of a six-layer model's products, and of what autograd keeps.

N positions read, T positions of all rows, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from concordant.models.lora_layer import LoRALinear

WORTH = 2**24  # multiply-adds left out, all experts of a mixture counted; fewer cost less than leaving them out does
# Of a decoder layer: what gives each position a number that no other position's needs, by its usual names. A model is
# believed to mean that by them only once ``layout.py`` has seen it.
CANDIDATES = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attn.c_proj")
PROVED = "concordant_position_wise"


def rows_at(x_TH: Tensor, at_N: Tensor) -> Tensor:
    """``x_TH[at_N]``, (N, H), with a gradient that is the same to the bit however many threads there are.

    A trunk's end predicts the first token of all its branches. The gradient of plain indexing adds their parts up in
    whatever order threads come; that of an embedding, which this is, takes them in turn, and a seventh of the time.
    """
    return F.embedding(at_N, x_TH)


@contextmanager
def reading(backbone: nn.Module, positions: int, at_N: Tensor) -> Iterator[None]:
    """Within, ``backbone`` computes its last layer's position-wise parts at ``at_N`` of its ``positions`` alone.

    ``at_N``: indices into the flattened rows, in any order, repeated or not. Elsewhere the final hidden states are
    finite and mean nothing.
    """
    parts = [part for part in candidates(backbone) if PROVED in vars(_bearer(part))]
    weights = sum(p.numel() for part in parts for p in part.parameters())
    if (positions - len(at_N)) * weights < WORTH:
        yield
        return
    is_read_T = torch.zeros(positions, dtype=torch.bool, device=at_N.device).index_fill_(0, at_N, True)
    with only_at(parts, is_read_T.nonzero().squeeze(1)):
        yield


def prove(backbone: nn.Module, is_exact: Callable[[Sequence[nn.Module]], bool]) -> None:
    """Mark the parts of the last layer that may be narrowed, if ``is_exact`` says so of them together.

    A mark stays with copies of the model, and with a linear layer that an adapter is put around.
    """
    parts = candidates(backbone)
    if parts and is_exact(parts):
        for part in parts:
            setattr(_bearer(part), PROVED, True)


def _bearer(part: nn.Module) -> nn.Module:
    """Where a part's mark is: what an adapter is around was there before it."""
    return part.base if isinstance(part, LoRALinear) else part


def candidates(backbone: nn.Module) -> list[nn.Module]:
    """Parts of the last layer that may be position-wise; none where an architecture calls them otherwise."""
    layers = [child for child in backbone.children() if isinstance(child, nn.ModuleList) and len(child)]
    if len(layers) != 1:
        return []
    parts = dict(layers[0][-1].named_modules())
    return [parts[name] for name in CANDIDATES if name in parts]


@contextmanager
def only_at(parts: Sequence[nn.Module], at_N: Tensor) -> Iterator[None]:
    """Within, each of ``parts`` is run at ``at_N``, indices into the flattened rows without repetition; 0 elsewhere."""
    with ExitStack() as hooks:
        for part in parts:
            _narrow(part, at_N, hooks)
        yield


def _narrow(part: nn.Module, at_N: Tensor, hooks: ExitStack) -> None:
    shape = torch.Size()  # of what the part was given

    def take(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        nonlocal shape
        (whole,) = given
        shape = whole.shape
        return rows_at(whole.flatten(0, -2), at_N)[None]

    def put(_: nn.Module, __: object, out_1NK: Tensor) -> Tensor:
        (out_NK,) = out_1NK
        whole_TK = out_NK.new_zeros(shape[:-1].numel(), out_NK.shape[1])
        return whole_TK.index_copy(0, at_N, out_NK).view(*shape[:-1], -1)

    hooks.callback(part.register_forward_pre_hook(take).remove)
    hooks.callback(part.register_forward_hook(put).remove)
