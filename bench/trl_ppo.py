"""TRL's side of PPO: its experimental trainer's ``train()``, which waits for its turn before every step."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from bench.sides import Clock, weights
from bench.turns import Turns

FASTEST = {"gradient_checkpointing": False}  # as in bench.trl_trainers


class Gate(TrainerCallback):
    """Stands before the trainer's data, so that nothing of a step runs before its turn."""

    def __init__(self, clock: Clock, data: Any) -> None:
        self.clock, self.data = clock, data
        self.numbers: dict[str, float] = {}

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.data)
        for _ in range(len(self.data)):
            self.clock.wait()
            yield next(batches)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        names = {"policy_loss": "loss/policy_avg", "value_loss": "loss/value_avg", "score": "objective/scores"}
        names |= {"kl": "objective/kl", "entropy": "policy/entropy_avg"}
        self.numbers = {ours: logs[theirs] for ours, theirs in names.items()}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.report(**self.numbers)


def make(settings: dict[str, Any], scratch: str) -> PPOTrainer:
    folder, model = Path(settings["material"]), settings["model"]
    with (folder / "pairs.jsonl").open(encoding="utf-8") as file:
        found = [json.loads(line)["prompt_ids"] for line in file]
    samples, batch, device = settings["samples"], settings["batch"], settings["device"]
    prompts = [ids for ids in found if len(ids) <= settings["longest_prompt"]][: batch // samples]
    args = PPOConfig(
        output_dir=scratch, report_to="none", use_cpu=device == "cpu", bf16=settings["precision"] == "bf16",
        disable_tqdm=True, save_strategy="no", per_device_train_batch_size=batch,
        total_episodes=batch * settings["batches"], num_ppo_epochs=4, num_mini_batches=4, num_sample_generations=0,
        learning_rate=1e-4, lr_scheduler_type="constant", response_length=settings["new_tokens"], temperature=1.0,
        gamma=1.0, lam=0.95, kl_coef=0.05, cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, logging_steps=1,
        **(FASTEST if settings["variant"] != "defaults" else {}),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / model, padding_side="left")
    policy, reference = (weights(AutoModelForCausalLM, folder / model, device) for _ in range(2))
    scorer = folder / f"{model}-reward"
    reward, critic = (weights(AutoModelForSequenceClassification, scorer, device) for _ in range(2))
    critic.score.weight.data.zero_()  # ours starts at 0 too
    data = Dataset.from_list([{"input_ids": ids} for ids in prompts for _ in range(samples)])
    return PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=critic, train_dataset=data,
    )  # fmt: skip


def main(settings: dict[str, Any]) -> None:
    clock = Clock(Turns())
    torch.set_num_threads(settings["threads"])
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make(settings, scratch)
        gate = Gate(clock, trainer.dataloader)
        trainer.dataloader = gate
        trainer.add_callback(gate)
        clock.turns.report(**{m.__name__: m.__version__ for m in (torch, transformers, trl)})
        trainer.train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
