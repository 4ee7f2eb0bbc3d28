"""The work of a training step, as pieces: each names a learner, trees and an objective. ``run`` does the work.

A pretraining mix, a replay of old answers or another round of samples is one more piece and needs no new loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from concordant.core.objective import Objective
from concordant.core.trees import PromptTree
from concordant.engines.protocol import Future, Learner, StepMetrics

STOPPED = "policy/stopped_early"


@dataclass(frozen=True, slots=True)
class Piece:
    """A learner, trees and an objective. They give the gradient of the learner's next step, or a part of it."""

    learner: Learner
    trees: Sequence[PromptTree]
    objective: Objective
    _: KW_ONLY
    rate: float  # learning rate of the optimizer step; if a learner has several pieces, the last one's is used
    prefix: str = ""  # put before the names of the optimizer's metrics
    stop: Callable[[Mapping[str, float]], bool] | None = None  # whether, by the piece's metrics, to omit this step


def run(work: Iterable[Sequence[Piece]]) -> Iterator[dict[str, float]]:
    """For each round of pieces: add up each learner's gradients, take one step of each learner, and yield the metrics.

    Learners come in the order of their first pieces. If a piece says stop, its learner's step is omitted and the work
    ends. The function waits for a result only when it needs it, so learners on different machines work at the same
    time.
    """
    for pieces in work:
        done: list[_Update] = []
        stopped = False
        for own in _by_learner(pieces):
            learner, last = own[-1].learner, own[-1]
            gradients = [learner.forward_backward(piece.trees, piece.objective) for piece in own]
            stopped = any(p.stop and p.stop(g.result()) for p, g in zip(own, gradients, strict=True))
            if stopped:
                learner.discard()
            done.append(_Update(gradients, None if stopped else learner.step(last.rate), last.prefix))
            if stopped:
                break
        yield _metrics(done) | ({STOPPED: 1.0} if stopped else {})
        if stopped:
            return


@dataclass(frozen=True, slots=True)
class _Update:
    gradients: Sequence[Future[dict[str, float]]]
    step: Future[StepMetrics] | None  # None if it was omitted
    prefix: str


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the rounds that have it; for metrics that end in "/max" the greatest value."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {n: max(c) if n.endswith("/max") else sum(c) / len(c) for n, c in columns.items()}


def _by_learner(pieces: Sequence[Piece]) -> list[list[Piece]]:
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(id(piece.learner), []).append(piece)
    return list(groups.values())


def _metrics(updates: Sequence[_Update]) -> dict[str, float]:
    """The metrics of one round. ``loss`` is the sum over the last learner's pieces. ``skipped`` is 1 if any learner
    skipped its update."""
    row: dict[str, float] = {}
    for update in updates:
        results = [gradient.result() for gradient in update.gradients]
        for metrics in results:
            row |= metrics
        row["loss"] = sum(metrics["loss"] for metrics in results)
        if update.step is not None:
            stepped = update.step.result()
            row |= {f"doctor/{update.prefix}{name}": moved for name, moved in stepped.motion.items()}
            row[f"{update.prefix}grad_norm"] = stepped.grad_norm
            row |= {} if stepped.held is None else {f"{update.prefix}retain/penalty": stepped.held}
            row["skipped"] = max(row.get("skipped", 0.0), float(stepped.skipped))
    return row
