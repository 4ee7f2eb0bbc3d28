"""Quantities that several rules ask of a history, in the units of their names."""

from __future__ import annotations

import math

from concordant.doctor.history import History

SAME = 1e-3  # share of a held-out loss that rounding explains


def path(h: History) -> float | None:
    """The sum of all updates over the size of the weights; None where updates are not logged."""
    if not h.has("doctor/update/ratio"):
        return None
    inner = int(h.setting("inner_epochs", 1)) * int(h.setting("minibatches", 1))
    return inner * sum(x for x in h.values("doctor/update/ratio") if math.isfinite(x))


def stands_still(h: History) -> bool:
    """Whether every evaluation gave the same held-out loss: the weights do not move, whatever a batch's loss does."""
    heldout = h.values("eval/bradley_terry") or h.values("eval/loss")
    return len(heldout) > 1 and max(heldout) - min(heldout) < SAME * abs(heldout[0])


def kl_per_token(h: History, rows: int = 3) -> float | None:
    """Nats a token of the sampled answers from the reference."""
    kl, length = h.now("objective/kl", rows), h.now("response/length", rows)
    return kl / length if kl is not None and length else None


def nats_gained(h: History, side: str) -> float | None:
    """Log-prob of chosen or rejected answers now less the reference's of the very same, in nats a response.

    So the lengths of the answers do not matter.
    """
    if h.setting("loss") == "ipo":  # its rewards are of a token
        change = h.change(f"logps/{side}")
        return change.by if change else None
    reward = h.now(f"rewards/{side}")
    return None if reward is None else reward / float(h.setting("beta", 0.1))
