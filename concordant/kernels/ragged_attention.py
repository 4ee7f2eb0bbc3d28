"""Decoding attention that reads no more of the cache than each group of rows has filled.

The attention of one token costs as much as the keys and values that it reads, and rows of mixed lengths would all be
read to the end of the longest. The rows lie in the cache roughly longest first. So the rows are cut in a few runs, and
each run is attended up to its own longest row. The arithmetic is transformers' own ("sdpa"), called once a run.

R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from concordant.kernels import attention

ROWS = 4  # rows looked at together; finer runs cost more calls than they save reading
WASTE = 256  # cells (row × column) read for nothing that cost about as much as one more call


@dataclass(slots=True)
class Run:
    """Neighbouring rows attended to one span."""

    first: int
    last: int  # one past the end
    span: int  # columns, at least the longest row's


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


def attending(runs: Sequence[Run]) -> AbstractContextManager[None]:
    """Within, a model that has our attention function attends one token a row in ``runs``."""
    return attention.attending(partial(_attend, runs))


def _attend(
    runs: Sequence[Run],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **settings: Any,
) -> Tensor:
    parts = [
        sdpa_attention_forward(
            module,
            query[run.first : run.last],
            key[run.first : run.last, :, : run.span],
            value[run.first : run.last, :, : run.span],
            attention_mask[run.first : run.last, :, :, : run.span],
            **settings,
        )[0]
        for run in runs
    ]
    return torch.cat(parts)
