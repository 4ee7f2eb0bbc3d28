"""Decoding attention that reads no more of the cache than each group of rows has filled.

One token's attention costs what reading keys and values costs, and rows of mixed lengths would all
be read to the end of the longest. Rows lie in the cache roughly longest first, so cutting them in a
few runs, each attended to its own longest row, avoids most of that. The arithmetic stays
transformers' own ("sdpa"), called once a run.

R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "concordant_ragged"
ROWS = 4  # rows looked at together; finer runs cost more calls than they save reading
WASTE = 256  # cells (row × column) read for nothing that cost about as much as one more call


@dataclass(slots=True)
class Run:
    """Neighbouring rows attended to one span."""

    first: int
    last: int  # one past the end
    span: int  # columns, at least the longest row's


_runs: ContextVar[Sequence[Run]] = ContextVar("runs")


def cut(lengths: Sequence[int], allowed: int = WASTE) -> list[Run]:
    """Runs of rows of like length, each with its longest row as span and ``allowed`` cells of waste at most."""
    runs: list[Run] = []
    waste = 0
    for first in range(0, len(lengths), ROWS):
        last = min(first + ROWS, len(lengths))
        span = max(lengths[first:last])
        if runs:
            run = runs[-1]
            joint = max(run.span, span)
            more = (joint - run.span) * (run.last - run.first) + (joint - span) * (last - first)
            if waste + more <= allowed:
                waste += more
                run.last, run.span = last, joint
                continue
        runs.append(Run(first, last, span))
        waste = 0
    return runs


def can_run(config: PretrainedConfig, device: torch.device) -> bool:
    """On a GPU several small kernels cost more than reading masked columns does."""
    return device.type == "cpu" and config._attn_implementation == "sdpa"


@contextmanager
def ragged(config: PretrainedConfig, runs: Sequence[Run]) -> Iterator[None]:
    """Within, a model of this configuration attends in ``runs``; one token a row."""
    own = config._attn_implementation
    token = _runs.set(runs)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = own
        _runs.reset(token)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **settings: Any
) -> tuple[Tensor, None]:
    parts = [
        sdpa_attention_forward(
            module,
            query[run.first : run.last],
            key[run.first : run.last, :, : run.span],
            value[run.first : run.last, :, : run.span],
            attention_mask[run.first : run.last, :, :, : run.span],
            **settings,
        )[0]
        for run in _runs.get()
    ]
    return torch.cat(parts), None


AttentionInterface.register(NAME, _attend)
