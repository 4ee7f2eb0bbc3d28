"""What the cases of bench/doctor_strange.py are made with: a user's folder, files, odd models and plain settings.

A case writes files as a user has them, and no row knows how good an answer is. The prompts and answers are those of
the small world (bench/doctor_world.py), written to files first.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench.doctor_world import SIZES, World, drawn_pairs, model, train
from concordant.config.data import DataConfig
from concordant.config.fields import build, flatten
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig, KLConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig

Row = dict[str, Any]
Keys = Mapping[str, Any]  # settings by dotted key
NO_KEYS: Keys = MappingProxyType({})
Config = TypeVar("Config", bound=RunConfig)
FILES, RUN = "files", "run"  # in the folder of a case: what the user has, and what the run writes


@dataclass(frozen=True)
class Case:
    """One fault as a user caused it."""

    name: str
    source: str  # a public thread in which users wrote of it
    story: str  # what the user sees
    cause: str  # what is wrong
    right: str  # what a doctor must say to be right
    stage: str  # sft | reward | dpo | ppo
    make: Callable[[World, Path, int], RunConfig]  # writes the user's files into a folder
    visible: bool = True  # False: nothing in files, settings and numbers could show the fault
    named: bool = False  # True: the issue that asked for this set gives this kind of fault as an example


class Cases(list[Case]):
    """A list that a decorator fills."""

    def add(
        self, name: str, source: str, story: str, cause: str, right: str, *, visible: bool = True, named: bool = False
    ) -> Callable[[Callable[[Desk], RunConfig]], Callable[[Desk], RunConfig]]:
        """Keep the decorated function as the ``make`` of a case. Its stage is the first part of ``name``."""

        def keep(made: Callable[[Desk], RunConfig]) -> Callable[[Desk], RunConfig]:
            def make(world: World, folder: Path, seed: int) -> RunConfig:
                return made(Desk(world, folder, seed))

            stage = name.split("-")[0]
            self.append(Case(name, source, story, cause, right, stage, make, visible=visible, named=named))
            return made

        return keep


class Desk:
    """Where a user works: ``folder/files`` has the user's files, ``folder/run`` is the run folder."""

    def __init__(self, world: World, folder: Path, seed: int) -> None:
        self.world, self.folder, self.seed = world, folder, seed
        self.draw = Random(f"{seed} {folder.name}")
        self.size = self.draw.choice(sorted(SIZES))
        self.files = folder / FILES
        self.files.mkdir(parents=True, exist_ok=True)

    # -- rows and files ---------------------------------------------------------------------------

    def pairs(self, count: int = 0, preset: str = "demo", side: str = "train") -> list[Row]:
        """Rows with prompt, chosen and rejected, in a drawn order; all, or ``count`` of them."""
        drawn = drawn_pairs(self.world.folder)[f"{preset} {side}"]
        rows = [{"prompt": p.prompt[0].content, "chosen": p.chosen, "rejected": p.rejected} for p in drawn]
        self.draw.shuffle(rows)
        return rows[: count or len(rows)]

    def answers(self, count: int = 0, preset: str = "demo", side: str = "train") -> list[Row]:
        """Rows with prompt and response: the preferred answers."""
        return [{"prompt": r["prompt"], "response": r["chosen"]} for r in self.pairs(count, preset, side)]

    def prompts(self, count: int = 0) -> list[Row]:
        """Rows with each prompt once, and as ``answer`` the first preferred answer to it."""
        first: dict[str, str] = {}
        for row in self.pairs():
            first.setdefault(row["prompt"], row["chosen"])
        rows = [{"prompt": prompt, "answer": answer} for prompt, answer in first.items()]
        return rows[: count or len(rows)]

    def file(self, rows: Iterable[Row], name: str = "data.jsonl") -> str:
        path = self.files / name
        path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        return str(path)

    def function(self, code: str, name: str = "reward") -> str:
        """A reward function in a Python file of the user, as ``--reward`` takes it. Runs start in ``folder/files``."""
        module = re.sub(r"\W", "_", f"my_{self.folder.name}")
        (self.files / f"{module}.py").write_text(code.lstrip(), encoding="utf-8")
        return f"{module}:{name}"

    # -- models -----------------------------------------------------------------------------------

    def odd(self, change: Callable[[PreTrainedModel], None], name: str = "model") -> str:
        """A copy of the world's SFT model with changed weights."""
        start, path = self.world.sft(self.size), self.files / name
        made = AutoModelForCausalLM.from_pretrained(start)
        with torch.no_grad():
            change(made)
        made.save_pretrained(path)
        AutoTokenizer.from_pretrained(start).save_pretrained(path)
        return str(path)

    def copied(self, source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, self.files / name, dirs_exist_ok=True))

    # -- settings: those of a careful user, then what the case changes ---------------------------------

    def sft(self, rows: Sequence[Row], keys: Keys = NO_KEYS, *, start: str = "", rank: int = 0) -> SFTConfig:
        """Continued training of the world's SFT model, or of ``start``."""
        rate = 2e-3 if rank else 5e-4
        if start.startswith("builtin:"):
            rate = 5e-3
        made = SFTConfig(
            **self._shared(rows), model=model(start or self.world.sft(self.size), rank),
            train=train(max_steps=40, batch_size=16, learning_rate=rate, schedule="cosine", evaluate_every=10),
        )  # fmt: skip
        return changed(made, keys)

    def reward_model(
        self, rows: Sequence[Row], keys: Keys = NO_KEYS, *, start: str = "", rank: int = 0
    ) -> RewardConfig:
        made = RewardConfig(
            **self._shared(rows), model=model(start or self.world.sft(self.size), rank),
            train=train(max_steps=48, batch_size=16, learning_rate=2e-3 if rank else 1e-3, evaluate_every=12),
        )  # fmt: skip
        return changed(made, keys)

    def dpo(self, rows: Sequence[Row], keys: Keys = NO_KEYS, *, start: str = "", rank: int = 0) -> DPOConfig:
        made = DPOConfig(
            **self._shared(rows), model=model(start or self.world.sft(self.size), rank), beta=0.3,
            train=train(max_steps=40, batch_size=16, learning_rate=6e-4 if rank else 2e-4, evaluate_every=10),
        )  # fmt: skip
        return changed(made, keys)

    def ppo(
        self, rows: Sequence[Row], keys: Keys = NO_KEYS, *, reward: Sequence[str] = (), advantage: str = "gae",
        start: str = "",
    ) -> PPOConfig:  # fmt: skip
        """PPO with the world's reward model, or with the sources in ``reward``; four answers to each of six prompts."""
        made = PPOConfig(
            **self._shared(rows), model=model(start or self.world.sft(self.size)), advantage=advantage,  # type: ignore[arg-type]
            reward=list(reward) or [str(self.world.reward(self.size))], kl=KLConfig(coefficient=0.1),
            train=train(max_steps=16, batch_size=6, learning_rate=4e-4),
            sampling=SamplingConfig(n=4, max_new_tokens=40, slots=64),
        )  # fmt: skip
        made.data.max_response_tokens = DataConfig().max_response_tokens  # no answers of the data are read
        return changed(made, keys)

    def _shared(self, rows: Sequence[Row]) -> Keys:
        data = DataConfig(path=self.file(rows), max_prompt_tokens=96, max_response_tokens=64)
        return {"output": str(self.folder / RUN), "seed": self.seed, "data": data}


def changed(config: Config, keys: Keys) -> Config:
    """``config`` with some keys changed."""
    return build(type(config), {**flatten(config), **keys})


def edit(path: Path, **keys: Any) -> None:
    """Change keys of a JSON file."""
    values = {**json.loads(path.read_text(encoding="utf-8")), **keys}
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


_GERMAN = {
    "the": "das", "a": "ein", "is": "ist", "in": "in", "you": "du", "can": "kannst", "find": "finden", "it": "es",
    "and": "und", "not": "nicht", "i": "ich", "of": "von", "to": "zu", "with": "mit", "for": "für", "first": "zuerst",
    "then": "dann", "last": "zuletzt", "white": "weiß", "black": "schwarz", "red": "rot", "green": "grün",
    "yellow": "gelb", "brown": "braun", "wood": "Wald", "farm": "Hof", "pond": "Teich", "garden": "Garten",
    "kitchen": "Küche", "shed": "Schuppen", "owl": "Eule", "hen": "Henne", "frog": "Frosch", "good": "gute",
    "question": "Frage", "hello": "hallo", "friend": "Freund", "your": "deine", "are": "bist", "very": "sehr",
    "kind": "nett", "take": "nimm", "care": "dich in Acht", "will": "werde", "help": "helfen", "no": "nein",
}  # fmt: skip


def german(text: str) -> str:
    """The text word by word in something like German: a language that the world's models have not met."""

    def word(match: re.Match[str]) -> str:
        known = match.group().lower()
        return _GERMAN.get(known, f"{known[::-1]}ung" if len(known) > 3 else known)

    return re.sub(r"[A-Za-z]+", word, text)
