"""Reward models and DPO: what margins, accuracies and log-probs tell of references, β and labels."""

from __future__ import annotations

import math

from concordant.doctor.history import History
from concordant.doctor.quantities import (
    FREEZE_THE_START,
    compares_with_reference,
    is_plain_sigmoid,
    lower,
    nats_gained,
)
from concordant.doctor.rule import CHANCE, DPO, EFFECT, HALF, PAIRS, PPO, SETTING, Limits, Rule, Sign


def dpo_reference_is_policy(h: History, at: Limits) -> Sign | None:
    rows = 4
    margins, update = h.values("rewards/margins", rows), h.now("doctor/update/ratio", rows)
    if len(margins) < rows or max(map(abs, margins)) > at["margin"] or not update:
        return None
    return Sign(
        "error",
        f"margins are exactly 0 for {rows} steps, loss {h.latest('loss'):.4f}, though steps move the weights "
        f"by {update:.2%}",
        "the reference is the model being trained, so every log-ratio is 0",
        "Freeze a copy of the start" + (", or leave `reference` empty" if h.setting("reference") else ""),
        {"update": update},
    )


def reference_not_start(h: History, at: Limits) -> Sign | None:
    if h.setting("reference"):
        return None
    if h.stage == "dpo" and not compares_with_reference(h):
        return None
    if h.stage == "dpo":
        reward, beta = h.at("rewards/margins", 1), float(h.setting("beta", 0.1))
        chosen = h.at("rewards/chosen", 1)
        if reward is None or chosen is None:
            return None
        off = max(abs(reward), abs(chosen)) / beta
        seen = f"before the first update policy and reference differ by {off:.1f} nats a response"
        loss = h.at("loss", 1)
        is_sigmoid = h.setting("loss") == "sigmoid" and is_plain_sigmoid(h)
        if loss is not None and is_sigmoid and abs(loss - CHANCE) > at["loss"]:
            off, seen = max(off, 1.0), f"the first loss is {loss:.3f}, where equal policies give ln 2 = {CHANCE:.3f}"
    else:
        kl, error = h.at("objective/kl", 1), h.at("doctor/objective/kl_error", 1) or 0.0
        if kl is None:
            return None
        off = abs(kl) + error
        seen = f"KL is {kl:.2f} nats before the first update, where it should be 0"
    if off < at["nats"]:
        return None
    cause = "the reference is not the policy's start: another model, other dropout, or another adapter"
    return Sign("error", seen, cause, FREEZE_THE_START, {"off": off})


def reference_foreign(h: History, at: Limits) -> Sign | None:
    """The reference that the user chose gives the policy's text another probability by nats for every token."""
    if not h.setting("reference"):
        return None
    if h.stage == "dpo":
        rewards, tokens = (
            [h.at(f"rewards/{side}", 1) for side in ("chosen", "rejected")],
            h.first("doctor/data/learnt_tokens"),
        )
        beta = h.number("beta") or 0.1
        nats = max((abs(r) / beta for r in rewards if r is not None), default=0.0)
        if h.setting("loss") in ("ipo", "sigmoid_norm"):  # their rewards are of a token
            tokens = 1.0
    else:
        nats, tokens = abs(h.at("objective/kl", 1) or 0.0), h.first("response/length")
    if not tokens or nats / tokens < at["nats"]:
        return None
    return Sign(
        "error",
        f"before the first update policy and reference differ by {nats / tokens:.2f} nats a token",
        "--reference names a model that does not know this text: untrained weights, another model or another tokenizer",
        "Leave `reference` empty, or name the model that the policy was trained from",
        {"nats_per_token": nats / tokens},
    )


def policy_far(h: History, at: Limits) -> Sign | None:
    """Held-out answers of a policy that was trained on pairs, far from the reference."""
    kl, length = h.latest("eval/kl"), h.latest("eval/length")
    if kl is None or not length or kl < at["nats"] or kl < at["nats_per_token"] * length:
        return None
    beta = h.number("beta")
    seen = f"held-out answers are {kl:.0f} nats from the reference, {kl / length:.2f} a token"
    cause = "the learning rate is too high for so small a beta, or the run is too long"
    cure = lower(h) + (f", or set beta {3 * beta:.2g}" if 0 < beta < at["beta"] else "")
    return Sign("warning", seen, cause, cure, {"kl": kl, "length": length})


def answers_change(h: History, at: Limits) -> Sign | None:
    """Held-out answers became much shorter, much longer, or repeat themselves."""
    length, repeats = h.values("eval/length"), h.values("eval/repetition")
    if len(length) < 2 or not length[0]:
        return None
    times, more = length[-1] / length[0], repeats[-1] - repeats[0] if len(repeats) > 1 else 0.0
    if at["shorter"] < times < at["longer"] and more < at["repetition"]:
        return None
    repeated = more >= at["repetition"]
    return Sign(
        "warning",
        f"held-out answers went from {length[0]:.0f} to {length[-1]:.0f} tokens"
        + (f", and repeat {repeats[-1]:.0%} of their sequences of four words" if repeated else ""),
        "chosen answers differ from rejected ones in length, or the policy moved too far from its start",
        f"Balance lengths in the data. {lower(h)}",
        {"times": times, "repetition": more},
    )


def beta_too_small(h: History, at: Limits) -> Sign | None:
    beta, accuracy = h.setting("beta"), h.now("rewards/accuracies", 8)
    margin, loss = h.now("rewards/margins", 8), h.now("loss", 8)
    if not beta or accuracy is None or margin is None or loss is None or h.setting("loss") != "sigmoid":
        return None
    if not is_plain_sigmoid(h):  # other terms keep the loss high
        return None
    nats = margin / beta
    if beta > at["beta"] or nats < at["nats"] or accuracy < at["accuracy"] or loss < at["loss"]:
        return None
    seen = f"the policy separates pairs by {nats:.0f} nats (accuracy {accuracy:.2f}), yet the loss is {loss:.3f}"
    cause = f"beta {beta:g} is so small that the loss asks for ever more"
    cure = f"Set beta {max(0.1, 3 * beta):g}"
    return Sign("warning", seen, cause, cure, {"nats": nats, "accuracy": accuracy, "loss": loss})


def labels_random(h: History, at: Limits) -> Sign | None:
    name = "rewards/accuracies" if h.stage == "dpo" else "accuracy"
    rows, batch = 16, float(h.setting("train.batch_size", 32))
    accuracy, loss = h.now(name, rows), h.now("bradley_terry" if h.stage == "reward" else "loss", rows)
    if accuracy is None or loss is None or h.rows < at["rows"] or h.progress < HALF:
        return None
    limit = 0.5 + at["errors"] * 0.5 / math.sqrt(rows * batch)
    if accuracy > limit or loss < CHANCE - at["loss"]:
        return None
    return Sign(
        "warning",
        f"accuracy over the last {rows * batch:.0f} pairs is {accuracy:.2f}, which chance explains, loss {loss:.3f}; "
        "the weights move",
        "the labels say nothing that the answers show: drawn by chance, or paired with the wrong prompts",
        "Read twenty pairs; check that prompt, chosen and rejected belong together",
        {"accuracy": accuracy, "loss": loss},
    )


def chosen_logprob_falls(h: History, at: Limits) -> Sign | None:
    chosen, rejected, now = nats_gained(h, "chosen"), nats_gained(h, "rejected"), h.now("logps/chosen")
    if chosen is None or rejected is None or now is None or chosen > -at["note"]:
        return None
    numbers, before = {"chosen": chosen, "rejected": rejected}, now - chosen
    seen = (
        f"log-prob of chosen answers fell by {-chosen:.0f} nats, "
        f"of rejected ones {'rose' if rejected > 0 else 'fell'} by {abs(rejected):.0f}"
    )
    if -chosen < max(at["nats"], at["share"] * abs(before)):
        cause = "normal: DPO widens the gap, and rejected answers share words with chosen ones"
        return Sign("info", seen, cause, "Nothing, while samples stay readable and held-out loss falls", numbers)
    beta = h.setting("beta", 0.1)
    return Sign(
        "warning",
        f"{seen}; the chosen ones from {before:.0f} to {now:.0f}",
        "the policy flees both answers: beta too small or the learning rate too high for the data",
        f"Set beta {3 * beta:g}, or: {lower(h)}" if beta < at["beta"] else lower(h),
        numbers,
    )


RULES_REFERENCE = (
    Rule("dpo_reference_is_policy", DPO, 0.95, dpo_reference_is_policy),
    Rule("reference_not_start", (*DPO, *PPO), 0.95, reference_not_start),
    Rule("reference_foreign", (*DPO, *PPO), 0.95, reference_foreign),
)
RULES_PAIRS = (
    Rule("beta_too_small", DPO, SETTING, beta_too_small),
    Rule("labels_random", PAIRS, EFFECT, labels_random),
    Rule("policy_far", DPO, EFFECT, policy_far),
    Rule("chosen_logprob_falls", DPO, 0.5, chosen_logprob_falls),
    Rule("answers_change", DPO, 0.45, answers_change),
)
