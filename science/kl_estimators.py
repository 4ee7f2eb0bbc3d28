"""Law 8, estimators of the KL: what they are worth as values, and what their gradients are the gradients of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant import losses
from science import decide

ANSWERS = 512  # of a policy
NEAR, FAR = 0.15, 1.0  # deviation of the reference's logits from the policy's: for values, and for gradients
ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": losses.k1, "k2": losses.k2, "k3": losses.k3}


def measure(seed: int, folder: Path) -> dict[str, Any]:
    near, far = _estimates(seed, NEAR), _estimates(seed, FAR)
    found = {k: {"bias": near[k]["bias"], "variance": near[k]["variance"]} for k in ESTIMATORS}
    return {k: found[k] | {name: far[k][name] for name in ("size", "from_kl", "from_other")} for k in ESTIMATORS} | {
        "placement": far["placement"]
    }


def _estimates(seed: int, distance: float) -> dict[str, Any]:
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(ANSWERS, generator=stream, dtype=torch.float64).requires_grad_()
    away = torch.randn(ANSWERS, generator=stream, dtype=torch.float64)
    reference = (logits.detach() + distance * away).log_softmax(0)
    logp = logits.log_softmax(0)
    p = logp.exp()
    kl, other = (p * (logp - reference)).sum(), (reference.exp() * (reference - logp)).sum()
    exact, of_other = _gradient(kl, logits), _gradient(other, logits)
    found: dict[str, Any] = {}
    for name, estimator in ESTIMATORS.items():
        value = estimator(logp, reference)
        expected = (p * value).sum().detach()
        deviation = float((p * (value - expected) ** 2).sum().detach())
        # What a loss does: sample from π, which has no gradient there, and differentiate the estimate.
        gradient = _gradient((p.detach() * value).sum(), logits)
        found[name] = {
            "bias": abs(float(expected / kl.detach()) - 1),
            "variance": deviation,
            "size": float(gradient.norm() / exact.norm()),
            "from_kl": _apart(gradient, exact),
            "from_other": _apart(gradient, of_other),
        }
    # The policy gradient of the reward -k1 is -Σ π k1 ∇ log π.
    rewarded = -_gradient((p.detach() * -losses.k1(logp, reference).detach() * logp).sum(), logits)
    in_loss = _gradient((p.detach() * losses.k2(logp, reference)).sum(), logits)
    return found | {"placement": _apart(rewarded, in_loss)}


def _gradient(of: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(of, logits, retain_graph=True)[0]


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    worst_bias = decide.every([r[k]["bias"] for r in results for k in ("k1", "k3")], most=1e-5)
    biased = min(r["k2"]["bias"] for r in results) > 1e-3
    wrong = [max(r["k1"]["size"], r["k2"]["from_kl"], r["k3"]["from_other"]) for r in results]
    differs = min(r["k3"]["from_kl"] for r in results) > 0.1
    return {
        "value": _also(worst_bias, biased),
        "variance": decide.every([r["k3"]["variance"] / r["k1"]["variance"] for r in results], most=0.5),
        "gradient": _also(decide.every(wrong, most=1e-4), differs),
        "placement": decide.every([r["placement"] for r in results], most=1e-4),
    }


def _also(found: decide.Decision, holds: bool) -> decide.Decision:
    """``found``, if the second half of its test holds too."""
    verdict = found.verdict if holds else decide.NOT_REPRODUCED
    return decide.Decision(found.value, found.low, found.high, found.threshold, verdict)


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    left, right = axes
    names = list(ESTIMATORS)
    left.bar(names, [sum(r[k]["variance"] for r in results) / len(results) for k in names], color="tab:blue")
    left.set(yscale="log", ylabel="variance, nats²", title="Variance of one sample's estimate")
    for place, (key, label) in enumerate((("from_kl", "KL(π‖π_ref)"), ("from_other", "KL(π_ref‖π)"))):
        heights = [sum(r[k][key] for r in results) / len(results) for k in names]
        right.bar(
            [i + 0.4 * place for i in range(3)], heights, width=0.4, label=f"distance from the gradient of {label}"
        )
    right.set(xticks=[0.2, 1.2, 2.2], xticklabels=names, ylabel="relative distance", title="What the gradients are")
