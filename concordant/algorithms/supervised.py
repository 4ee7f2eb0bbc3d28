"""The algorithm of SFT, reward modelling and DPO: a step is one batch of given trees and one objective."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from concordant.algorithms import evidence
from concordant.algorithms.probe import SampleProbe
from concordant.algorithms.retention import Retention, beside
from concordant.algorithms.work import Piece, mean, run
from concordant.config.train import TrainConfig
from concordant.core.objective import Objective
from concordant.core.trees import PromptTree
from concordant.data.loader import batch_of, steps_of
from concordant.engines.protocol import Learner
from concordant.training.exports import exports_of

ObjectiveOf = Callable[[Sequence[int]], Objective]  # from the numbers of the trees in a batch


@dataclass(frozen=True, slots=True)
class Examples:
    """Trees, and a function that returns the objective for some of them."""

    trees: Sequence[PromptTree]
    objective: ObjectiveOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The settings of a supervised run: its length, the metric that picks the best weights, and its model card."""

    config: TrainConfig
    seed: int
    metric: str = "eval/loss"  # the held-out metric that picks the best weights
    greater_is_better: bool = False
    role: str = "policy"  # the learner's folder in a checkpoint
    finish: Callable[[dict[str, float]], dict[str, float]] = dict  # adds metrics that follow from the means
    end_ids: Collection[int] = ()  # tokens that end a response
    pairs: bool = False  # whether each tree is a pair: chosen and rejected
    card: Mapping[str, Any] = field(default_factory=dict)
    retention: Retention | None = None  # text that must not be forgotten


class Supervised:
    """An algorithm for ``training.loop``. ``probe`` samples answers at evaluation steps."""

    def __init__(
        self, learner: Learner, train: Examples, heldout: Examples, course: Course, probe: SampleProbe | None = None
    ) -> None:
        self.learner, self.roles = learner, {course.role: learner}
        self.trees, self.objective = train.trees, train.objective
        self.heldout, self.heldout_objective = heldout.trees, heldout.objective
        self.course, self.config, self.probe = course, course.config, probe
        self.metric, self.greater_is_better = course.metric, course.greater_is_better
        config = course.config
        self.total_steps = steps_of(len(self.trees), config.batch_size, config.epochs, config.max_steps)
        self.exports = exports_of(learner, config.export, course.card)
        self.last: list[int] = []  # numbers of the examples of the last step

    def work(self, step: int, learning_rate: float) -> Iterator[Sequence[Piece]]:
        """One piece: the step's batch and its objective. A subclass may yield more pieces."""
        self.last = batch_of(step, len(self.trees), self.config.batch_size, self.course.seed)
        trees = [self.trees[i] for i in self.last]
        yield [Piece(self.learner, trees, self.objective(self.last), rate=learning_rate)]

    def step(self, step: int, learning_rate: float) -> dict[str, float]:
        work = beside(self.course.retention, self.work(step, learning_rate), step)
        metrics = self.course.finish(mean(list(run(work))))
        trees = [self.trees[i] for i in self.last]
        epoch = (step + 1) * self.config.batch_size / len(self.trees)
        counted = {"epoch": epoch, "tokens": float(sum(t.tokens for t in trees)), "samples": float(len(trees))}
        seen = evidence.of_trees(trees, self.course.end_ids) | (evidence.of_pairs(trees) if self.course.pairs else {})
        return metrics | seen | counted

    def evaluate(self, step: int) -> dict[str, float]:
        if not self.heldout:
            return {}
        numbers = range(len(self.heldout))
        metrics = self.course.finish(self.learner.evaluate(self.heldout, self.heldout_objective(numbers)).result())
        metrics["samples"] = float(len(numbers))
        if self.probe:
            metrics |= self.probe(step)
        if self.course.retention:
            metrics |= self.course.retention.evaluate()
        return {f"eval/{name}": value for name, value in metrics.items()}

    def samples(self, step: int) -> list[dict[str, Any]]:
        return self.probe.rows if self.probe else []

    def train_samples(self) -> list[dict[str, Any]]:
        return []

    def last_batch(self) -> dict[str, Any]:
        return {"examples": self.last, "trees": [asdict(self.trees[i]) for i in self.last]}

    def numbers(self) -> dict[str, Any]:
        return {}

    def load_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Load nothing, because the order of the data depends on the step alone."""
