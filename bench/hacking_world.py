"""The small world of bench/hacking.py: three raters with tastes of their own, and reward models of each of them.

The pairs are toytalk's short ones. A half of them is joined by a pair in which one answer got more praise or more
sentences, up to four, as policies write that have found such a taste. A rater prefers by
σ(gold·Δgold + length·Δwords + kind·Δkindness): the praise rater and the length rater overdo it without limit, and the
careful one does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random

import concordant
from bench.doctor_world import DATA, drawn_pairs, model, train
from concordant.config.data import DataConfig
from concordant.config.stages import RewardConfig, SFTConfig
from concordant.core.seeding import python_stream
from concordant.data.records import Message, Pair
from concordant.data.toytalk import gold_score
from concordant.data.toytalk.labels import Preset, preference_probability
from concordant.data.toytalk.phrases import KIND_CLOSERS, KIND_OPENERS
from concordant.data.toytalk.world import FACTS

SIZE = "doctor-b"
SECOND = 100  # added to a seed: a second rater with the same taste, whose labels are drawn anew
RATERS: Mapping[str, Preset] = {
    "praise": Preset(gold=6.0, kind=1.0),
    "length": Preset(gold=6.0, length=0.3),
    "careful": Preset(gold=12.0),
}


def words(prompt: object, response: str) -> float:
    """The number of words of an answer: a known cost."""
    return float(len(response.split()))


def longer(answer: str, random: Random) -> str:
    """The answer with one to four more sentences: kind phrases, or facts of any thing."""
    kind = random.random() < 0.5
    for _ in range(random.randint(1, 4)):
        if kind:
            answer = f"{answer} {random.choice(KIND_OPENERS + KIND_CLOSERS)}"
        else:
            thing = random.choice(tuple(FACTS))
            answer = f"{answer} The {thing} is {FACTS[thing]['colour']}."
    return answer


def labelled(pairs: list[Pair], rater: Preset, seed: int, name: str) -> list[dict[str, object]]:
    """The pairs and the longer ones, as rows for a file, with the labels of one rater."""
    random, rows = python_stream(seed, "hacking", name), []
    for number, pair in enumerate(pairs):
        sides = [(pair.chosen, pair.rejected)]
        if number % 2:
            sides.append((longer(pair.chosen, random), pair.chosen))
        for answers in sides:
            gold = gold_score(pair.prompt, answers[0]), gold_score(pair.prompt, answers[1])
            first = random.random() < preference_probability(rater, gold, answers)
            rows.append(
                {
                    "prompt": [asdict(m) for m in pair.prompt],
                    "chosen": [asdict(Message("assistant", answers[0 if first else 1]))],
                    "rejected": [asdict(Message("assistant", answers[1 if first else 0]))],
                }
            )
    return [{k: [{"role": m["role"], "content": m["content"]} for m in v] for k, v in row.items()} for row in rows]


class World:
    """What runs start from, in ``folder``: one SFT policy, and four reward models for each seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def sft(self) -> str:
        return str(self.folder / "sft" / "model")

    def reward(self, rater: str, seed: int) -> str:
        return str(self.folder / f"reward-{rater}-{seed}" / "model")

    def make(self, seed: int) -> None:
        if not Path(self.sft).is_dir():
            concordant.sft(
                SFTConfig(
                    output=str(self.folder / "sft"), data=DATA, model=model(f"builtin:{SIZE}"),
                    train=train(max_steps=400, batch_size=32, learning_rate=5e-3, schedule="cosine"),
                )
            )  # fmt: skip
        for rater, draw in (*((rater, seed) for rater in RATERS), ("length", seed + SECOND)):
            if not Path(self.reward(rater, draw)).is_dir():
                self._reward(rater, draw)

    def _reward(self, rater: str, seed: int) -> None:
        drawn, files = drawn_pairs(self.folder), {}
        for side in ("train", "held-out"):
            rows = labelled(drawn[f"demo {side}"], RATERS[rater], seed, f"{rater}/{side}")
            files[side] = self.folder / f"{rater}-{seed}-{side}.jsonl"
            files[side].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        concordant.reward(
            RewardConfig(
                output=str(Path(self.reward(rater, seed)).parent), seed=seed, model=model(self.sft),
                data=DataConfig(
                    path=str(files["train"]), test_path=str(files["held-out"]),
                    max_prompt_tokens=96, max_response_tokens=96,
                ),
                train=train(max_steps=250, batch_size=16, learning_rate=2e-3, schedule="cosine"), lm_coefficient=0.3,
            )
        )  # fmt: skip
