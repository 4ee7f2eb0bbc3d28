"""Bytes that a rank gathers where data-parallel ranks divide the weights (engines/local/sharding.py).

A layer is gathered before it computes, in autocast's dtype, so its products need no other copy. The *root* is what is
outside of the layers: embeddings, final norm and head. It is gathered in fp32 and is whole during a whole pass.
"""

from __future__ import annotations

import math

from concordant.planning.work import BF16, FP32, Setup, Work


def _layers(work: Work, setup: Setup) -> int:
    return math.ceil(work.shape.layers / setup.pipeline)


def _number(work: Work) -> int:
    """Bytes of a number of a gathered layer."""
    return BF16 if work.bf16 else FP32


def _adapters(work: Work, setup: Setup) -> float:
    """Weights of the adapters of a layer."""
    return work.shape.adapters(work.rank, setup.tensor, setup.pipeline) / _layers(work, setup)


def layer_bytes(work: Work, setup: Setup) -> float:
    """Of a layer, with its adapters."""
    return _number(work) * (work.shape.layer(setup.tensor) + _adapters(work, setup))


def root_bytes(work: Work, setup: Setup) -> float:
    whole = work.shape.weights(setup.tensor, setup.pipeline, work.has_head)
    return FP32 * (whole - _layers(work, setup) * work.shape.layer(setup.tensor))


def gathered(work: Work, setup: Setup) -> float:
    """Of the root and two layers in a pass: the layer in work, and the next one."""
    return root_bytes(work, setup) + 2 * layer_bytes(work, setup)


def whole_model(work: Work, setup: Setup) -> float:
    """Of the root and all layers, which the sampler reads."""
    return root_bytes(work, setup) + _layers(work, setup) * layer_bytes(work, setup)


def gradients_of_gathered(work: Work, setup: Setup) -> float:
    """Of the gradients in a pass. Those of the root come first, beside all activations, and live until the pass ends.

    Those of a layer are in the dtype of the layer, and in fp32 in the buffer that is summed over the ranks.
    """
    numbers = _number(work) + FP32
    if work.rank:  # only adapters are trained, and the root has none
        return numbers * _adapters(work, setup)
    return root_bytes(work, setup) + numbers * work.shape.layer(setup.tensor)


def copies_beside(work: Work, setup: Setup) -> float:
    """Of autocast's copy of the head, which is gathered in fp32. The embedding is looked up, and needs none."""
    return BF16 * work.shape.embedding / setup.tensor * (work.bf16 and work.has_head)
