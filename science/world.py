"""The world of the laws, made once under a folder: pairs and a policy of toytalk, and its answers for best-of-n.

P prompts, N answers to each of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

import concordant
from science.order import Numbers

PROMPTS, ANSWERS = 12, 1_000
NS = [1, 2, 4, 8, 16, 32, 64, 100, 128, 256, 512, 1_000]


def gold(prompt: Any, response: str) -> float:
    """The true quality of an answer, as a reward function. The messages of a file are dictionaries."""
    messages: list[Any] = [SimpleNamespace(**m) if isinstance(m, dict) else m for m in prompt]
    return concordant.gold_score(messages, response)


def train(steps: int, rate: float, **more: Any) -> concordant.TrainConfig:
    return concordant.TrainConfig(
        max_steps=steps, learning_rate=rate, batch_size=16, schedule="cosine", evaluate_every=0, tensorboard=False,
        save_minutes=0, threads=1, **more,
    )  # fmt: skip


def model(name: str | Path) -> concordant.ModelConfig:
    return concordant.ModelConfig(name=str(name), precision="fp32", device="cpu")


def prepared(folder: Path) -> Path:
    """The pairs and the held-out prompts, as files."""
    if not (folder / "data" / "card.json").is_file():
        source = concordant.DataConfig(path="builtin:toytalk")
        concordant.prepare(concordant.PrepareConfig(data=source, output=str(folder / "data")))
    return folder / "data"


def held_out(folder: Path) -> Path:
    """The held-out pairs."""
    return prepared(folder) / "rm" / "test.parquet"


def pairs(folder: Path, count: int, noise: float, seed: int) -> Path:
    """A file of ``count`` training pairs, a share ``noise`` of them with the labels exchanged."""
    rows = parquet.read_table(prepared(folder) / "rm" / "train.parquet").to_pylist()
    draw = random.Random(f"{seed} {count}")
    chosen = [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in draw.sample(rows, count)]
    for row in chosen:
        if draw.random() < noise:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return write(folder / f"pairs-{count}-{noise:g}-{seed}.jsonl", chosen)


def policy(folder: Path, seed: int) -> Path:
    output = folder / f"sft-{seed}"
    if not (output / "model").is_dir():
        data = concordant.DataConfig(path="builtin:toytalk", max_samples=6_000)
        config = concordant.SFTConfig(
            output=str(output), seed=seed, resume="auto", data=data, model=model("builtin:tiny"), train=train(250, 4e-3)
        )
        concordant.sft(config)
    return output / "model"


def answers(folder: Path, seed: int) -> tuple[list[dict[str, Any]], Numbers]:
    """The rows of all answers of the policy, prompt by prompt, and their gold scores, (P, N)."""
    output = folder / f"answers-{seed}"
    rows = parquet.read_table(prepared(folder) / "rl" / "test.parquet").to_pylist()
    prompts = {json.dumps(row["prompt"]): row["prompt"] for row in rows if len(row["prompt"]) == 1}
    drawn = random.Random(seed).sample(list(prompts.values()), PROMPTS)
    if not (output / "sft.jsonl").is_file():
        file = str(write(folder / f"prompts-{seed}.jsonl", [{"prompt": prompt} for prompt in drawn]))
        concordant.best_of_n(
            concordant.BestOfNConfig(
                output=str(output), seed=seed, resume="auto",
                data=concordant.DataConfig(path=file, test_path=str(held_out(folder))),
                model=model(policy(folder, seed)), reward=["science.world:gold"],
                sampling=concordant.SamplingConfig(n=ANSWERS, max_new_tokens=48, slots=256),
            )
        )  # fmt: skip
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    flat = [
        {"prompt": s["prompt"], "response": a["response"].strip() or "."} for s in samples for a in s["answers"]
    ]  # no empty answer can be scored
    return flat, np.array([[a["reward"] for a in s["answers"]] for s in samples])


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
