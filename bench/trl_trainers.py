"""TRL's side of SFT, reward model and DPO: its trainers' ``train()``, which waits for its turn before every step."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from bench.sides import Clock, now, weights
from bench.turns import Turns

# What TRL's and transformers' documentation offers that is faster on a CPU and keeps the batch as it is. ``defaults``
# has none of it: activations are computed again, and the reference runs in every step.
FASTEST: dict[str, dict[str, Any]] = {
    "sft": {"gradient_checkpointing": False},
    "reward": {"gradient_checkpointing": False},
    "dpo": {"gradient_checkpointing": False, "precompute_ref_log_probs": True, "precompute_ref_batch_size": 8},
}


class Gate(TrainerCallback):
    """Holds the trainer before each step until it is its turn; reports the step's time and loss."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.loss = clock, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.clock.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.report(loss=self.loss)

    def watch(self, trainer: Any) -> None:
        inner = trainer.training_step

        def training_step(*arguments: Any, **settings: Any) -> torch.Tensor:
            loss = inner(*arguments, **settings)
            self.loss = float(loss)
            return loss

        trainer.training_step = training_step
        trainer._get_train_sampler = lambda dataset=None: SequentialSampler(trainer.train_dataset)


class Made:
    """A trainer with the pairs and weights both sides are given."""

    def __init__(self, settings: dict[str, Any], scratch: str) -> None:
        self.settings, self.facts = settings, dict[str, Any]()
        self.folder, self.work, self.model = Path(settings["material"]), settings["work"], settings["model"]
        with (self.folder / "pairs.jsonl").open(encoding="utf-8") as file:
            found = [json.loads(line) for line in file]
        self.rows = [found[i % len(found)] for i in range(settings["batch"] * settings["batches"])]
        self.texts = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in self.rows]
        self.arguments: dict[str, Any] = {
            "output_dir": scratch, "use_cpu": settings["device"] == "cpu", "bf16": settings["precision"] == "bf16",
            "report_to": "none", "per_device_train_batch_size": settings["batch"], "max_steps": settings["batches"],
            "learning_rate": 1e-4, "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True,
            "logging_steps": 10**6, "max_length": 512, "seed": 0,
        }  # fmt: skip
        if settings["variant"] != "defaults":
            self.arguments |= FASTEST[self.work]
        self.trainer = getattr(self, self.work)()

    def sft(self) -> SFTTrainer:
        """Both answers of a pair, a row each."""
        sides = ("chosen", "rejected")
        data = [{"prompt": t["prompt"], "completion": t[side]} for t in self.texts for side in sides]
        arguments = self.arguments | {"per_device_train_batch_size": 2 * self.settings["batch"]}
        trainer = self._trainer(SFTTrainer, SFTConfig(completion_only_loss=True, **arguments), data)
        check(trainer, "input_ids", [r["prompt_ids"] + r[f"{side}_ids"] for r in self.rows for side in sides])
        return trainer

    def reward(self) -> RewardTrainer:
        trainer = self._trainer(RewardTrainer, RewardConfig(**self.arguments), self.texts)
        for side in ("chosen", "rejected"):
            check(trainer, f"{side}_ids", [r["prompt_ids"] + r[f"{side}_ids"] for r in self.rows])
        return trainer

    def dpo(self) -> DPOTrainer:
        made, facts, batches = DPOTrainer._precompute_ref_logps, self.facts, self.settings["batches"]

        def precompute(*arguments: Any, **named: Any) -> Any:
            start = now()
            dataset = made(*arguments, **named)
            facts["reference_seconds"] = (now() - start) / batches
            return dataset

        DPOTrainer._precompute_ref_logps = precompute
        trainer = self._trainer(DPOTrainer, DPOConfig(beta=0.1, **self.arguments), self.texts)
        for side in ("prompt", "chosen", "rejected"):
            check(trainer, f"{side}_ids", [r[f"{side}_ids"] for r in self.rows])
        return trainer

    def _trainer(self, kind: Any, arguments: Any, data: list[dict[str, str]]) -> Any:
        is_reward = kind is RewardTrainer
        name, auto = (
            (f"{self.model}-reward", AutoModelForSequenceClassification)
            if is_reward
            else (self.model, AutoModelForCausalLM)
        )
        net = weights(auto, self.folder / name, self.settings["device"])
        tokenizer = AutoTokenizer.from_pretrained(self.folder / name)
        return kind(net, args=arguments, train_dataset=Dataset.from_list(data), processing_class=tokenizer)


def check(trainer: Any, column: str, ours: list[list[int]]) -> None:
    if [list(row[column]) for row in trainer.train_dataset] != ours:
        raise SystemExit(f"TRL's {column} are not ours")


def main(settings: dict[str, Any]) -> None:
    clock = Clock(Turns())
    torch.set_num_threads(settings["threads"])
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        made = Made(settings, scratch)
        gate = Gate(clock)
        gate.watch(made.trainer)
        made.trainer.add_callback(gate)
        versions = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
        clock.turns.report(**made.facts, **versions)
        made.trainer.train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
