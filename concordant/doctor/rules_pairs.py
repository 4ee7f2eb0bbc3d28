"""Reward models and DPO: what margins, accuracies and log-probs tell of references, β and labels."""

from __future__ import annotations

import math

from concordant.doctor.history import History
from concordant.doctor.rule import CHANCE, HALF, Rule, Sign


def dpo_reference_is_policy(h: History) -> Sign | None:
    rows = 4
    margins, update = h.values("rewards/margins", rows), h.now("doctor/update/ratio", rows)
    if len(margins) < rows or max(map(abs, margins)) > 1e-6 or not update:
        return None
    return Sign(
        "error",
        f"margins are exactly 0 for {rows} steps, loss {h.latest('loss'):.4f}, though steps move the weights "
        f"by {update:.2%}",
        "the reference is the model being trained, so every log-ratio is 0",
        "Freeze a copy of the start: leave `reference` empty, or name another folder",
        {"update": update},
    )


def reference_not_start(h: History) -> Sign | None:
    if h.setting("reference"):
        return None
    if h.stage == "dpo":
        reward, beta = h.at("rewards/margins", 1), float(h.setting("beta", 0.1))
        chosen = h.at("rewards/chosen", 1)
        if reward is None or chosen is None:
            return None
        off = max(abs(reward), abs(chosen)) / beta
        seen = f"before the first update policy and reference differ by {off:.1f} nats a response"
        loss = h.at("loss", 1)
        if loss is not None and h.setting("loss") == "sigmoid" and abs(loss - CHANCE) > 0.03:
            off, seen = max(off, 1.0), f"the first loss is {loss:.3f}, where equal policies give ln 2 = {CHANCE:.3f}"
    else:
        kl, error = h.at("objective/kl", 1), h.at("doctor/objective/kl_error", 1) or 0.0
        if kl is None:
            return None
        off = abs(kl) + error
        seen = f"KL is {kl:.2f} nats before the first update, where it should be 0"
    if off < 0.5:
        return None
    return Sign(
        "error",
        seen,
        "the reference is not the policy's start: another model, other dropout, or another adapter",
        "Leave `reference` empty to freeze the start, and start the policy from that very folder",
        {"off": off},
    )


def beta_too_small(h: History) -> Sign | None:
    beta, accuracy = h.setting("beta"), h.now("rewards/accuracies", 8)
    margin, loss = h.now("rewards/margins", 8), h.now("loss", 8)
    if not beta or accuracy is None or margin is None or loss is None or h.setting("loss") != "sigmoid":
        return None
    nats = margin / beta
    if nats < 5 or accuracy < 0.6 or loss < 0.62:
        return None
    return Sign(
        "warning",
        f"the policy separates pairs by {nats:.0f} nats (accuracy {accuracy:.2f}), yet the loss is {loss:.3f}",
        f"beta {beta:g} is so small that the loss asks for ever more",
        "Set beta 0.1",
        {"nats": nats, "accuracy": accuracy, "loss": loss},
    )


def labels_random(h: History) -> Sign | None:
    name = "rewards/accuracies" if h.stage == "dpo" else "accuracy"
    rows, batch = 16, float(h.setting("train.batch_size", 32))
    accuracy, loss = h.now(name, rows), h.now("bradley_terry" if h.stage == "reward" else "loss", rows)
    if accuracy is None or loss is None or h.rows < 30 or h.progress < HALF:
        return None
    limit = 0.5 + 2 * 0.5 / math.sqrt(rows * batch)
    if accuracy > limit or loss < CHANCE - 0.02:
        return None
    return Sign(
        "warning",
        f"accuracy over the last {rows * batch:.0f} pairs is {accuracy:.2f}, which chance explains, loss {loss:.3f}; "
        "the weights move",
        "the labels say nothing that the answers show: drawn by chance, or paired with the wrong prompts",
        "Read twenty pairs; check that prompt, chosen and rejected belong together",
        {"accuracy": accuracy, "loss": loss},
    )


def chosen_logprob_falls(h: History) -> Sign | None:
    chosen, rejected, now = _nats_gained(h, "chosen"), _nats_gained(h, "rejected"), h.now("logps/chosen")
    if chosen is None or rejected is None or now is None or chosen > -2:
        return None
    numbers, before = {"chosen": chosen, "rejected": rejected}, now - chosen
    seen = (
        f"log-prob of chosen answers fell by {-chosen:.0f} nats, "
        f"of rejected ones {'rose' if rejected > 0 else 'fell'} by {abs(rejected):.0f}"
    )
    if -chosen < max(10.0, 0.6 * abs(before)):
        cause = "normal: DPO widens the gap, and rejected answers share words with chosen ones"
        return Sign("info", seen, cause, "Nothing, while samples stay readable and held-out loss falls", numbers)
    beta = h.setting("beta", 0.1)
    return Sign(
        "warning",
        f"{seen}; the chosen ones from {before:.0f} to {now:.0f}",
        "the policy flees both answers: beta too small or the learning rate too high for the data",
        f"Set beta {min(1.0, 3 * beta):g}, or lower train.learning_rate threefold",
        numbers,
    )


def _nats_gained(h: History, side: str) -> float | None:
    """Log-prob of these answers now less the reference's of the very same, so that answers' lengths do not matter."""
    if h.setting("loss") == "ipo":  # its rewards are of a token
        change = h.change(f"logps/{side}")
        return change.by if change else None
    reward = h.now(f"rewards/{side}")
    return None if reward is None else reward / h.setting("beta", 0.1)


RULES_REFERENCE = (
    Rule("dpo_reference_is_policy", ("dpo",), "The gradient pulls nowhere that the loss could see.",
         dpo_reference_is_policy),
    Rule("reference_not_start", ("dpo", "ppo"), "KL and margins are measured from a place the policy never was.",
         reference_not_start),
)  # fmt: skip
RULES_PAIRS = (
    Rule("beta_too_small", ("dpo",), "The policy drifts without bound, and sentences break.", beta_too_small),
    Rule("labels_random", ("reward", "dpo"), "A reward learnt from noise is noise.", labels_random),
    Rule("chosen_logprob_falls", ("dpo",), "A policy that finds its own good answers unlikely says something else.",
         chosen_logprob_falls),
)  # fmt: skip
