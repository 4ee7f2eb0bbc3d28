"""Whether the weights move as they should: too far, too little, only some of them, or nowhere."""

from __future__ import annotations

import math
from statistics import median

from concordant.doctor.history import History
from concordant.doctor.quantities import (
    fitting_rate,
    is_plain_sigmoid,
    kl_per_token,
    let_go,
    nats_gained,
    path,
    rewards_are_logratios,
    stands_still,
)
from concordant.doctor.rule import (
    ALL,
    CHANCE,
    EARLY,
    EFFECT,
    GIVEN,
    HALF,
    MEASURED,
    SYMPTOM,
    Limits,
    Rule,
    Sign,
)

ROWS = 4  # in which a tensor must stand still


def part_frozen(h: History, at: Limits) -> Sign | None:
    if not h.is_at_full_rate:  # a tiny rate moves nothing that fp32 could see
        return None
    if h.has("objective/tied_groups") and h.now("objective/tied_groups", ROWS) == 1:  # no gradient, for another reason
        return None
    for prefix, whose in (("", "model"), ("value/", "critic")):
        seen_still, head = h.values(f"doctor/{prefix}update/still", ROWS), h.now(f"doctor/{prefix}update/head", ROWS)
        if len(seen_still) < ROWS:
            continue
        still = min(seen_still)
        grad = h.now(f"{prefix}grad_norm", 4) or 0.0
        numbers = {"still": still, "grad_norm": grad}
        if still > at["all"]:
            seen = f"no weight of the {whose} moves; the gradient's norm is {grad:.2g}"
            if grad == 0:
                return Sign("error", seen, "the loss does not depend on these weights", CONNECT + let_go(h), numbers)
            return Sign("error", seen, "the optimizer holds other weights", OPTIMIZE + let_go(h), numbers)
        if head == 0:
            seen = f"the {whose}'s head does not move, the rest does"
            return Sign("error", seen, "the head is frozen", OPTIMIZE, numbers)
        if still > at["share"]:
            seen = f"{still:.0%} of the {whose}'s weight tensors do not move"
            cause = "they are frozen or missing from the optimizer"
            return Sign("error", seen, cause, OPTIMIZE + let_go(h), numbers)
    return None


CONNECT = "Find where your code cuts the loss from the weights: a detach(), a no_grad(), a factor or a mask of 0"
OPTIMIZE = "Set requires_grad on what should train before the optimizer is made, and give it all of them"


def learning_rate_too_high(h: History, at: Limits) -> Sign | None:
    update = max(h.values("doctor/update/ratio", 20), default=None)
    if update is not None and not update > at["update"]:
        return None
    seen = _out_of_hand(h, at)
    if not seen:
        return None
    rate = h.setting("train.learning_rate", 0.0)
    return Sign(
        "error",
        seen + (f", and a step moves the weights by up to {update:.1%}" if update else ""),
        f"train.learning_rate {rate:g} is too high",
        f"Set train.learning_rate {min(rate / 10, fitting_rate(h) or rate):.1g}"
        if rate
        else "Lower train.learning_rate tenfold",
        {"update": update or 0.0, "learning_rate": rate},
    )


def _out_of_hand(h: History, at: Limits) -> str:
    """How the loss or the policy got away, or ''."""
    losses = h.values("loss")
    if losses and not math.isfinite(losses[-1]):
        before = [x for x in losses if math.isfinite(x)]
        rose = len(before) > 2 and before[-1] > at["rose_times"] * min(before) + 0.5
        return "the loss rose and is no longer finite" if rose else ""
    if h.stage == "ppo":
        kl, clip = h.now("policy/approx_kl", 3), h.now("policy/clip_fraction", 3)
        if not h.has("policy/approx_kl"):
            far = kl_per_token(h)
            early = far is not None and far > at["nats_per_token"] and h.rows <= at["early"]
            return f"the policy is {far:.2g} nats a token from its start after {h.rows} steps" if early else ""
        # One rare token can make a step's estimate large, so all of them must be.
        if kl is None or clip is None or kl < at["step_kl"] or min(h.values("policy/approx_kl", 3)) < at["each_kl"]:
            return ""
        return f"one step's updates move the policy by {kl:.2g} nats a token, {clip:.0%} clipped"
    if h.stage == "sft":
        recent = losses[-120:]
        usual = [median(recent[max(0, i - 4) : i + 1]) for i in range(len(recent))]  # one bad batch is not a trend
        rose = len(recent) > ROWS and usual[-1] > at["sft_times"] * min(usual) + at["sft_by"]
        return f"the loss rose from {min(usual):.2f} to {usual[-1]:.2f}" if rose else ""
    if h.stage == "dpo":
        gained, now = nats_gained(h, "chosen"), h.now("logps/chosen")
        if gained is not None and now is not None and gained < -at["lost"] and gained < -2 * abs(now - gained):
            return f"chosen answers lost {-gained:.0f} of their log-prob, from {now - gained:.0f} to {now:.0f}"
    pairs = h.values("bradley_terry" if h.stage == "reward" else "loss", 8)
    if len(pairs) <= ROWS or not _is_pair_loss(h):
        return ""
    pair, level = median(pairs), h.now("reward/chosen") if h.stage == "reward" else None
    if level is not None and abs(level) > at["level"] and pair > CHANCE - at["near"]:
        return f"scores drift to {level:.0f} while the pair loss is {pair:.2f}, a coin's {CHANCE:.2f}"
    largest = max(h.values("doctor/update/ratio", 60), default=0.0)
    broken = h.rows >= at["rows"] and largest > at["breaking"] and pair > CHANCE - at["at_chance"]
    return f"the pair loss is {pair:.2f}, a coin's {CHANCE:.2f}" if broken or pair > CHANCE + at["above"] else ""


def _is_pair_loss(h: History) -> bool:
    """The loss of what knows nothing is ln 2."""
    return h.stage == "reward" or (h.stage == "dpo" and is_plain_sigmoid(h))


MAKE_FINITE = "; make the loss finite for it, or leave its rows out"


def not_finite(h: History, at: Limits) -> Sign | None:
    loss, skipped = h.latest("loss"), h.latest("skipped") or 0.0
    finite = loss is None or math.isfinite(loss)
    if finite and skipped == 0:
        return None
    first, is_fp32 = h.rows <= 2, h.setting("model.precision") == "fp32"
    what = "the gradient" if finite else "the loss"
    return Sign(
        "error",
        f"{what} is not finite at step {h.step}{', before any update could be at fault' if first else ''}",
        "a batch without a response token, a division by zero, or weights that were not finite to begin with"
        if first
        else "one bad batch, for which the loss divides by zero or takes the logarithm of 0"
        if is_fp32
        else "one bad batch, or overflow in bf16",
        ("Run `concordant doctor` on the model and the data" if first else f"Look at the batch of step {h.step}")
        + ("; set model.precision fp32" if not is_fp32 else "" if first else MAKE_FINITE),
        {"skipped": skipped},
    )


def learning_rate_too_low(h: History, at: Limits) -> Sign | None:
    if h.rows < at["rows"] or h.progress < HALF or not h.is_at_full_rate:
        return None
    moved = path(h)
    rate, usual = h.number("train.learning_rate"), h.usual("usual_rate")
    is_tiny = bool(usual) and 0 < rate < at["tiny"] * (usual or 0.0)
    stuck = _stuck(h, at) or (_still_on_heldout(h, at) if is_tiny else "")
    if not stuck or h.latest("skipped") or (moved is not None and not 0 < moved < at["path"] and not is_tiny):
        return None
    if moved is None and h.stage in ("sft", "reward") and not stands_still(h):
        return None
    if usual and rate > at["share"] * usual:  # a careful rate that only needs more steps
        return None
    fitting = fitting_rate(h)
    higher = fitting or at["times"] * rate
    seen = stuck + (f", and {h.rows} steps together moved the weights by {moved:.2%} at most" if moved else "")
    cause = f"train.learning_rate {rate:g} is too low" + (f"; {fitting:.1g} fits this start" if fitting else "")
    cure = f"Set train.learning_rate {higher:.1g}" if rate else "Raise train.learning_rate tenfold"
    return Sign("warning", seen, cause, cure, {"path": moved or 0.0, "learning_rate": rate})


def _still_on_heldout(h: History, at: Limits) -> str:
    """That held-out loss hardly fell, or ''. Its examples are always the same, so a batch's luck plays no part."""
    heldout = h.values("eval/loss")
    if len(heldout) < 2 or heldout[0] - heldout[-1] > at["fall"] * abs(heldout[0]):
        return ""
    return f"held-out loss went from {heldout[0]:.3f} to {heldout[-1]:.3f}"


def _stuck(h: History, at: Limits) -> str:
    """What has hardly changed, or ''."""
    if h.stage == "ppo":
        kl, spread = h.now("objective/kl", 5), h.now("objective/score_std", 5)
        if kl is None or not spread:
            return ""
        small = at["nats"] if h.has("doctor/update/ratio") else at["kl_alone"]
        return f"KL from the reference is {kl:.3f} nats" if abs(kl) < small else ""
    if h.stage == "dpo" and not rewards_are_logratios(h) and h.setting("loss") != "ipo":
        return ""
    if h.stage == "dpo":
        beta = float(h.setting("beta", 0.1))
        moved = [h.now(name, 8) for name in ("rewards/margins", "rewards/chosen", "rewards/rejected")]
        nats = [abs(x) / beta for x in moved if x is not None]
        # Labels drawn by chance leave the margin at 0 too, but not the policy where it was.
        small = at["nats"] if h.has("doctor/update/ratio") else at["ratio_alone"]
        return f"log-ratios are {max(nats):.4f} nats at most" if nats and max(nats) < small else ""
    change = h.change("bradley_terry" if h.stage == "reward" else "loss", 8)
    if change is None:
        return ""
    if stands_still(h):
        return f"every evaluation gave the same held-out loss, {h.values('eval/loss')[-1]:.3f}"
    return (
        f"the loss went from {change.before:.3f} to {change.after:.3f}"
        if change.by > -at["fall"] * change.before
        else ""
    )


def overfitting(h: History, at: Limits) -> Sign | None:
    name = "eval/bradley_terry" if h.stage == "reward" else "eval/loss"
    heldout = h.values(name)
    train = h.now(name.removeprefix("eval/"), 8)
    if len(heldout) <= 2 or train is None or not all(map(math.isfinite, heldout)):
        return None
    best, last = min(heldout), heldout[-1]
    if last < at["times"] * best + at["by"] or train > last - at["gap"]:
        return None
    return Sign(
        "warning",
        f"held-out loss rose from {best:.3f} to {last:.3f} while the training loss is {train:.3f}",
        "the model learns its examples by heart",
        "Set data.max_samples 0: more data"
        if h.number("data.max_samples")
        else f"Set train.max_steps {h.step_of_least(name)}, where held-out loss was least, or use more data",
        {"best": best, "last": last, "train": train},
    )


def heldout_differs(h: History, at: Limits) -> Sign | None:
    """Held-out text is far less likely than training text from the first evaluation on, not only after many passes."""
    heldout, train = h.values("eval/loss"), h.until_first("eval/loss", "loss", 3)
    if not heldout or train is None:
        return None
    gap = heldout[0] - train
    # Held-out text that is likelier than training text, and that is forgotten while training goes on.
    is_other = gap < -at["gap"] and heldout[-1] > heldout[0] + at["forgets"]
    if not (gap > at["gap"] or is_other):
        return None
    seen = f"at the first evaluation held-out loss was {heldout[0]:.2f} nats a token and training loss {train:.2f}"
    cause = "training and held-out data are of different kinds: columns exchanged, another form of prompt or language"
    cure = "Read three rows of both files side by side; make the held-out data with `concordant prepare` from one file"
    return Sign("warning", seen, cause, cure, {"gap": gap, "train": train})


def heldout_near_chance(h: History, at: Limits) -> Sign | None:
    """A slice of the training pairs is ranked well, and other pairs are ranked as by a coin."""
    where = "a slice of"
    measured, known = h.result("accuracy"), h.latest("eval/accuracy")
    if measured is None and (h.latest("epoch") or 0) <= at["passes"]:  # not learnt by heart
        measured, known, where = known, h.now("accuracy", 8), "the last batches of"
    if measured is None or known is None or known < at["known"] or known - measured < at["gap"]:
        return None
    return Sign(
        "warning",
        f"accuracy is {known:.2f} on {where} the training pairs and {measured:.2f} on the held-out pairs",
        "the training pairs show which answer was chosen by something that other pairs do not have: a first word, a "
        "mark, a length, a format, another writer",
        "Look for it with `concordant doctor DATA`; take it out of the answers, or add pairs without it",
        {"known": known, "heldout": measured},
    )


def too_easy(h: History, at: Limits) -> Sign | None:
    """The training loss is almost 0: the answers can be told, or foretold, without reading them."""
    name = {"reward": "bradley_terry", "sft": "loss", "dpo": "loss"}[h.stage]
    loss = h.now(name, 8)
    if loss is None or h.rows < at["rows"] or loss > at["loss"] or (h.stage == "dpo" and not _is_pair_loss(h)):
        return None
    what = "answers can be foretold to the last token" if h.stage == "sft" else "chosen and rejected can be told apart"
    return Sign(
        "warning",
        f"the training loss is {loss:.3f}",
        f"the {what} by something trivial: rows that repeat, a mark on one side, an answer that stands in the prompt",
        "Read ten rows, and ask `concordant doctor DATA`; remove what gives the answer away",
        {"loss": loss},
    )


def loss_not_falling(h: History, at: Limits) -> Sign | None:
    name = "bradley_terry" if h.stage == "reward" else "loss"
    change = h.change(name, 12)
    if change is None or h.rows < at["rows"] or h.progress < EARLY:
        return None
    if change.z < -1 or change.by < -at["fall"] * abs(change.before):
        return None
    if _is_pair_loss(h) and median(h.values(name, 24)) < CHANCE - at["below_chance"]:  # it fell within the first rows
        return None
    return Sign(
        "info" if h.stage == "sft" and change.by < at["rise"] else "warning",
        f"the loss was {change.before:.3f} and is {change.after:.3f} after {h.rows} steps",
        "the start has learnt this already, or no setting that the doctor knows of",
        "Compare with train.learning_rate three times as high and a third as high",
        {"before": change.before, "after": change.after},
    )


RULES_LEARNING = (
    Rule("part_frozen", ALL, 0.95, part_frozen),
    Rule("learning_rate_too_high", ALL, 0.78, learning_rate_too_high),
    Rule("not_finite", ALL, MEASURED, not_finite),
    Rule("learning_rate_too_low", ALL, 0.7, learning_rate_too_low),
    Rule("heldout_near_chance", ("reward",), 0.85, heldout_near_chance),
    Rule("overfitting", GIVEN, EFFECT, overfitting),
    Rule("heldout_differs", ("sft",), EFFECT, heldout_differs),
    Rule("too_easy", GIVEN, EFFECT, too_easy),
    Rule("loss_not_falling", GIVEN, SYMPTOM, loss_not_falling),
)
