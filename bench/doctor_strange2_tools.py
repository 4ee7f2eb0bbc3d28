"""What the second set of bench/doctor_strange.py is made with: a user's folder, files, odd models, plain settings.

A case writes files as a user has them, and no row knows how good an answer is. The prompts and answers are those of
the small world (bench/doctor_world.py), written to files first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import concordant
from bench.doctor_strange_tools import FILES, RUN, Case
from bench.doctor_world import SIZES, World, drawn_pairs, model, train
from concordant.config.data import DataConfig
from concordant.config.fields import build, flatten
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig, KLConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig
from concordant.data.tokenizer import train_tokenizer

Row = dict[str, Any]
Config = TypeVar("Config", bound=RunConfig)
OTHER_TEXT = Path(__file__).resolve().parents[1] / "LICENSE"  # long English text that is not toytalk's


@dataclass(frozen=True)
class Desk:
    """Where one user works: a folder of files, and the small world's models and answers."""

    world: World
    folder: Path
    seed: int

    @cached_property
    def random(self) -> Random:
        return Random(self.seed)

    @property
    def files(self) -> Path:
        made = self.folder / FILES
        made.mkdir(parents=True, exist_ok=True)
        return made

    @property
    def size(self) -> str:
        return sorted(SIZES)[self.seed % len(SIZES)]

    @property
    def policy(self) -> Path:
        """The model after SFT."""
        return self.world.sft(self.size)

    def pairs(self, count: int = 800, preset: str = "demo", side: str = "train") -> list[Row]:
        """Rows of prompt, chosen and rejected, in an order drawn by the seed."""
        rows = [
            {"prompt": pair.prompt[0].content, "chosen": pair.chosen, "rejected": pair.rejected}
            for pair in drawn_pairs(self.world.folder)[f"{preset} {side}"]
        ]
        self.random.shuffle(rows)
        return rows[:count]

    def answers(self, count: int = 800, side: str = "train") -> list[Row]:
        """Rows of prompt and response: the preferred answers."""
        return [{"prompt": r["prompt"], "response": r["chosen"]} for r in self.pairs(count, side=side)]

    def file(self, rows: Iterable[Row], name: str = "data.jsonl") -> str:
        path = self.files / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    def judge(self, code: str) -> str:
        """A file of the user's own with the reward function ``judge``; its spec."""
        module = "judge_" + self.folder.name.replace("-", "_")  # one name a case: Python keeps a module once imported
        (self.files / f"{module}.py").write_text(code.strip() + "\n", encoding="utf-8")
        return f"{module}:judge"

    def copy(self, source: Path, name: str = "model") -> Path:
        target = self.files / name
        shutil.copytree(source, target)
        return target

    def sft(self, rows: Iterable[Row], start: str | Path | None = None, **keys: Any) -> SFTConfig:
        """SFT from scratch, unless ``start`` names a model, which is then trained further at a lower rate."""
        rate = 1e-3 if start else 5e-3
        config = SFTConfig(
            output=str(self.folder / RUN), seed=self.seed, responses="chosen",
            data=DataConfig(path=self.file(rows), max_prompt_tokens=96, max_response_tokens=64),
            model=model(start or f"builtin:{self.size}"),
            train=train(max_steps=42, batch_size=12, learning_rate=rate, evaluate_every=14),
        )  # fmt: skip
        return changed(config, keys)

    def reward(self, rows: Iterable[Row], start: str | Path | None = None, **keys: Any) -> RewardConfig:
        config = RewardConfig(
            output=str(self.folder / RUN), seed=self.seed,
            data=DataConfig(path=self.file(rows), max_prompt_tokens=96, max_response_tokens=64),
            model=model(start or self.policy),
            train=train(max_steps=48, batch_size=16, learning_rate=1e-3, evaluate_every=16),
        )  # fmt: skip
        return changed(config, keys)

    def dpo(self, rows: Iterable[Row], start: str | Path | None = None, **keys: Any) -> DPOConfig:
        config = DPOConfig(
            output=str(self.folder / RUN), seed=self.seed, beta=0.2,
            data=DataConfig(path=self.file(rows), max_prompt_tokens=96, max_response_tokens=64),
            model=model(start or self.policy),
            train=train(max_steps=40, batch_size=16, learning_rate=2e-4, evaluate_every=13),
        )  # fmt: skip
        return changed(config, keys)

    def ppo(
        self,
        rows: Iterable[Row] | None = None,
        reward: str | list[str] = "",
        start: str | Path | None = None,
        **keys: Any,
    ) -> PPOConfig:
        """PPO with the small world's reward model, unless ``reward`` names others."""
        given = reward or str(self.world.reward(self.size))
        config = PPOConfig(
            output=str(self.folder / RUN), seed=self.seed, reward=[given] if isinstance(given, str) else given,
            data=DataConfig(path=self.file(self.prompts() if rows is None else rows), max_prompt_tokens=96),
            model=model(start or self.policy), kl=KLConfig(coefficient=0.1), inner_epochs=2, minibatches=2,
            train=train(max_steps=20, batch_size=6, learning_rate=4e-4),
            sampling=SamplingConfig(n=4, max_new_tokens=48, slots=64),
        )  # fmt: skip
        return changed(config, keys)

    def grpo(
        self,
        rows: Iterable[Row] | None = None,
        reward: str | list[str] = "",
        start: str | Path | None = None,
        **keys: Any,
    ) -> PPOConfig:
        return self.ppo(rows, reward, start, **{"advantage": "grpo", "kl__coefficient": 0.05} | keys)

    def prompts(self, count: int = 400) -> list[Row]:
        return [{"prompt": row["prompt"]} for row in self.pairs(count)]


def changed(config: Config, keys: dict[str, Any]) -> Config:
    """``config`` with other values; two underscores stand for the dot of a key. Nothing is checked here."""
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    values = flatten(config)
    if unknown := dotted.keys() - values.keys():
        raise KeyError(f"{sorted(unknown)} are no keys of {type(config).__name__}")
    return build(type(config), values | dotted)  # type: ignore[no-any-return]


class Cases(list[Case]):
    """A list that a decorator fills."""

    def add(
        self, name: str, source: str, story: str, cause: str, right: str, wrong: str = "", *,
        visible: bool = True, named: bool = False,
    ) -> Callable[[Callable[[Desk], RunConfig]], Callable[[Desk], RunConfig]]:  # fmt: skip
        """Keep the decorated function as the ``make`` of a case.

        Its stage is told by the first part of ``name``; ``grpo`` and ``rloo`` are ways of the stage ppo. ``wrong`` is
        a diagnosis that comes to mind and is wrong; it ends the text of ``right``.
        """
        stage = name.split("-")[0]

        def keep(made: Callable[[Desk], RunConfig]) -> Callable[[Desk], RunConfig]:
            def make(world: World, folder: Path, seed: int) -> RunConfig:
                return made(Desk(world, folder, seed))

            self.append(
                Case(
                    name=name, source=source, story=story, cause=cause, make=make, visible=visible, named=named,
                    right=right + (f" Wrong would be: {wrong}" if wrong else ""),
                    stage="ppo" if stage in ("grpo", "rloo") else stage,
                )
            )  # fmt: skip
            return made

        return keep


def foreign_tokenizer(folder: Path) -> None:
    """Replace the tokenizer in ``folder`` by one of the same size that was trained on other text.

    The built-in models' own tokenizers would not do: of two sizes, the smaller one's merges are the larger one's first.
    """
    own, size = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder).vocab_size
    other = train_tokenizer([OTHER_TEXT.read_text(encoding="utf-8")], size)
    other.chat_template = own.chat_template
    other.save_pretrained(folder)


def retemplate(folder: Path, template: str) -> None:
    """Give the tokenizer in ``folder`` another chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def random_head(folder: Path, seed: int) -> None:
    """Give the reward model in ``folder`` a score head of new random weights."""
    rewarder = AutoModelForSequenceClassification.from_pretrained(folder)
    numbers = torch.Generator().manual_seed(seed)
    head = rewarder.score.weight
    with torch.no_grad():
        head.copy_(torch.randn(head.shape, generator=numbers) * 0.3)
    rewarder.save_pretrained(folder)


def train_before(config: RunConfig) -> Path:
    """Make the run that the user made before the sick one; its folder. What the run needs stays, the rest goes."""
    concordant.sft(config)
    folder = Path(config.output)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder
