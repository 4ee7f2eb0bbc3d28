"""The small world of bench/doctor.py: toytalk cut short, three sizes of a tiny Llama, and what runs start from.

Everything is made once, under a folder, and read by every run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import RewardConfig, SFTConfig
from concordant.config.train import TrainConfig
from concordant.data import toytalk
from concordant.data.records import Message, Pair
from concordant.models import builtin
from concordant.models.builtin import Size
from concordant.stages import common
from concordant.training import progress

SIZES = {
    "doctor-a": Size(vocabulary=420, hidden=64, layers=2, heads=2, mlp=160),
    "doctor-b": Size(vocabulary=420, hidden=96, layers=1, heads=4, mlp=192),
    "doctor-c": Size(vocabulary=512, hidden=64, layers=3, heads=4, mlp=128),
}
TRAIN, HELD_OUT, PROBE = 1_600, 96, 24  # pairs, pairs, prompts
PRESETS = ("demo", "human")
DATA = DataConfig(path="builtin:toytalk", max_prompt_tokens=96, max_response_tokens=64)


def pairs(preset: str, side: str) -> list[Pair]:
    """Short answers to single questions: what so small a model can learn in a minute."""
    made = toytalk.training_pairs(preset, 0) if side == "train" else toytalk.heldout_pairs(preset, 0)
    short = [p for p in made if len(p.prompt) == 1 and max(len(p.chosen), len(p.rejected)) <= 110]
    return short[: TRAIN if side == "train" else HELD_OUT]


def drawn_pairs(folder: Path) -> dict[str, list[Pair]]:
    """``pairs`` of both presets and sides by "preset side", kept in ``folder``: drawing them takes seconds."""
    kept = folder / "pairs.json"
    if not kept.is_file():
        made = {f"{p} {s}": [asdict(pair) for pair in pairs(p, s)] for p in PRESETS for s in ("train", "held-out")}
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(made), encoding="utf-8")
    read = json.loads(kept.read_text(encoding="utf-8"))
    return {
        name: [Pair(**{**row, "prompt": tuple(Message(**m) for m in row["prompt"])}) for row in rows]
        for name, rows in read.items()
    }


def train(**changes: object) -> TrainConfig:
    fixed = {"tensorboard": False, "schedule": "constant", "threads": 1}
    return TrainConfig(**{**fixed, **changes})  # type: ignore[arg-type]


def model(name: str | Path, rank: int = 0, dropout: float = 0.0) -> ModelConfig:
    return ModelConfig(name=str(name), precision="fp32", device="cpu", lora=LoraConfig(rank=rank, dropout=dropout))


class World:
    """What runs start from, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sft(self, size: str) -> Path:
        return self.folder / f"sft-{size}" / "model"

    def reward(self, size: str) -> Path:
        return self.folder / f"reward-{size}" / "model"

    def make(self, sizes: Iterable[str] = tuple(SIZES)) -> None:
        for size in sizes:
            self._sft(size)
            if not self.reward(size).is_dir():
                concordant.reward(
                    RewardConfig(
                        output=str(self.reward(size).parent), data=DATA, model=model(self.sft(size)),
                        train=train(max_steps=150, batch_size=16, learning_rate=2e-3), lm_coefficient=0.3,
                    )
                )  # fmt: skip

    def _sft(self, size: str) -> None:
        if not self.sft(size).is_dir():
            concordant.sft(
                SFTConfig(
                    output=str(self.sft(size).parent), data=DATA, model=model(f"builtin:{size}"),
                    train=train(max_steps=400, batch_size=32, learning_rate=5e-3, schedule="cosine"),
                )
            )  # fmt: skip


@contextmanager
def small_world(folder: Path) -> Iterator[None]:
    """Our sizes among the built-in ones, the short pairs, a small probe; quiet, and without waiting for the disk."""
    drawn = drawn_pairs(folder)
    display = progress.Display(Console(file=io.StringIO()))
    with (
        patch.dict(builtin.SIZES, SIZES),
        patch.object(toytalk, "training_pairs", lambda preset, seed: list(drawn[f"{preset} train"])),
        patch.object(toytalk, "heldout_pairs", lambda preset, seed: list(drawn[f"{preset} held-out"])),
        patch.object(common, "PROBE_PROMPTS", PROBE),
        patch("os.fsync", lambda descriptor: None),
        progress.use(display),
    ):
        torch.set_num_threads(1)
        yield
