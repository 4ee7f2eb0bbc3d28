"""The lesson that reads a run: the proxy rises, and gold falls.

A run of PPO on toytalk logs both. ``recorded/`` holds what such a run logged, so that the lesson has something to show
before anybody has trained: RLOO against a learnt reward model without a KL penalty, the run ``rloo-0-0`` of
``python -m science --only rl_overoptimisation --seeds 2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from concordant.core.errors import UserError
from concordant.runs.logs import Row
from concordant.studio.charts import numbers
from concordant.studio.columns import Columns
from concordant.studio.decimate import Numbers, at_same_steps, smooth
from concordant.studio.lesson_maths import Shown

RULE = "proxy_over_gold"
_MOST = 40  # rows of the table
_PAST = 0.8  # weight of the past in the curve of the answers that were learnt from


@dataclass(frozen=True, slots=True)
class Read:
    """What the lesson reads of a run."""

    name: str
    columns: Columns
    samples: list[Row]


def over_optimisation(at: Mapping[str, Any]) -> Shown:
    """Proxy and gold of held-out prompts over training. Raises UserError for a run that has not logged both."""
    run: Read = at["run"]
    steps, proxy, gold = _both(run.columns, "eval/reward", "eval/gold")
    if len(steps) < 3:
        raise UserError(
            f"{run.name} has fewer than three evaluations with a reward and gold, which toytalk alone knows"
        )
    kl = dict(zip(*[v.tolist() for v in _series(run.columns, "eval/kl")], strict=True))
    best = int(gold.argmax())
    trained, trained_proxy, trained_gold = _both(run.columns, "objective/score", "objective/gold")
    prompt, answers = _answers(run.samples, int(at["prompt"]))
    few = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST)).round().astype(int))
    curves = {"proxy, held-out prompts": (steps, proxy), "gold, held-out prompts": (steps, gold)}
    if len(trained):
        curves |= {
            "proxy, prompts trained on": (trained, smooth(trained_proxy, _PAST)),
            "gold, prompts trained on": (trained, smooth(trained_gold, _PAST)),
        }
    return Shown(
        facts={
            "run": run.name,
            "proxy at the first and at the last evaluation": f"{proxy[0]:.2f}, {proxy[-1]:.2f}",
            "gold at the first and at the last evaluation": f"{gold[0]:.2f}, {gold[-1]:.2f}",
            "gold at its best": f"{gold[best]:.2f}, at step {steps[best]:.0f}",
            "KL there and at the end (nats a response)": f"{_said(kl, steps[best])}, {_said(kl, steps[-1])}",
            "since then, the proxy moved by": float(proxy[-1] - proxy[best]),
            "since then, gold moved by": float(gold[-1] - gold[best]),
            "what the doctor says": _doctor(run),
        },
        x="step",
        y="change since the start, as a share of the greatest",
        curves={name: (x.tolist(), _share(y).tolist()) for name, (x, y) in curves.items()},
        heads=("step", "KL (nats)", "proxy", "gold", *((f"an answer to “{prompt}”",) if prompt else ())),
        rows=[
            (float(steps[i]), _said(kl, steps[i]), float(proxy[i]), float(gold[i]))
            + ((answers.get(int(steps[i]), "–"),) if prompt else ())
            for i in few
        ],
    )


def _series(columns: Columns, name: str) -> tuple[Numbers, Numbers]:
    with columns.lock:
        found = columns.columns.get(name)
        return numbers(found) if found else (np.empty(0), np.empty(0))


def _both(columns: Columns, one: str, other: str) -> tuple[Numbers, Numbers, Numbers]:
    """The steps at which both metrics have a number, and the numbers."""
    steps, x, y = at_same_steps(_series(columns, one), _series(columns, other))
    known = np.isfinite(x) & np.isfinite(y)
    return steps[known], x[known], y[known]


def _share(values: Numbers) -> Numbers:
    """Changes since the first value, in units of the greatest change, so that proxy and gold fit into one picture."""
    moved = values - values[0]
    return moved / max(float(np.abs(moved).max()), 1e-12)


def _said(kl: Mapping[float, float], step: float) -> str:
    return f"{kl[step]:.1f}" if step in kl else "–"


def _answers(samples: list[Row], number: int) -> tuple[str, dict[int, str]]:
    """The ``number``th of the held-out prompts whose answers were kept, and its answer at each step."""
    heldout = [row for row in samples if row.get("split") == "eval" and isinstance(row.get("step"), int)]
    asked = list(dict.fromkeys(_last_turn(row) for row in heldout))
    if not asked:
        return "", {}
    prompt = asked[(number - 1) % len(asked)]
    return prompt, {row["step"]: str(row.get("response", "")) for row in heldout if _last_turn(row) == prompt}


def _last_turn(row: Row) -> str:
    turns = row.get("prompt")
    return (
        str(turns[-1].get("content", "")) if isinstance(turns, list) and turns and isinstance(turns[-1], dict) else ""
    )


def _doctor(run: Read) -> str:
    """What the doctor's rule about proxy and gold says of the answers that the policy learnt from."""
    from concordant.doctor.history import History
    from concordant.doctor.rules import RULES

    history = History({"verb": "ppo"})
    steps, score, gold = _both(run.columns, "objective/score", "objective/gold")
    for step, proxy, truth in zip(steps.tolist(), score.tolist(), gold.tolist(), strict=True):
        history.add({"step": step, "objective/score": proxy, "objective/gold": truth})
    (rule,) = (rule for rule in RULES if rule.name == RULE)
    finding = rule(history)
    if finding is not None:
        return f"{finding.seen}: {finding.cause}"
    return f"nothing (rule {RULE}): gold did not fall clearly while the proxy rose"
