"""The charts of a run's page, and the curves that they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from concordant.runs.metrics import metric
from concordant.studio.columns import Column, Columns
from concordant.studio.decimate import Numbers, at_same_steps, decimate, listed, smooth


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    metrics: tuple[str, ...]  # those that a run has are drawn
    x: str = "step"
    about: str = ""  # what to look for


CHARTS = (
    Chart("Loss", ("loss", "eval/loss")),
    Chart(
        "Reward",
        ("objective/score", "objective/rlhf_reward", "eval/reward", "reward/chosen", "reward/rejected"),
        about="The proxy that is trained on. In a reward model: the scores of both answers of a pair.",
    ),
    Chart("Implicit reward", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    Chart(
        "Accuracy",
        ("accuracy", "eval/accuracy", "rewards/accuracies", "eval/rewards/accuracies", "eval/token_accuracy"),
    ),
    Chart(
        "Gold", ("objective/gold", "eval/gold"), about="The true quality, where it is known. It is never trained on."
    ),
    Chart("KL from the reference", ("objective/kl", "eval/kl"), about="How far the policy drifted, nats a response."),
    Chart("KL of one step", ("policy/approx_kl",)),
    Chart("Entropy", ("objective/entropy_per_token",), about="An entropy near 0 means one answer to every prompt."),
    Chart("Clip fraction", ("policy/clip_fraction", "value/clip_fraction")),
    Chart("Length of answers", ("response/length", "eval/length")),
    Chart(
        "Critic",
        ("value/explained_variance",),
        about="1: the critic knows the returns; 0: it is as good as their mean.",
    ),
    Chart("Gradient", ("grad_norm", "value/grad_norm")),
    Chart("Learning rate", ("learning_rate",)),
    Chart("Reward against KL", ("eval/reward",), "eval/kl", about="What each nat of drift gains in the proxy."),
    Chart(
        "Gold against KL",
        ("eval/gold",),
        "eval/kl",
        about="Over-optimisation: gold falls while the proxy still rises.",
    ),
    Chart("Gold against proxy", ("eval/gold",), "eval/reward"),
)


def about_metric(name: str) -> dict[str, str]:
    """The meaning and the unit of a metric; empty for one that no run of this version logs."""
    found = metric(name)
    return {"name": name, "meaning": found.meaning if found else "", "unit": found.unit if found else ""}


def curve(columns: Columns, name: str, x: str, points: int, smoothing: float) -> dict[str, Any] | None:
    """The curve of one metric for JSON, over the steps or over the metric ``x``; None if the run has not logged both.

    ``x``, ``y`` and, with smoothing, ``smooth`` are lists of one length; null is a value that was not finite.
    """
    with columns.lock:
        found = columns.columns.get(name)
        other = columns.columns.get(x) if x != "step" else None
        if found is None or (x != "step" and other is None):
            return None
        steps, values = numbers(found)
        if other is not None:
            steps, at, values = at_same_steps(numbers(other), (steps, values))
            return {"points": len(values), "x": listed(at), "y": listed(values), "steps": listed(steps)}
    kept_steps, kept = decimate(steps, values, points)
    result: dict[str, Any] = {"points": len(values), "x": listed(kept_steps), "y": listed(kept)}
    if smoothing:
        soft_steps, soft = decimate(steps, smooth(values, smoothing), points)
        result |= {"smooth_x": listed(soft_steps), "smooth": listed(soft)}
    return result


def numbers(column: Column) -> tuple[Numbers, Numbers]:
    """The steps and values of a column, as copies, because the column may grow."""
    return np.array(column.steps), np.array(column.values)
