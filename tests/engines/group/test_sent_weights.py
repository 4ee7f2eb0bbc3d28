"""Weights on their way between processes keep every bit, and shared memory travels once."""

import pickle
from dataclasses import dataclass

import torch

from concordant.engines.group.sent_weights import SentWeights


@dataclass
class Published:
    tensors: dict
    version: int = 7
    adapters: str = "merged"


def test_every_dtype_and_shape_arrives_with_its_bits():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "matrix": torch.randn(3, 5, generator=generator),
        "turned": torch.randn(3, 5, generator=generator).T,
        "half": torch.randn(4, generator=generator).bfloat16(),
        "number": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
        "nan": torch.tensor([float("nan"), -0.0]),
    }
    arrived = pickle.loads(pickle.dumps(SentWeights.of(Published(tensors))))
    assert (arrived.version, arrived.adapters) == (7, "merged")
    for name, tensor in tensors.items():
        found = arrived.tensors[name]
        assert found.shape == tensor.shape and found.dtype == tensor.dtype
        assert found.contiguous().view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8))


def test_tied_tensors_travel_once():
    table = torch.arange(6.0).view(2, 3)
    sent = SentWeights.of(Published({"embed": table, "head": table, "part": table[0]}))
    assert sent.bytes == 4 * (6 + 3)
    assert sent.tensors["head"].equal(table) and sent.tensors["part"].equal(table[0])
