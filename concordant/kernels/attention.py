"""The one attention function of this package that transformers knows. A model gets the function for good.

A call may choose a way of attending: the segments of packed trees, or the row groups of a sampler. Every other call is
transformers' own "sdpa". The call's context holds the way, and not the model, so that several threads can use one
model at once and each keeps its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from concordant.models.backbone import REFUSALS, run_backbone, undisturbed
from concordant.models.trial import two_rows

NAME = "concordant"
Way = Callable[..., Tensor]  # (module, query, key, value, mask, **settings) -> attended values

_way: ContextVar[Way | None] = ContextVar("the present call's way of attending", default=None)


def put_on(model: PreTrainedModel) -> bool:
    """Make ``model`` use our attention function, if a plain call then gives the same bits as before."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return False
    rows, _ = two_rows(model)
    with undisturbed(model):
        wanted = run_backbone(model, rows)
        config._attn_implementation = NAME
        try:
            if torch.equal(run_backbone(model, rows), wanted):
                return True
        except REFUSALS:
            pass
    config._attn_implementation = "sdpa"
    return False


@contextmanager
def attending(way: Way) -> Iterator[None]:
    """Inside the block, models that have our attention function attend in this ``way``."""
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    way = _way.get()
    if way is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return way(module, query, key, value, attention_mask, **settings), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
