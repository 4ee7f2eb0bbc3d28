"""The one attention function of ours that transformers knows. It is put on a model for good.

A call may bring a way of attending with it: the pieces of packed trees, or the runs of a sampler's rows. Every other
call is transformers' own "sdpa". The way is held by the call's context and not by the model, so that calls of several
threads on one model do not see each other.
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
    """Let ``model`` attend by our function, if a plain call then gives the same bits as before."""
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
    """Within, models that have our function attend in this ``way``."""
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
