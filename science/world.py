"""The world of the laws, made once under a folder: a policy of toytalk, reward models, and best-of-n up to 1,000.

P prompts, N answers to each of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import transformers

import concordant
from science.order import Numbers

PROMPTS, ANSWERS = 12, 1_000
SIZES = {"small": (32, 1), "middle": (64, 2), "large": (128, 2)}  # width and layers of a reward model
NS = [1, 2, 4, 8, 16, 32, 64, 100, 128, 256, 512, 1_000]


def gold(prompt: Any, response: str) -> float:
    """The true quality of an answer, as a reward function."""
    return concordant.gold_score(prompt, response)


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
    return _write(folder / f"pairs-{count}-{noise:g}-{seed}.jsonl", chosen)


def policy(folder: Path, seed: int) -> Path:
    output = folder / f"sft-{seed}"
    if not (output / "model").is_dir():
        data = concordant.DataConfig(path="builtin:toytalk", max_samples=6_000)
        config = concordant.SFTConfig(
            output=str(output), seed=seed, data=data, model=model("builtin:tiny"), train=train(250, 4e-3)
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
        file = str(_write(folder / f"prompts-{seed}.jsonl", [{"prompt": prompt} for prompt in drawn]))
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


def reward_model(folder: Path, seed: int, size: str, count: int, noise: float = 0.0, member: int = 0) -> Path:
    """A reward model from random weights; ``member`` chooses its own start and order of the pairs."""
    output = folder / f"reward-{seed}-{size}-{count}-{noise:g}-{member}"
    if not (output / "model").is_dir():
        steps, data = min(count * 4, 12_000) // 16, pairs(folder, count, noise, seed)
        concordant.reward(
            concordant.RewardConfig(
                output=str(output), seed=1_000 * member + seed, model=model(start(folder, seed, size, member)),
                data=concordant.DataConfig(path=str(data), test_path=str(held_out(folder))),
                train=train(steps, 2e-3), validation_fraction=0.1,
            )
        )  # fmt: skip
    return output


def scores(folder: Path, seed: int, reward: Path) -> Numbers:
    """What a reward model gives to all answers of the policy, (P, N)."""
    rows, gold_PN = answers(folder, seed)
    output = reward / "scores.jsonl"
    if not output.is_file():
        file = _write(folder / f"answers-{seed}.jsonl", rows)
        concordant.score(
            concordant.ScoreConfig(
                data=concordant.DataConfig(path=str(file)), model=model(reward / "model"), output=str(output)
            )
        )
    given = [json.loads(line)["score"] for line in output.read_text(encoding="utf-8").splitlines()]
    return np.array(given).reshape(gold_PN.shape)


def start(folder: Path, seed: int, size: str, member: int) -> Path:
    """A language model with random weights and the policy's tokenizer."""
    place, (width, layers) = folder / f"start-{seed}-{size}-{member}", SIZES[size]
    if not (place / "config.json").is_file():
        tokenizer = concordant.load_policy(policy(folder, seed)).tokenizer
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, intermediate_size=2 * width,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        transformers.set_seed(1_000 * member + seed)
        transformers.LlamaForCausalLM(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return place


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
