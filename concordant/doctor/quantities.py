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


TRAIN_FIRST = "Name a trained model in --model.name, or train one with `concordant sft` first"
MOST_WEIGHT = 1.0  # of a nat of KL, beside rewards of deviation 1: a greater one holds the policy where it is
LEAST_RATE = 0.1  # of the usual rate: a lower one teaches too little


def hold(weight: float) -> str:
    """A cure by the KL weight ``weight``, which is not raised for ever."""
    higher = min(MOST_WEIGHT, max(0.05, 3 * weight))
    return f"set kl.coefficient {higher:.2g}" if higher > weight else "end the run earlier: set train.max_steps lower"


def lower(h: History) -> str:
    """A cure by the learning rate, which is not lowered for ever."""
    rate, usual = h.number("train.learning_rate"), h.beside.start().get("usual_rate") or 0.0
    if not rate:
        return "Lower train.learning_rate threefold"
    if rate / 3 < LEAST_RATE * usual:
        steps = h.beside.start().get("steps") or 0
        return f"Set train.max_steps {max(1, int(steps / 2))}" if steps else "End the run at half its steps"
    return f"Set train.learning_rate {rate / 3:.1g}"


def reward_spread(h: History) -> float | None:
    """The deviation of the rewards that the policy learns from: 1 after normalisation, as in every group of GRPO."""
    spread = h.start("objective/score_std", 1)
    if not spread or (h.setting("reward_normalize", "none") == "none" and h.setting("advantage") != "grpo"):
        return spread
    return 1.0
