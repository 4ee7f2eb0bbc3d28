"""The norm of a gradient of which each process has parts: every weight is counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from concordant.engines.ranks import Ranks
from concordant.engines.tensor.cuts import Part


@torch.no_grad()
def clip(parameters: Sequence[Tensor], pieces: Mapping[int, Part], ranks: Ranks, limit: float) -> float:
    """Shorten the gradient of ``parameters`` to the norm ``limit``. Returns the norm before that.

    ``pieces`` has the weights of which a tensor group or a pipeline has the parts, by id; sharded weights are parts of
    these parts. With a fixed order of sums, parts are made whole, one after another, because a norm that is summed in
    parts has other bits.
    """
    if not (pieces or ranks.sharded) or all(p.grad is None for p in parameters):
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True))
    having = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in having if p.grad is not None]
    if ranks.in_order:
        wholes = (pieces[id(p)].whole(g) if id(p) in pieces else g for p, g in zip(having, gradients, strict=True))
        norms_W = torch.stack([torch.linalg.vector_norm(g) for g in wholes])
    else:
        held = [pieces.get(id(p)) for p in having]
        is_part_W = torch.tensor([part is not None and part.is_split for part in held], device=gradients[0].device)
        counts_W = torch.tensor([part is None or part.counts for part in held], device=gradients[0].device)
        squares_W = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).double().square()
        squares_W = ranks.sum(squares_W) if ranks.sharded else squares_W
        summed_W = ranks.tensor.sum(squares_W.masked_fill(~is_part_W, 0.0))
        squares_W = torch.where(is_part_W, summed_W, squares_W)
        norms_W = ranks.stages.sum(squares_W.masked_fill(~counts_W, 0.0)).sqrt()
    norm = torch.linalg.vector_norm(norms_W).float()
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
    return float(norm)
