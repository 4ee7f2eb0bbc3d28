"""Blocks of rows of a matrix of logits, so that a CPU works on what its cache holds."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

BLOCK_ELEMENTS = 2**18  # logits that a CPU handles at once: 1 MiB in fp32


def row_blocks(logits_CV: Tensor) -> Iterator[slice]:
    """Blocks of rows that fit in a core's cache; on a GPU one block with all rows."""
    rows, vocabulary = logits_CV.shape
    size = max(1, BLOCK_ELEMENTS // max(vocabulary, 1)) if logits_CV.device.type == "cpu" else max(rows, 1)
    return (slice(at, at + size) for at in range(0, rows, size))
