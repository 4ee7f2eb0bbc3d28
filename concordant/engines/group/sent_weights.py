"""Weights on their way from a learner's ranks to the ranks of another team."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concordant.engines.protocol import Adapters, Weights


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A tensor as an array of uint8, which processes of one host can share without a copy."""

    array: Any  # numpy, 1-D uint8
    dtype: torch.dtype
    shape: tuple[int, ...]

    def tensor(self) -> Tensor:
        with warnings.catch_warnings():  # shared memory is read-only, and this tensor is only copied from
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self.array).view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class SentWeights:
    """A learner's weights after ``version`` optimizer steps, by name, as plain bytes. It is a ``Weights``."""

    version: int
    adapters: Adapters
    parts: Mapping[str, _Bytes]  # tensors that share their memory, as tied embeddings do, share the array

    @classmethod
    def of(cls, weights: Weights) -> SentWeights:
        parts: dict[str, _Bytes] = {}
        by_place: dict[tuple[int, torch.Size, torch.dtype], _Bytes] = {}
        for name, tensor in weights.tensors.items():
            place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
            if place not in by_place or not tensor.numel():
                flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
                by_place[place] = _Bytes(flat, tensor.dtype, tuple(tensor.shape))
            parts[name] = by_place[place]
        return cls(weights.version, weights.adapters, parts)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {name: part.tensor() for name, part in self.parts.items()}

    @property
    def bytes(self) -> int:
        """Bytes of all tensors, shared memory counted once."""
        arrays = {id(part.array): part.array for part in self.parts.values()}
        return sum(array.nbytes for array in arrays.values())
