"""What SFT, reward modelling and DPO share: a step is one batch of given trees and one objective."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from concordant.algorithms import evidence
from concordant.algorithms.probe import SampleProbe
from concordant.config.train import TrainConfig
from concordant.core.objective import Objective
from concordant.core.trees import PromptTree
from concordant.data.loader import batch_of, steps_of
from concordant.engines.protocol import Learner

ObjectiveOf = Callable[[Sequence[int]], Objective]  # from the numbers of the trees a batch holds


class Supervised:
    """An algorithm for ``training.loop``.

    ``train`` and ``heldout`` are trees with their objective; ``metric`` names the held-out number that picks the
    best weights. ``probe`` samples answers at evaluation steps; ``finish`` turns means into derived metrics.
    ``end_ids`` are the tokens that end a response; ``pairs``: trees are chosen and rejected.
    """

    def __init__(
        self,
        learner: Learner,
        train: tuple[Sequence[PromptTree], ObjectiveOf],
        heldout: tuple[Sequence[PromptTree], ObjectiveOf],
        config: TrainConfig,
        seed: int,
        metric: str,
        greater_is_better: bool,
        card: Mapping[str, Any] | None = None,
        probe: SampleProbe | None = None,
        finish: Callable[[dict[str, float]], dict[str, float]] = dict,
        end_ids: Collection[int] = (),
        pairs: bool = False,
    ) -> None:
        self.learner = learner
        self.trees, self.objective = train
        self.heldout, self.heldout_objective = heldout
        self.config, self.seed = config, seed
        self.metric, self.greater_is_better = metric, greater_is_better
        self.card = dict(card or {})
        self.probe, self.finish = probe, finish
        self.end_ids, self.pairs = end_ids, pairs
        self.total_steps = steps_of(len(self.trees), config.batch_size, config.epochs, config.max_steps)
        self.last: list[int] = []  # numbers of the examples of the last step

    def step(self, step: int, learning_rate: float) -> dict[str, float]:
        numbers = batch_of(step, len(self.trees), self.config.batch_size, self.seed)
        self.last, trees = numbers, [self.trees[i] for i in numbers]
        metrics = self.learner.forward_backward(trees, self.objective(numbers))
        stepped = self.learner.step(learning_rate)
        epoch = (step + 1) * self.config.batch_size / len(self.trees)
        counted = {"epoch": epoch, "tokens": float(sum(t.tokens for t in trees)), "samples": float(len(trees))}
        measured = {"grad_norm": stepped.grad_norm, "skipped": float(stepped.skipped)}
        measured |= {f"doctor/{name}": moved for name, moved in stepped.motion.items()}
        seen = evidence.of_trees(trees, self.end_ids) | (evidence.of_pairs(trees) if self.pairs else {})
        return self.finish(metrics) | measured | seen | counted

    def evaluate(self, step: int) -> dict[str, float]:
        if not self.heldout:
            return {}
        numbers = range(len(self.heldout))
        metrics = self.finish(self.learner.evaluate(self.heldout, self.heldout_objective(numbers)))
        metrics["samples"] = float(len(numbers))
        if self.probe:
            metrics |= self.probe(step)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def samples(self, step: int) -> list[dict[str, Any]]:
        return self.probe.rows if self.probe else []

    def train_samples(self) -> list[dict[str, Any]]:
        return []

    def snapshot(self) -> Any:
        return self.learner.snapshot()

    def restore(self, snapshot: Any) -> None:
        self.learner.restore(snapshot)

    def export(self, folder: Path) -> None:
        self.learner.export(folder, self.card)

    def last_batch(self) -> dict[str, Any]:
        return {"examples": self.last, "trees": [asdict(self.trees[i]) for i in self.last]}

    def state_dict(self) -> dict[str, Any]:
        return {"learner": self.learner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
