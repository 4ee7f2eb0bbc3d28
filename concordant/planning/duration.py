"""Seconds of one step.

A pass is products, attention, the moving of what the layers keep, and the starting of operations. The time of a step is
the sum over its passes, of the optimizer, of the sampling of responses, and of the transfers between ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from concordant.planning.gathered import root_bytes, whole_model
from concordant.planning.hardware import Machine
from concordant.planning.memory import (
    KEPT_ELEMENTS,
    cache_bytes,
    critic_trained,
    gathered_weights,
    kept,
    row_share,
    trained_of,
)
from concordant.planning.shapes import Shape
from concordant.planning.work import BF16, CPU_FORWARD, FP32, GPU_FORWARD, Setup, Work

OPTIMIZER_BYTES = 40  # moved for each trained weight: clipping reads, then scales; AdamW reads four and writes three
PARTS = ("products", "attention", "moving", "starting", "optimizer", "sampling", "transfers", "waiting")


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a step by part. ``products`` … ``starting`` are those of all passes over trees."""

    parts: dict[str, float]
    operations: float  # floating-point operations of all products and attention, on one rank

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a network does with the trees of a rank in one step."""

    shape: Shape
    head: bool
    backward: float  # operations of the backward pass for each one of the forward pass; 0: no gradient
    times: float  # how often the trees are read


def duration_of(work: Work, setup: Setup, machine: Machine) -> Duration:
    """The time of a step on the slowest rank."""
    parts = dict.fromkeys(PARTS, 0.0)
    operations = 0.0
    for one in _passes(work):
        seconds, done = _seconds(one, work, setup, machine)
        operations += done
        for name, value in seconds.items():
            parts[name] += value
    parts["optimizer"] = _optimizer(work, setup, machine)
    if work.samples:
        parts["sampling"] = _all_sampling(work, setup, machine)
    parts["transfers"] = _transfers(work, setup, machine)
    learning = parts["products"] + parts["attention"] + parts["moving"] + parts["starting"]
    many = setup.micro_batches(work, not machine.is_gpu)
    parts["waiting"] = learning * (setup.pipeline - 1) / many  # the bubble of the pipeline
    return Duration(parts, operations)


def _passes(work: Work) -> list[_Pass]:
    backward = 1.0 if work.rank else 2.0  # frozen weights need no gradient
    if not work.samples:
        return [_Pass(work.shape, work.has_head, backward, 1)]
    if work.teacher:
        return [_Pass(work.shape, True, backward, 1), _Pass(work.teacher, True, 0.0, 1)]
    epochs = work.inner_epochs
    found = [
        _Pass(work.shape, True, 0.0, 2),  # log-probs of the policy and of the reference
        _Pass(work.shape, True, backward, epochs),
    ]
    if work.has_critic:
        own = work.whole_critic or work.shape
        of_critic = 2.0 if work.whole_critic else backward
        found += [_Pass(own, False, 0.0, 1), _Pass(own, False, of_critic, epochs)]
    if work.reward_shape:
        found.append(_Pass(work.reward_shape, False, 0.0, 1))
    return found


def forward_operations(shape: Shape, tokens: float, read: float) -> tuple[float, float]:
    """Floating-point operations of the layers' products, and of the head if it reads ``read`` positions.

    In the last layer, queries, output projection and MLP are computed only at positions that are read.
    """
    narrow = 2 * shape.hidden * shape.keys  # keys and values of every token
    last = 2 * (narrow * tokens + (shape.layer_matrices - narrow) * min(read, tokens))
    return 2 * shape.layer_matrices * (shape.layers - 1) * tokens + last, 2 * shape.embedding * read


def _seconds(one: _Pass, work: Work, setup: Setup, machine: Machine) -> tuple[dict[str, float], float]:
    trees = setup.trees_of_rank(work)
    tokens, read = trees * work.tree.tokens, trees * work.read
    share = setup.tensor * setup.pipeline
    layers, head = (x / share for x in forward_operations(one.shape, tokens, read))
    pairs = work.tree.seen_pairs + row_share(one.shape, machine) * (work.tree.tokens**2 - work.tree.seen_pairs)
    attention = 4 * one.shape.queries * pairs * trees * one.shape.layers / share
    again = 1.0 if setup.recompute and one.backward else 0.0
    packed = not machine.is_gpu
    at_once = setup.trees_at_once(work, packed) * work.read * one.shape.vocabulary / setup.tensor
    head_again = 1.0 if one.backward and at_once > KEPT_ELEMENTS else 0.0
    products = layers * (1 + one.backward + again)
    products += head * (1 + one.backward + head_again) if one.head else 0.0
    attended = attention * ((1 + again) + (2.5 if one.backward else 0.0))  # the backward pass computes scores again
    peak = machine["peak_bf16" if work.bf16 else "peak_fp32"]
    bandwidth = machine["bandwidth"] * machine["bandwidth_reached"]
    moved = kept(one.shape, machine.is_gpu, work.bf16, work.rank, setup.tensor) * one.shape.layers / setup.pipeline
    third = machine["passes"] / 3
    moved *= third * ((1 + again) + (2 if one.backward else 0)) * tokens
    seconds = {
        "products": products / (peak * machine["reached"]),
        "attention": attended / (peak * machine["attention_reached"]),
        "moving": moved / bandwidth,
    }
    seconds["starting"] = _starting(one, again, sum(seconds.values()), work, setup, machine)
    return {name: one.times * value for name, value in seconds.items()}, one.times * (products + attended)


def _starting(one: _Pass, again: float, running: float, work: Work, setup: Setup, machine: Machine) -> float:
    """Seconds for starting operations, beyond the time in which earlier operations run."""
    packed = not machine.is_gpu
    if one.backward:
        many = setup.micro_batches(work, packed) * work.minibatches
    else:
        limit = GPU_FORWARD if machine.is_gpu else CPU_FORWARD
        many = math.ceil(setup.trees_of_rank(work) / max(1, limit // work.tree.tokens))
    factor = 1 + again + (1 if one.backward else 0)
    starts = many * factor * machine["operations"] * machine["launch"] * one.shape.layers / setup.pipeline
    return max(0.0, starts - machine["overlaps"] * running)


def _optimizer(work: Work, setup: Setup, machine: Machine) -> float:
    trained = trained_of(work, setup) + (critic_trained(work, setup) if work.has_critic else 0.0)
    steps = work.inner_epochs * work.minibatches
    bandwidth = machine["host_bandwidth" if setup.offload else "bandwidth"]
    return steps * OPTIMIZER_BYTES * trained / (bandwidth * machine["bandwidth_reached"])


def _all_sampling(work: Work, setup: Setup, machine: Machine) -> float:
    """The sampling of a step. Of distill, student and teacher answer half of the prompts each, one after the other."""
    if not work.teacher:
        return sampling_seconds(work, setup, machine)
    half = replace(work, trees=math.ceil(work.trees / 2))
    return sum(sampling_seconds(replace(half, shape=shape), setup, machine) for shape in (work.shape, work.teacher))


def sampling_seconds(work: Work, setup: Setup, machine: Machine) -> float:
    """Reading the prompts once, and then one pass of all slots for each sampled token."""
    shape = work.shape
    responses = setup.trees_of_stage(work) * work.tree.branches
    rows = min(work.slots, responses)
    waves = math.ceil(responses / work.slots)
    peak = machine["peak_bf16" if work.bf16 else "peak_fp32"]
    bandwidth = machine["bandwidth"] * machine["bandwidth_reached"]
    prompts = setup.trees_of_stage(work) * work.tree.prompt
    reading = forward_operations(shape, prompts, 0)[0] / setup.tensor / (peak * machine["reached"])
    products = (shape.layer_matrices * shape.layers + shape.embedding) / setup.tensor
    columns = work.tree.prompt + work.tree.response / 2
    weight = FP32 if not (work.bf16 and machine.is_gpu) else BF16 if not work.rank else 2 * FP32
    moved = weight * products + rows * columns * cache_bytes(shape, work.bf16, setup)
    step = max(2 * products * rows / (peak * machine["decode_reached"]), moved / bandwidth)
    starts = machine["operations"] * machine["launch"] * shape.layers
    step = max(step, starts) if machine["overlaps"] else step + starts
    step += _all_reduce(2 * shape.layers * rows * shape.hidden * BF16, setup.tensor, machine, inside=True)
    return reading + waves * work.tree.response * step


# -- transfers ---------------------------------------------------------------------------------------


def _rate(machine: Machine, inside: bool) -> float:
    return machine["link" if inside else "network"] * machine["transfer_reached"]


def _all_reduce(size: float, ranks: int, machine: Machine, inside: bool) -> float:
    """A ring: every rank sends and receives the whole twice, but for its own part."""
    return 2 * (ranks - 1) / ranks * size / _rate(machine, inside)


def _gather(size: float, ranks: int, machine: Machine, inside: bool) -> float:
    return (ranks - 1) / ranks * size / _rate(machine, inside)


def _transfers(work: Work, setup: Setup, machine: Machine) -> float:
    data_inside = setup.data * setup.tensor <= machine["node"]
    shape = work.shape
    trained = work.shape.adapters(work.rank, setup.tensor, setup.pipeline) if work.rank else None
    whole = shape.weights(setup.tensor, setup.pipeline, work.has_head)
    steps = work.inner_epochs * work.minibatches
    packed = not machine.is_gpu
    passes = steps * setup.micro_batches(work, packed)
    networks = 2 if work.has_critic else 1
    exposed = 1 - machine["hidden_transfer"]
    seconds = 0.0
    if setup.data > 1:
        gradients = FP32 * (whole if trained is None else trained)
        if setup.sharded:
            # Layers are gathered for the forward and again for the backward pass; the root stays between the two.
            root, all_weights = root_bytes(work, setup), whole_model(work, setup)
            each = _gather(2 * all_weights - root, setup.data, machine, data_inside)
            each += _gather(gradients, setup.data, machine, data_inside)
            if setup.offload:  # a rank's part goes to the GPU before each gathering, and its gradient comes back
                copied = (2 * FP32 * whole - root + gradients) / setup.data
                each += copied / (machine["host_link"] * machine["transfer_reached"])
            seconds += networks * passes * each * exposed
            if work.samples:  # the sampler's copy of the weights
                seconds += _gather(all_weights, setup.data, machine, data_inside)
        else:
            seconds += networks * steps * _all_reduce(gradients, setup.data, machine, data_inside) * exposed
    tokens = setup.trees_of_rank(work) * work.tree.tokens
    states = (BF16 if work.bf16 else FP32) * shape.hidden * tokens
    reads = sum(one.times * ((1 + setup.recompute + 1) if one.backward else 1) for one in _passes(work))
    layers = shape.layers / setup.pipeline
    seconds += reads * _all_reduce(2 * layers * states, setup.tensor, machine, inside=True)
    if setup.pipeline > 1:
        stage_inside = setup.workers <= machine["node"]
        seconds += reads * states / _rate(machine, stage_inside)
        if work.samples:
            seconds += FP32 * gathered_weights(work, setup) / _rate(machine, stage_inside)
    return seconds
