"""The tables of docs/plan.md that are on paper: ``python -m bench.plan_tables`` prints them. Nothing is measured here.

A test compares the page with these tables, so that a changed assumption changes the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.names import HardwareName, PlannedMethod
from concordant.config.plan import PlanConfig, ShapeConfig
from concordant.planning.hardware import ASSUMPTIONS, HARDWARE, GiB
from concordant.planning.search import Plan
from concordant.planning.settings import refusals
from concordant.planning.shown import value_of
from concordant.stages.plan import planned_for

# Model, method, rank of an adapter, hardware, workers (0: the smallest number that fits), prompts of a step.
_RUNS: list[tuple[str, PlannedMethod, int, HardwareName, int, int]] = [
    ("Qwen2.5-0.5B", "sft", 0, "rtx-4090", 0, 64),
    ("Qwen2.5-0.5B", "ppo", 0, "rtx-4090", 0, 64),
    ("Qwen3-0.6B", "sft", 0, "rtx-4090", 0, 64),
    ("Qwen3-0.6B", "dpo", 0, "h100-80gb", 0, 64),
    ("Qwen3-0.6B", "ppo", 0, "h100-80gb", 0, 64),
    ("Llama-3.2-1B", "sft", 16, "rtx-4090", 0, 64),
    ("Qwen3-1.7B", "ppo", 0, "h100-80gb", 0, 64),
    ("Qwen3-4B", "dpo", 16, "a100-40gb", 0, 64),
    ("Qwen3-4B", "sft", 0, "h100-80gb", 0, 64),
    ("Qwen3-4B", "ppo", 0, "h100-80gb", 0, 64),
    ("Llama-3.1-8B", "sft", 16, "a100-80gb", 0, 64),
    ("Qwen3-8B", "sft", 0, "h100-80gb", 0, 128),
    ("Qwen3-8B", "grpo", 0, "h100-80gb", 0, 128),
    ("Qwen3-8B", "ppo", 0, "h100-80gb", 0, 128),
    ("Qwen3-8B", "ppo", 0, "h100-80gb", 64, 512),
    ("Qwen3-14B", "ppo", 0, "h100-80gb", 0, 128),
    ("Qwen3-32B", "sft", 0, "h100-80gb", 0, 256),
    ("Qwen3-32B", "ppo", 0, "h200-141gb", 0, 256),
    ("Llama-3.1-70B", "sft", 16, "h100-80gb", 0, 256),
    ("Llama-3.1-70B", "sft", 0, "h100-80gb", 0, 256),
    ("Llama-3.1-70B", "ppo", 0, "h100-80gb", 0, 512),
    ("Llama-3.1-70B", "ppo", 0, "h100-80gb", 256, 1024),
    ("Llama-3.1-70B", "ppo", 0, "h100-80gb", 1024, 1024),
]


def runs() -> Iterator[str]:
    """Prompts and responses of 512 tokens, four responses to a prompt with ppo and grpo."""
    yield "| model | run | hardware | workers: pipeline × data × tensor | GiB a worker | step, s | tokens/s | dollars |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, method, rank, hardware, gpus, batch in _RUNS:
        model = ModelConfig(name, lora=LoraConfig(rank=rank))
        given = PlanConfig(model=model, method=method, hardware=hardware, gpus=gpus, batch_size=batch)
        plan = planned_for(given).plan
        setup = plan.setup
        named = {"divided": setup.sharded, "recomputed": setup.recompute, "on paper alone": bool(refusals(plan))}
        flags = [flag for flag, on in named.items() if on]
        yield (
            f"| {name} | {method}{f', LoRA {rank}' if rank else ''} | {hardware} | {setup.workers:,}: "
            f"{setup.pipeline} × {setup.data} × {setup.tensor}{' ' + ', '.join(flags) if flags else ''} | "
            f"{_memory(plan)} | {plan.duration.total:,.1f} | {plan.tokens_per_second:,.0f} | {_dollars(plan)} |"
        )


def _dollars(plan: Plan) -> str:
    dollars = plan.dollars(1000)
    return f"{dollars:,.0f}" if dollars >= 10 else f"{dollars:.2f}"


def _memory(plan: Plan) -> str:
    text = f"{plan.memory.total / GiB:.0f}"
    return text if plan.fits else f"**{text}, does not fit**"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A row of prime-rl's benchmark table of 7 February 2026 (benchmarks/results/BENCHMARKS.md, commit 30bf494)."""

    model: str
    kind: str
    tokens: int  # of a sequence; one sequence on each GPU
    gpus: int
    rate: int  # tokens a second of the trainer, on all GPUs
    peak: float  # GiB a GPU
    rank: int = 0


PRIME_RL = [
    Published(model="Qwen3-0.6B", kind="SFT", tokens=8_192, gpus=1, rate=26_005, peak=31.7),
    Published(model="Qwen3-0.6B", kind="SFT", tokens=16_384, gpus=1, rate=25_490, peak=52.8),
    Published(model="Qwen3-0.6B", kind="RL", tokens=16_384, gpus=1, rate=11_896, peak=12.5),
    Published(model="Qwen3-4B", kind="RL, LoRA 16", tokens=16_384, gpus=1, rate=6_230, peak=23.3, rank=16),
    Published(model="Qwen3-4B", kind="SFT", tokens=16_384, gpus=8, rate=49_720, peak=54.6),
]


def beside_published() -> Iterator[str]:
    """The trainer alone, activations recomputed: forward and backward pass of one sequence on each GPU."""
    yield "| model | run | tokens | H100s | prime-rl, tokens/s | plan | plan, no whole rows | prime-rl, GiB | plan |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in PRIME_RL:
        masked, segments = (_trainer(row, share) for share in (1, 0))
        yield (
            f"| {row.model} | {row.kind} | {row.tokens:,} | {row.gpus} | {row.rate:,} | "
            f"{masked.tokens_per_second:,.0f} | {segments.tokens_per_second:,.0f} | {row.peak} | "
            f"{masked.memory.total / GiB:.1f} |"
        )


def _trainer(row: Published, whole_row: float) -> Plan:
    """SFT of whole sequences: nearly every token is a response token, as in the published runs."""
    model = ModelConfig(row.model, activation_checkpointing=True, lora=LoraConfig(rank=row.rank))
    given = PlanConfig(
        model=model, method="sft", hardware="h100-80gb", gpus=row.gpus, tensor=1, pipeline=1, prompt_tokens=1,
        response_tokens=row.tokens - 1, batch_size=row.gpus, micro_batch_tokens=row.tokens, keep_best=False,
        assume=[f"whole_row={whole_row}"],
    )  # fmt: skip
    return planned_for(given).plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRL:
    """A run of verl 0.6.0 with Qwen2-7B-Instruct on eight H100: 1,024 prompts of GSM8K a step in four minibatches.

    Published by AMD (verl-large-scale-rocm7 in ROCm/rocm-blogs, commit e051f83; measured in January 2026).
    """

    method: PlannedMethod
    samples: int
    rate: float  # tokens a second of the whole step on each GPU; a prompt counts once for each of its answers


VERL = [
    PublishedRL(method="ppo", samples=1, rate=1_109.38),
    PublishedRL(method="grpo", samples=5, rate=2_467.10),
]
QWEN2_7B = ShapeConfig(
    kind="qwen2", vocabulary=152_064, hidden=3_584, layers=28, heads=28, kv_heads=4, mlp=18_944
)  # as in the model's config.json
GSM8K = (104, 239)  # mean tokens of prompt and answer in step 0 of another model, in verl's quickstart
SLOTS = (64, 256)


def beside_verl() -> Iterator[str]:
    """Whole steps of PPO and GRPO, sampling included, on each GPU."""
    plans = " | ".join(f"plan, {slots} slots" for slots in SLOTS)
    yield f"| run | answers to a prompt | verl, tokens/s | {plans} | of which sampling | GiB |"
    yield "|---|---|---|---|---|---|---|"
    prompt, answer = GSM8K
    for row in VERL:
        found = [_whole_step(row, slots) for slots in SLOTS]
        tokens = 1_024 * row.samples * (prompt + answer) / 8  # on a GPU
        rates = " | ".join(f"{tokens / plan.duration.total:,.0f}" for plan in found)
        last = found[-1]
        sampling = last.duration.parts["sampling"] / last.duration.total
        yield (
            f"| {row.method} | {row.samples} | {row.rate:,.0f} | {rates} | {100 * sampling:.0f} % | "
            f"{last.memory.total / GiB:.0f} |"
        )


def _whole_step(row: PublishedRL, slots: int) -> Plan:
    prompt, answer = GSM8K
    given = PlanConfig(
        shape=QWEN2_7B, method=row.method, hardware="h100-80gb", gpus=8, tensor=1, pipeline=1, sharding="on",
        prompt_tokens=prompt, response_tokens=answer, batch_size=1_024, samples=row.samples, minibatches=4, slots=slots,
        reward_model="none", keep_best=False,
    )  # fmt: skip
    return planned_for(given).plan


def assumptions() -> Iterator[str]:
    """Every number of every machine."""
    yield "| assumption | " + " | ".join(HARDWARE) + " | meaning | source on a GPU; on a CPU |"
    yield "|---|" + "---|" * (len(HARDWARE) + 2)
    for name, meaning in ASSUMPTIONS.items():
        values = [value_of(numbers[name].value, meaning.unit) for numbers in HARDWARE.values()]
        gpu, cpu = HARDWARE["h100-80gb"][name].source, HARDWARE["cpu"][name].source
        source = gpu if gpu == cpu else f"{gpu}; {cpu}"
        yield f"| `{name}` | " + " | ".join(values) + f" | {meaning.text} | {source} |"


def tables() -> list[str]:
    return ["\n".join(rows()) for rows in (runs, beside_published, beside_verl, assumptions)]


if __name__ == "__main__":
    print("\n\n".join(tables()))
