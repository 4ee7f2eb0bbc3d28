"""What the lessons of the page "Learn" compute. Each number comes from the functions with which the library trains.

A lesson is a function from its inputs to a ``Shown``. torch is imported when the first lesson is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from concordant.core.errors import UserError

_POINTS = 161  # of a curve


@dataclass(frozen=True, slots=True)
class Input:
    """A number that the reader moves, or a text of numbers or names."""

    name: str
    label: str
    default: float | str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Shown:
    facts: dict[str, float | str]  # what the numbers mean, and the numbers
    x: str = ""
    y: str = ""
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    heads: tuple[str, ...] = ()  # of a table
    rows: list[tuple[float | str, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lesson:
    title: str
    about: str
    formula: str
    inputs: tuple[Input, ...]
    show: Callable[[Mapping[str, Any]], Shown]
    reads_run: bool = False  # whether "run" is among what it is shown at: what the lesson reads of a run


def answer(lesson: Lesson, given: Mapping[str, str], run: object = None) -> Shown:
    """What the lesson shows for these texts. A number out of its range is refused."""
    values: dict[str, Any] = {"run": run} if lesson.reads_run else {}
    for known in lesson.inputs:
        text = given.get(known.name, known.default)
        values[known.name] = str(text) if isinstance(known.default, str) else _number(known, text)
    return lesson.show(values)


def _number(known: Input, text: Any) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not known.low <= value <= known.high:
        raise UserError(f"{known.name}: expected a number in [{known.low:g}, {known.high:g}]; given {str(text)[:40]}")
    return value


def _numbers(name: str, text: str, most: int = 40) -> list[float]:
    """The numbers in a text, which commas or spaces separate."""
    try:
        values = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if not 1 <= len(values) <= most or not all(math.isfinite(value) and abs(value) <= 1e6 for value in values):
        raise UserError(f"{name}: expected 1 to {most} numbers of at most a million; given {text[:60]!r}")
    return values


def bradley_terry(at: Mapping[str, Any]) -> Shown:
    import torch

    from concordant.core.losses import bradley_terry as loss_of

    def both(differences: Iterable[float]) -> tuple[Any, Any]:
        chosen = (torch.tensor(list(differences), dtype=torch.float64)).requires_grad_()
        loss = loss_of(chosen / at["temperature"], torch.zeros_like(chosen), at["margin"])
        return loss.detach(), torch.autograd.grad(loss.sum(), chosen)[0]

    difference = at["chosen"] - at["rejected"]
    loss, gradient = both([difference])
    xs = torch.linspace(-6, 6, _POINTS, dtype=torch.float64).tolist()
    losses, gradients = both(xs)
    chance = math.exp(
        -float(loss_of(torch.tensor(difference / at["temperature"], dtype=torch.float64), torch.tensor(0.0)))
    )
    return Shown(
        facts={
            "difference of the rewards": difference,
            "probability that people choose the chosen answer": chance,
            "loss (nats)": float(loss[0]),
            "gradient of the loss by the chosen reward": float(gradient[0]),
        },
        x="chosen reward less rejected reward",
        y="nats; nats a reward unit",
        curves={"loss": (xs, losses.tolist()), "gradient": (xs, gradients.tolist())},
    )


def preferences(at: Mapping[str, Any]) -> Shown:
    import numpy as np

    from concordant.evaluation.ratings import bradley_terry_ratings

    games = [part.split(">") for part in at["wins"].replace("\n", ",").split(",") if part.strip()]
    if not games or len(games) > 200 or any(len(game) != 2 or not all(name.strip() for name in game) for game in games):
        raise UserError('wins: expected comparisons such as "a>b, b>c", at most 200')
    pairs = [(winner.strip()[:40], loser.strip()[:40]) for winner, loser in games]
    names = sorted({name for pair in pairs for name in pair})
    if len(names) > 12 or any(winner == loser for winner, loser in pairs):
        raise UserError("wins: expected at most 12 names, and no name against itself")
    won = np.zeros((len(names), len(names)))
    for winner, loser in pairs:
        won[names.index(winner), names.index(loser)] += 1
    rated = bradley_terry_ratings(won)
    cycles = [
        f"{a} > {b} > {c} > {a}"
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for c in names[i + 1 :]
        if b != c
        and all(
            won[names.index(x), names.index(y)] > won[names.index(y), names.index(x)]
            for x, y in ((a, b), (b, c), (c, a))
        )
    ]
    upset = sum(rated[names.index(loser)] > rated[names.index(winner)] for winner, loser in pairs)
    order = sorted(range(len(names)), key=lambda i: -rated[i])
    return Shown(
        facts={
            "comparisons": len(pairs),
            "cycles of three (no rating can explain all their comparisons)": "; ".join(cycles[:8]) or "none",
            "comparisons that go against the ratings": int(upset),
        },
        heads=("name", "rating (nats)", "wins", "losses"),
        rows=[(names[i], float(rated[i]), int(won[i].sum()), int(won[:, i].sum())) for i in order],
    )


def clipped(at: Mapping[str, Any]) -> Shown:
    import torch

    from concordant.core.losses import ppo_policy

    def both(ratios: list[float]) -> tuple[list[float], list[float]]:
        ratio = torch.tensor(ratios, dtype=torch.float64).requires_grad_()
        loss = ppo_policy(ratio.log(), torch.zeros_like(ratio), torch.full_like(ratio, at["advantage"]), at["clip"])
        return (-loss).tolist(), (-torch.autograd.grad(loss.sum(), ratio)[0]).tolist()

    (objective,), (gradient,) = both([at["ratio"]])
    xs = torch.linspace(0.02, 3, _POINTS, dtype=torch.float64).tolist()
    objectives, gradients = both(xs)
    return Shown(
        facts={
            "objective": objective,
            "gradient by the ratio": gradient,
            "the objective is": "flat: this token teaches nothing more" if gradient == 0 else "not clipped",
        },
        x="ratio of the new to the old probability",
        y="objective; its gradient",
        curves={"objective": (xs, objectives), "gradient": (xs, gradients)},
    )


def estimators(at: Mapping[str, Any]) -> Shown:
    import torch

    from concordant.core.kl import ESTIMATORS, exact

    logits = torch.tensor(_numbers("policy", at["policy"], 12), dtype=torch.float64)
    reference = torch.tensor(_numbers("reference", at["reference"], 12), dtype=torch.float64)
    if len(logits) != len(reference) or len(logits) < 2:
        raise UserError("policy and reference: expected the same number of logits, at least 2")
    logprob, reference_logprob = logits.log_softmax(0), reference.log_softmax(0)
    chance = logprob.exp()
    rows: list[tuple[float | str, ...]] = []
    for name, estimator in ESTIMATORS.items():
        value = estimator(logprob, reference_logprob)
        mean = float((chance * value).sum())
        rows.append((name, mean, float((chance * (value - mean) ** 2).sum().sqrt()), float(value.min())))
    return Shown(
        facts={"exact KL of the policy from the reference (nats)": float(exact(logits[None], reference[None])[0])},
        heads=("estimator", "mean over tokens of the policy", "standard deviation of one token", "least value"),
        rows=rows,
    )


def controller(at: Mapping[str, Any]) -> Shown:
    from concordant.core.kl import AdaptiveKLController

    adaptive = AdaptiveKLController(kl_coef=at["coefficient"], target_kl=at["target"], horizon=int(at["horizon"]))
    steps, coefficients, kls = list(range(1, int(at["steps"]) + 1)), [], []
    kl = 0.0
    for _ in steps:
        kl += 0.1 * (at["pull"] / adaptive.kl_coef - kl)  # the policy drifts to where reward and penalty balance
        coefficients.append(adaptive.update(kl, int(at["responses"])))
        kls.append(kl)
    return Shown(
        facts={"coefficient at the end": coefficients[-1], "KL at the end (nats a response)": kls[-1]},
        x="step",
        y="nats; coefficient times 10",
        curves={
            "KL": ([float(s) for s in steps], kls),
            "target": ([1.0, float(steps[-1])], [at["target"]] * 2),
            "10 × coefficient": ([float(s) for s in steps], [10 * c for c in coefficients]),
        },
    )


def gae(at: Mapping[str, Any]) -> Shown:
    import torch

    from concordant.core.advantages import Returns
    from concordant.core.advantages import gae as estimate

    rewards, values = _numbers("rewards", at["rewards"]), _numbers("values", at["values"])
    if len(rewards) != len(values):
        raise UserError(f"rewards and values: expected as many of each; given {len(rewards)} and {len(values)}")

    def advantages(lam: float) -> tuple[list[float], list[float]]:
        found = estimate(
            Returns(
                score_B=torch.zeros(1, dtype=torch.float64),
                penalty_N=torch.tensor(rewards, dtype=torch.float64),
                value_N=torch.tensor(values, dtype=torch.float64),
                length_B=torch.tensor([len(rewards)]),
                group_B=torch.tensor([0]),
                gamma=at["gamma"],
                lam=lam,
            )
        )
        return found[0].tolist(), found[1].tolist()

    tokens = [float(t + 1) for t in range(len(rewards))]
    advantage, returns = advantages(at["lam"])
    landscape = {f"λ = {lam:g}": (tokens, advantages(lam)[0]) for lam in (0.0, 0.5, 0.9, 1.0)}
    return Shown(
        facts={"sum of the advantages": sum(advantage)},
        x="token",
        y="advantage",
        curves={f"your λ = {at['lam']:g}": (tokens, advantage), **landscape},
        heads=("token", "reward", "value", "advantage", "target of the critic"),
        rows=[*zip(tokens, rewards, values, advantage, returns, strict=True)],
    )


def implicit(at: Mapping[str, Any]) -> Shown:
    import torch

    from concordant.core.pair_losses import sigmoid_dpo

    chosen, rejected = at["chosen"] - at["chosen_reference"], at["rejected"] - at["rejected_reference"]

    def both(ratios: list[float]) -> tuple[list[float], list[float]]:
        logratio = torch.tensor(ratios, dtype=torch.float64).requires_grad_()
        loss = sigmoid_dpo(logratio, at["beta"])
        return loss.tolist(), torch.autograd.grad(loss.sum(), logratio)[0].tolist()

    (loss,), (gradient,) = both([chosen - rejected])
    xs = torch.linspace(-40, 40, _POINTS, dtype=torch.float64).tolist()
    losses, gradients = both(xs)
    return Shown(
        facts={
            "implicit reward of the chosen answer": at["beta"] * chosen,
            "implicit reward of the rejected answer": at["beta"] * rejected,
            "margin": at["beta"] * (chosen - rejected),
            "loss (nats)": loss,
            "gradient of the loss by the log-ratio": gradient,
        },
        x="log-ratio of the chosen less that of the rejected answer (nats)",
        y="nats",
        curves={"loss": (xs, losses), "gradient": (xs, gradients)},
    )


def best_of_n(at: Mapping[str, Any]) -> Shown:
    import numpy as np

    from concordant.evaluation.metrics import best_of_n_kl_bound

    grid = np.linspace(-8, 8, 4001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    below = np.clip(np.cumsum(density) * (grid[1] - grid[0]), 0, 1)

    def best(n: int) -> float:
        """The mean of the greatest of n draws from the standard normal distribution."""
        return float((grid * n * density * below ** (n - 1)).sum() * (grid[1] - grid[0]))

    numbers = sorted({1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, int(at["n"])})
    kls, proxies = [best_of_n_kl_bound(n) for n in numbers], [best(n) for n in numbers]
    gold = [at["correlation"] * proxy for proxy in proxies]
    chosen = numbers.index(int(at["n"]))
    return Shown(
        facts={
            "KL from the policy, at most (nats)": kls[chosen],
            "gain of the proxy (standard deviations)": proxies[chosen],
            "gain of the true quality (standard deviations)": gold[chosen],
        },
        x="KL from the policy, log n - (n - 1)/n (nats)",
        y="gain, standard deviations of one answer",
        curves={"proxy": (kls, proxies), "true quality": (kls, gold)},
        heads=("n", "KL (nats)", "gain of the proxy", "gain of the true quality"),
        rows=[*zip(map(float, numbers), kls, proxies, gold, strict=True)],
    )
