"""An algorithm for the loop that needs no model: a random walk, and what a run of it has written."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from concordant.config.train import TrainConfig
from concordant.core.seeding import torch_stream
from concordant.engines.state_files import read_state, write_state
from concordant.runs.folder import RunFolder
from concordant.training.loop import PAST_LIMIT, run_loop
from concordant.training.result import LoopResult


@dataclass
class Walk:
    """A weight that moves by seeded noise with momentum: any lost or repeated step changes its bits."""

    total_steps: int = 6
    evaluations: list[float] = field(default_factory=list)  # by evaluation; empty: no held-out data
    greater_is_better: bool = False
    skip: Callable[[int], bool] = lambda step: False
    signal_at: int = -1
    metric: str = "eval/loss"
    past_limit_at: int = -1  # number of the evaluation that passes a limit

    def __post_init__(self):
        self.weight, self.momentum = torch.zeros(3), torch.zeros(3)
        self.seen, self.kept = 0, None
        self.rates: list[float] = []

    def step(self, step, learning_rate):
        noise = torch.randn(3, generator=torch_stream(0, "walk", step))
        self.momentum = 0.9 * self.momentum + noise
        self.weight = self.weight + learning_rate * self.momentum
        self.rates.append(learning_rate)
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        skipped = float(self.skip(step))
        return {"loss": float(self.weight.sum()), "grad_norm": 1.0, "tokens": 10, "samples": 2, "skipped": skipped}

    def evaluate(self, step):
        if not self.evaluations:
            return {}
        self.seen += 1
        past = {} if self.past_limit_at < 0 else {PAST_LIMIT: float(self.seen == self.past_limit_at)}
        return {"eval/loss": self.evaluations[self.seen - 1]} | past

    def train_samples(self):
        return []

    def samples(self, step):
        return [{"prompt": "p", "response": "r"}] if self.evaluations else []

    @property
    def roles(self):
        return {"policy": self}

    def keep(self):
        self.kept = self.weight.clone()

    def forget(self):
        self.kept = None

    def restore(self):
        self.weight = self.kept

    def checkpoint_bytes(self, with_kept):
        return 3 * self.export_bytes()

    def export_bytes(self):
        return 4 * (self.weight.numel() + self.momentum.numel())

    @property
    def exports(self):
        return {"model": self._export}

    def _export(self, folder, results):
        (folder / "weight.json").write_text(json.dumps(self.weight.tolist()))

    def last_batch(self):
        return {"ids": [1, 2], "weight": self.weight}

    def save(self, folder):
        write_state(folder, {"weight": self.weight, "momentum": self.momentum, "kept": self.kept})

    def load(self, folder):
        state = read_state(folder)
        self.weight, self.momentum, self.kept = state["weight"], state["momentum"], state["kept"]

    def numbers(self):
        return {"seen": self.seen}

    def load_numbers(self, numbers):
        self.seen = numbers["seen"]


def config(**changes):
    return TrainConfig(**{"learning_rate": 1.0, "tensorboard": False, **changes})


def run(path, walk, resume=False, callbacks=(), **changes) -> LoopResult:
    with RunFolder(path, resume=resume) as folder:
        return run_loop(walk, config(**changes), folder, 0, callbacks)


def rows(path, name="metrics.jsonl"):
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def exported(path):
    return json.loads((path / "model" / "weight.json").read_text())


def timeless(path):
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows(path)]
