"""Looks for the smallest mesh, and the fastest settings on this mesh, with which the work fits the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from concordant.config.plan import PlanConfig
from concordant.core.errors import UserError
from concordant.planning.duration import Duration, duration_of
from concordant.planning.hardware import Machine
from concordant.planning.memory import Memory, memory_of
from concordant.planning.settings import refusals
from concordant.planning.work import CPU_MICRO_BATCH, GPU_MICRO_BATCH, Setup, Work

SUGGESTED_RANK = 16  # of the adapter that is suggested where all weights do not fit
_HALVINGS = 6  # of the tokens of a micro-batch


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run the work: its setup, memory and time."""

    work: Work
    setup: Setup
    machine: Machine
    memory: Memory
    duration: Duration

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.machine.room and self.fits_host

    @property
    def fits_host(self) -> bool:
        """Whether the processor's memory has room for what waits there."""
        return sum(self.memory.offloaded.values()) <= self.machine.host_room

    @property
    def tokens_per_second(self) -> float:
        """Tokens of trees in a second of the whole step, on all ranks together."""
        return self.work.tokens / self.duration.total

    def hours(self, steps: int) -> float:
        return steps * self.duration.total / 3600

    def dollars(self, steps: int) -> float:
        return self.hours(steps) * self.setup.workers * self.machine["price"]


def plan_of(work: Work, setup: Setup, machine: Machine) -> Plan:
    return Plan(work, setup, machine, memory_of(work, setup, machine), duration_of(work, setup, machine))


def best_plan(config: PlanConfig, work: Work, machine: Machine) -> Plan | None:
    """The fastest plan of the smallest number of workers that fits; None if nothing fits.

    A plan that this version can run comes before one on paper with fewer workers.
    """
    on_paper = None
    for workers in _numbers(config):
        plans = (plan_of(work, setup, machine) for setup in _setups(config, work, machine, workers))
        fitting = [plan for plan in plans if plan.fits]
        if run := [plan for plan in fitting if not refusals(plan)]:
            return min(run, key=lambda plan: plan.duration.total)
        on_paper = on_paper or min(fitting, key=lambda plan: plan.duration.total, default=None)
    return on_paper


def nearest_plan(config: PlanConfig, work: Work, machine: Machine) -> Plan:
    """The plan that needs least memory, where nothing fits.

    Raises:
        UserError: no mesh of this number of workers can divide the model or the batch.
    """
    numbers = list(_numbers(config))
    plans = [plan_of(work, s, machine) for workers in numbers for s in _setups(config, work, machine, workers)]
    if not plans:
        raise UserError(_cannot_divide(config, work))
    return min(plans, key=lambda plan: plan.memory.total)


def with_adapter(work: Work) -> Work:
    """The same work with an adapter in place of all weights."""
    return replace(work, rank=SUGGESTED_RANK)


def _numbers(config: PlanConfig) -> Iterator[int]:
    """The numbers of workers that are tried: the given one, or the powers of two."""
    if config.gpus:
        yield config.gpus
        return
    number = 1
    while number <= config.most_gpus:
        yield number
        number *= 2


def _setups(config: PlanConfig, work: Work, machine: Machine, workers: int) -> Iterator[Setup]:
    for tensor in _divisors(workers, config.tensor, int(machine["node"])):
        for pipeline in _divisors(workers // tensor, config.pipeline, work.shape.layers):
            data = workers // tensor // pipeline
            if not work.shape.divides(tensor, pipeline) or data > work.trees:
                continue
            for sharded in _sharding(config, data):
                for recompute in (True,) if config.model.activation_checkpointing else (False, True):
                    for tokens in _micro_batches(work, machine.is_gpu):
                        yield Setup(
                            data=data,
                            tensor=tensor,
                            pipeline=pipeline,
                            sharded=sharded,
                            offload=config.offload,
                            recompute=recompute,
                            micro_batch_tokens=tokens,
                        )


def _divisors(number: int, given: int, most: int) -> list[int]:
    """The numbers that divide ``number``: the ``given`` one alone, or those up to ``most``."""
    if given:
        return [given] if number % given == 0 else []
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _sharding(config: PlanConfig, data: int) -> tuple[bool, ...]:
    if config.offload:  # which only parts of weights have
        return (True,) if data > 1 else ()
    if data == 1:
        return (False,)
    return {"auto": (False, True), "on": (True,), "off": (False,)}[config.sharding]


def _micro_batches(work: Work, is_gpu: bool) -> list[int]:
    """Tokens of a pass with gradient: the given number, or the engine's own and its halves, but a whole tree each."""
    if work.micro_batch_tokens:
        return [work.micro_batch_tokens]
    usual = GPU_MICRO_BATCH if is_gpu else CPU_MICRO_BATCH
    sizes = [max(usual >> n, work.tree.tokens) for n in range(_HALVINGS)]
    return sorted(set(sizes), reverse=True)


def _cannot_divide(config: PlanConfig, work: Work) -> str:
    shape = work.shape
    given = [f"gpus {config.gpus}"] if config.gpus else []
    given += ["offload"] if config.offload else []
    given += [f"{name} {value}" for name, value in (("tensor", config.tensor), ("pipeline", config.pipeline)) if value]
    return (
        f"no mesh with {', '.join(given)} can divide this work: there are {shape.heads} heads, {shape.kv_heads} key "
        f"heads and {shape.layers} layers, and every data-parallel rank needs one of the {work.trees} prompts of a step"
    )
