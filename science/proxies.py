"""Reward models of the laws, and what they score. M members, P prompts, N answers to each of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

import concordant
from science import world
from science.order import Numbers, best_of

SIZES = {"small": (32, 1), "middle": (64, 2), "large": (128, 2)}  # width and layers


def learn(output: Path, seed: int, begin: Path, data: Path, train: concordant.TrainConfig, lm: float = 0.0) -> Path:
    """The run folder of a reward model that starts from the model ``begin``."""
    if not (output / "model").is_dir():
        concordant.reward(
            concordant.RewardConfig(
                output=str(output), seed=seed, resume="auto", model=world.model(begin), lm_coefficient=lm,
                data=concordant.DataConfig(path=str(data), test_path=str(world.held_out(output.parent))),
                train=train, validation_fraction=0.1,
            )
        )  # fmt: skip
    return output


def reward_model(folder: Path, seed: int, size: str, count: int, noise: float = 0.0, member: int = 0) -> Path:
    """A reward model from random weights; ``member`` chooses its own start and order of the pairs."""
    output = folder / f"reward-{seed}-{size}-{count}-{noise:g}-{member}"
    data, train = world.pairs(folder, count, noise, seed), world.train(min(count * 4, 12_000) // 16, 2e-3)
    return learn(output, 1_000 * member + seed, start(folder, seed, size, member), data, train)


def scores(folder: Path, seed: int, run: Path) -> Numbers:
    """What the reward model of a run gives to all answers of the policy, (P, N)."""
    rows, gold_PN = world.answers(folder, seed)
    return scored(run / "model", rows, run / "scores.jsonl").reshape(gold_PN.shape)


def scored(reward: Path, rows: Sequence[dict[str, Any]], output: Path) -> Numbers:
    """The scores of rows with a prompt and a response, kept in ``output``; of equal rows, one is scored."""
    texts = [json.dumps([row["prompt"], row["response"]]) for row in rows]
    unlike = dict(zip(texts, rows, strict=True))
    if not output.is_file():
        file = world.write(output.with_suffix(".rows.jsonl"), list(unlike.values()))
        data = concordant.DataConfig(path=str(file))
        concordant.score(concordant.ScoreConfig(data=data, model=world.model(reward), output=str(output)))
    given = (json.loads(line)["score"] for line in output.read_text(encoding="utf-8").splitlines())
    score_of = dict(zip(unlike, given, strict=True))
    return np.array([score_of[text] for text in texts])


def standardised(members: Sequence[Numbers]) -> Numbers:
    """The scores of several models, (M, P, N), each with mean 0 and deviation 1."""
    proxies_MPN = np.stack(members)
    return (proxies_MPN - proxies_MPN.mean((1, 2), keepdims=True)) / proxies_MPN.std((1, 2), keepdims=True)


def kept(proxy_PN: Numbers, gold_PN: Numbers) -> float:
    """The mean gold of best-of-n over n = 100 to 1,000: what is left after much optimisation."""
    return float(np.mean([best_of(n, proxy_PN, gold_PN) for n in world.NS if n >= 100]))


def start(folder: Path, seed: int, size: str, member: int) -> Path:
    """A language model with random weights and the policy's tokenizer."""
    place, (width, layers) = folder / f"start-{seed}-{size}-{member}", SIZES[size]
    if not (place / "config.json").is_file():
        tokenizer = concordant.load_policy(world.policy(folder, seed)).tokenizer
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, intermediate_size=2 * width,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        transformers.set_seed(1_000 * member + seed)
        transformers.LlamaForCausalLM(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return place
