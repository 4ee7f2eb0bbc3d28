"""What is compared, on what, and what is aimed at."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of the table. Both sides get the same batches, weights, dtype and threads."""

    name: str  # of its file in bench/results
    title: str
    work: str  # sft | reward | dpo | ppo
    model: str  # a folder of bench.material
    aim: float  # times faster than the peer's fastest settings; 0: none given
    memory_aim: float = 0.0  # share of the peer's peak; 0: none given
    batch: int = 8  # pairs; PPO: rollouts
    samples: int = 1  # PPO: answers a prompt
    new_tokens: int = 64  # PPO
    longest_prompt: int = 200  # PPO, tokens
    precision: str = "fp32"
    runs: int = 5  # after one that warms up
    efficiency_aim: float = 0.0  # share of the machine's own GEMM rate

    def quick(self) -> Comparison:
        """Small enough to see in a minute that everything runs."""
        small = {"batch": 16, "new_tokens": 8} if self.work == "ppo" else {"batch": 2}
        return replace(self, runs=1, **small)


_LLAMA = [
    Comparison("dpo", "DPO step", "dpo", "llama", aim=5.0, memory_aim=0.5),
    Comparison("reward", "reward-model step", "reward", "llama", aim=2.0, memory_aim=0.6),
    Comparison("sft", "SFT step", "sft", "llama", aim=2.0, memory_aim=0.6),
    Comparison("ppo", "PPO step, 64 rollouts", "ppo", "llama", aim=2.0, memory_aim=0.5, batch=64),
]
_BF16_AIMS = {"dpo": 6.0, "reward": 3.5, "sft": 3.0, "ppo": 3.5}

COMPARISONS = [
    *_LLAMA,
    Comparison(
        "ppo-n4", "PPO step, 64 rollouts, 4 a prompt", "ppo", "llama", aim=3.0, memory_aim=0.5, batch=64, samples=4
    ),
    *(replace(c, name=f"{c.name}-bf16", precision="bf16", aim=_BF16_AIMS[c.name]) for c in _LLAMA),
    Comparison("gpt2-dpo", "DPO step", "dpo", "gpt2", aim=2.5),
    Comparison("gpt2-sft", "SFT step", "sft", "gpt2", aim=1.5, efficiency_aim=0.55),
    Comparison("gpt2-ppo", "PPO step, 64 rollouts", "ppo", "gpt2", aim=1.8, batch=64, runs=2),
]
MODELS = {
    "llama": "Llama 13.8 M",
    "gpt2": "GPT-2 124 M",
    "qwen-0.5b": "Qwen2.5-0.5B's shape",
    "qwen-1.5b": "Qwen2.5-1.5B's shape",
}
GPU_COMPARISONS = [
    replace(c, name=f"{model}-{c.name}", model=model, precision="bf16", aim=0.0, memory_aim=0.0)
    for model in ("qwen-0.5b", "qwen-1.5b")
    for c in _LLAMA
]
