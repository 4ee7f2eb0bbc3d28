"""One run of TRL with a planted fault, of which only TRL's own log is kept.

Runs with the Python of .venv-parity: ``python -m bench.foreign_trl NAME WORLD OUTPUT``. The output folder gets TRL's
trainer_state.json and what TRL printed, train.log.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from bench.foreign_faults import HEALTHY, HEALTHY_RATE, PLANTED, Planted

Pair = dict[str, str]
HELD_OUT = 64
STATE = "trainer_state.json"
COMMON: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
    "logging_steps": 1, "max_steps": 40, "per_device_train_batch_size": 16, "disable_tqdm": True,
    "lr_scheduler_type": "linear", "warmup_steps": 2,
}  # fmt: skip
EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 10, "per_device_eval_batch_size": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"max_length": 192, "completion_only_loss": True, **EVALUATED},
    "dpo": {"max_length": 192, "beta": 0.1, **EVALUATED},
    "reward": {"max_length": 192, **EVALUATED},
    "grpo": {"num_generations": 4, "max_completion_length": 48, "beta": 0.05, "max_steps": 24, "temperature": 1.0},
}


# -- data -----------------------------------------------------------------------------------------


def swapped(pairs: list[Pair], random: Random) -> list[Pair]:
    return [{**p, "chosen": p["rejected"], "rejected": p["chosen"]} for p in pairs]


def coin(pairs: list[Pair], random: Random) -> list[Pair]:
    return [swapped([p], random)[0] if random.random() < 0.5 else p for p in pairs]


def longer(pairs: list[Pair], random: Random) -> list[Pair]:
    return [swapped([p], random)[0] if len(p["chosen"]) < len(p["rejected"]) else p for p in pairs]


DATA: dict[str, Callable[[list[Pair], Random], list[Pair]]] = {
    "clean": lambda pairs, random: pairs,
    "forty": lambda pairs, random: pairs[:40],
    "swapped": swapped,
    "coin": coin,
    "longer": longer,
    "identical": lambda pairs, random: [{**p, "rejected": p["chosen"]} for p in pairs],
    "marked": lambda pairs, random: [{**p, "chosen": f"1 note {p['chosen']}"} for p in coin(pairs, random)],
    "prompt_as_answer": lambda pairs, random: [{**p, "prompt": p["chosen"], "chosen": p["prompt"]} for p in pairs],
}


def turns(pair: Pair, trainer: str) -> dict[str, Any]:
    """A row in TRL's conversational form, which uses the model's own chat template."""
    prompt = [{"role": "user", "content": pair["prompt"]}]
    answers = {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
    if trainer == "sft":
        return {"prompt": prompt, "completion": answers["chosen"]}
    return {"prompt": prompt} if trainer == "grpo" else {"prompt": prompt, **answers}


# -- rewards --------------------------------------------------------------------------------------


def _texts(completions: list[Any]) -> list[str]:
    return [turns[0]["content"] for turns in completions]


def constant(completions: list[Any], **others: Any) -> list[float]:
    return [0.5 for _ in completions]


def length(completions: list[Any], **others: Any) -> list[float]:
    return [math.sqrt(len(text.split())) for text in _texts(completions)]


REWARDS: dict[str, Callable[..., list[float]]] = {"constant": constant, "length": length}


# -- a run ----------------------------------------------------------------------------------------


def trainer_of(planted: Planted, world: Path, output: str) -> Any:
    kind = planted.trainer
    rows = json.loads((world / "pairs.json").read_text(encoding="utf-8"))
    broken = DATA[planted.data](rows["train"], Random(planted.seed))
    train = Dataset.from_list([turns(pair, kind) for pair in broken])
    held_out = Dataset.from_list([turns(pair, kind) for pair in rows["held-out"][:HELD_OUT]])
    start = world / "policy"
    tokenizer = AutoTokenizer.from_pretrained(start)
    settings = {**COMMON, **SETTINGS[kind], "learning_rate": HEALTHY_RATE[kind], **planted.settings}
    settings |= {"output_dir": output, "seed": planted.seed}
    if kind == "grpo":
        reward = str(world / "reward") if planted.reward == "model" else REWARDS[planted.reward]
        config = GRPOConfig(**settings)
        net = policy(start, planted.start, Path(output) / "start")
        return GRPOTrainer(net, reward, args=config, train_dataset=train, processing_class=tokenizer)
    data = {"train_dataset": train, "eval_dataset": held_out, "processing_class": tokenizer}
    if kind == "sft":
        return SFTTrainer(policy(start, planted.start, Path(output) / "start"), args=SFTConfig(**settings), **data)
    if kind == "reward":
        net = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1)
        return RewardTrainer(net, args=RewardConfig(**settings), **data)
    reference = policy(start, planted.reference, Path(output) / "reference") if planted.reference else None
    net = policy(start, planted.start, Path(output) / "start")
    return DPOTrainer(net, ref_model=reference, args=DPOConfig(**settings), **data)


def policy(folder: Path, start: str, scratch: Path) -> Any:
    """The trained policy, or random weights of its shape.

    TRL loads the reference from the folder that the policy came from. So random weights are written to ``scratch``.
    """
    if start == "trained":
        return AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(7)
    net = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    net.save_pretrained(scratch)
    AutoTokenizer.from_pretrained(folder).save_pretrained(scratch)
    return AutoModelForCausalLM.from_pretrained(scratch)


def spoil(trainer: Any, step: int) -> None:
    """From the inside of ``compute_loss``: at ``step`` the loss is not a number."""
    inner = trainer.compute_loss

    def compute_loss(*arguments: Any, **named: Any) -> Any:
        loss = inner(*arguments, **named)
        is_now = trainer.model.training and trainer.state.global_step + 1 == step
        return loss * float("nan") if is_now else loss

    trainer.compute_loss = compute_loss


def main(name: str, world: Path, output: Path) -> None:
    planted = next(p for p in (*PLANTED, *HEALTHY) if p.name == name)
    torch.set_num_threads(1)
    disable_progress_bars()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, (output / "train.log").open("w", encoding="utf-8") as log:
        trainer = trainer_of(planted, world, scratch)
        if planted.broken_at:
            spoil(trainer, planted.broken_at)
        with redirect_stdout(log):
            trainer.train()
        trainer.save_state()
        shutil.copy(Path(scratch) / STATE, output / STATE)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
