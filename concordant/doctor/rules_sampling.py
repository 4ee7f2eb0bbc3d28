"""PPO: whether sampler, learner and reference speak of the same policy, and where KL and entropy go."""

from __future__ import annotations

from concordant.config.sampling import RESHAPING
from concordant.doctor.history import History
from concordant.doctor.quantities import TRAIN_FIRST, clipped, hold, let_go, lower, no_dropout, one_temperature
from concordant.doctor.rule import DPO, PPO, SETTING, SYMPTOM, Limits, Rule, Sign


def _tolerance(h: History, at: Limits) -> float:
    """Nats a token that two passes over the same tokens may differ by: rounding alone."""
    return at["fp32"] if h.setting("model.precision") == "fp32" else at["bf16"]


def dropout_on(h: History, at: Limits) -> Sign | None:
    shift = h.now("doctor/ratio/start", 2)
    if shift is None or shift < _tolerance(h, at):
        return None
    rate = h.setting("model.lora.dropout", 0.0)
    return Sign(
        "error",
        f"before the first update of a step the policy's log-probs differ by {shift:.3f} nats a token from those it "
        "gave a moment ago",
        f"dropout is on (model.lora.dropout {rate:g})" if rate else "dropout, or another random layer, is on",
        no_dropout(rate),
        {"shift": shift},
    )


def tokens_after_end(h: History, at: Limits) -> Sign | None:
    behind = h.now("doctor/response/after_end", 2)
    if behind is None or behind < at["share"]:
        return None
    seen = f"{behind:.0%} of the response tokens stand behind an end token"
    cause = "padding is counted as response, or sampling does not stop at the end token"
    cure = "Cut responses at their first end token; name every end token in generation_config.json"
    return Sign("error", seen, cause, cure, {"after_end": behind})


def sampler_differs(h: History, at: Limits) -> Sign | None:
    first = h.start("doctor/rollout/logprob_gap", 1)
    gap = h.now("doctor/rollout/logprob_gap", 2)
    if first is None or gap is None or min(first, gap) < _tolerance(h, at):
        return None
    changed = {key: off for key, off in RESHAPING.items() if h.setting(key, off) != off}
    temperature = h.setting("sampling.temperature", 1.0)
    is_accepted = bool(changed) and bool(h.setting("allow_truncated_sampling", False))
    return Sign(
        "warning" if is_accepted else "error",
        f"sampler and learner differ by {gap:.3f} nats a token, from the first step on",
        f"{' and '.join(changed)} changed the sampler's distribution"
        f"{', which allow_truncated_sampling accepts and corrects in part' if is_accepted else ''}"
        if changed
        else "they use different temperatures or models",
        f"Set {' and '.join(f'{key} {off:g}' for key, off in changed.items())}"
        if changed
        else one_temperature(temperature),
        {"gap": gap, "first": first},
    )


def stale_rollouts(h: History, at: Limits) -> Sign | None:
    if h.setting("cluster.max_lag", 0):  # answers are older on purpose, and their tokens are weighted
        return None
    first, gap = h.start("doctor/rollout/logprob_gap", 1), h.now("doctor/rollout/logprob_gap", 3)
    if first is None or gap is None or first >= _tolerance(h, at) or gap < _tolerance(h, at):
        return None
    seen = f"sampler and learner agreed at step 1 and differ by {gap:.3f} nats a token now"
    cause = "the sampler does not get the new weights"
    cure = "Load the learner's weights into the generator before every rollout, and compare versions"
    return Sign("error", seen, cause, cure, {"gap": gap})


def reference_drifts(h: History, at: Limits) -> Sign | None:
    logprob = [x for x in h.values("doctor/reference/logprob")]
    if len(logprob) <= 2:
        return None
    moved = max(logprob) - min(logprob)
    if moved < at["nats"]:
        return None
    seen = f"the reference's log-prob of fixed tokens moved by {moved:.2f} nats a token"
    cause = "the reference shares weights with the policy, or is trained"
    cure = "Freeze a copy: requires_grad off, and no weight in common with the policy"
    return Sign("error", seen, cause, cure, {"moved": moved})


def too_many_inner_steps(h: History, at: Limits) -> Sign | None:
    inner = int(h.setting("inner_epochs", 2)) * int(h.setting("minibatches", 2))
    clip, kl = clipped(h, 3) or 0.0, h.now("policy/approx_kl", 3)
    if (
        not h.has("policy/clip_fraction")
        or kl is None
        or inner < at["updates"]
        or (clip < at["clipped"] and kl < at["nats"])
    ):
        return None
    return Sign(
        "warning",
        f"{inner} updates on each step's rollouts leave {clip:.0%} of the tokens clipped, {kl:.2g} nats a token away",
        "inner_epochs × minibatches is too high for this learning rate",
        ("Set inner_epochs 1" if h.number("inner_epochs") > 1 else "Set minibatches 4")
        + (f" and train.learning_rate {rate / 3:.1g}" if (rate := h.number("train.learning_rate")) else ""),
        {"clip": clip, "approx_kl": kl, "inner": inner},
    )


def clip_too_narrow(h: History, at: Limits) -> Sign | None:
    clip, width = clipped(h, 4), float(h.setting("clip", 0.2))
    if clip is None or width >= at["width"] or clip < at["clipped"]:
        return None
    seen = f"{clip:.0%} of the tokens are clipped at a distance of {width:g} from 1"
    cause = f"clip {width:g} is too narrow"
    cure = "Set clip 0.2" + let_go(h)
    return Sign("warning", seen, cause, cure, {"clip": clip, "width": width})


def clip_fraction_high(h: History, at: Limits) -> Sign | None:
    clip, update = clipped(h, 4), h.now("doctor/update/ratio", 4)
    if clip is None or update is None or clip < at["clipped"]:
        return None
    seen = f"{clip:.0%} of the tokens are clipped; healthy is below 30 %"
    cause = "updates are too large for one step's rollouts"
    cure = lower(h) + (", or set inner_epochs 1" if h.number("inner_epochs") > 1 else "")
    return Sign("warning", seen, cause, cure, {"clip": clip, "update": update})


def clip_fraction_zero(h: History, at: Limits) -> Sign | None:
    inner = int(h.setting("inner_epochs", 2)) * int(h.setting("minibatches", 2))
    clip, kl = clipped(h, 10), h.now("policy/approx_kl", 10)
    if inner < 2 or clip is None or kl is None or clip > 0 or kl > at["nats"]:
        return None
    seen = f"nothing is clipped and a step's updates move the policy by {kl:.1g} nats a token"
    cause = "the policy hardly moves; with one epoch and one minibatch 0 would be healthy"
    cure = "Raise train.learning_rate threefold"
    return Sign("info", seen, cause, cure, {"approx_kl": kl})


def kl_penalty_off(h: History, at: Limits) -> Sign | None:
    weight, kl = h.latest("kl_coefficient"), h.now("objective/kl", 4)
    if weight is None or kl is None or weight > at["weight"]:
        return None
    length = h.now("response/length", 4) or 1.0
    if kl < at["nats"] and kl < at["nats_per_token"] * length:
        return None
    seen = f"KL is {kl:.1f} nats a response and its weight {weight:g}"
    cause = "nothing holds the policy near its start"
    cure = "Set kl.coefficient 0.05, or kl.controller adaptive with kl.target 6"
    return Sign("warning", seen, cause, cure, {"kl": kl, "kl_coefficient": weight})


def untrained_start(h: History, at: Limits) -> Sign | None:
    """The start finds every next token almost equally likely."""
    entropy = h.start("objective/entropy_per_token", 1)
    heat = h.number("sampling.temperature") or 1.0
    if entropy is None or entropy < at["entropy"] or heat > at["temperature"]:
        return None
    seen = f"the first answers have an entropy of {entropy:.1f} nats a token; trained models have 0.2 to 3"
    cause = "the model folder holds untrained weights, or weights that were trained with another tokenizer"
    return Sign("error", seen, cause, TRAIN_FIRST, {"entropy": entropy})


def kl_explodes(h: History, at: Limits) -> Sign | None:
    kl, length = h.now("objective/kl", 3), h.now("response/length", 3)
    if kl is None or length is None or kl < at["nats"] or kl < at["nats_per_token"] * length:
        return None
    seen = f"KL is {kl:.0f} nats a response of {length:.0f} tokens"
    cause = "updates too large, or the KL weight too small for the reward's scale"
    cure = f"{lower(h)}, or {hold(h)}"
    return Sign("error", seen, cause, cure, {"kl": kl, "length": length})


def kl_negative(h: History, at: Limits) -> Sign | None:
    rows = 5
    kl, errors = h.now("objective/kl", rows), h.values("doctor/objective/kl_error", rows)
    if kl is None or len(errors) < rows:
        return None
    error = (sum(e * e for e in errors) ** 0.5) / rows
    if kl > -at["nats"] or kl > -at["errors"] * error:
        return None
    return Sign(
        "error",
        f"KL is {kl:.2f} nats a response over {rows} steps, {-kl / max(error, 1e-9):.0f} standard errors below 0",
        "the answers are not samples of the policy that is measured: sampling settings, padding, dropout or reference",
        "Compare doctor/rollout/logprob_gap, doctor/response/after_end and doctor/ratio/start with 0",
        {"kl": kl, "error": error},
    )


def entropy_collapse(h: History, at: Limits) -> Sign | None:
    start, now = h.start("objective/entropy_per_token", 2), h.now("objective/entropy_per_token", 3)
    distinct = h.now("doctor/response/distinct", 3)
    if start is None or now is None or distinct is None or h.rows < at["rows"]:
        return None
    if start < at["start"] or now > at["share"] * start:
        return None
    seen = f"entropy fell from {start:.2f} to {now:.2f} nats a token; {distinct:.0%} of a step's answers differ"
    cause = "the policy has settled on few answers: the KL weight is too small, or updates too large"
    cure = f"{lower(h)}, or {hold(h)}"
    return Sign("warning", seen, cause, cure, {"start": start, "now": now, "distinct": distinct})


def entropy_penalised(h: History, at: Limits) -> Sign | None:
    start, now = h.start("objective/entropy_per_token", 2), h.now("objective/entropy_per_token", 3)
    bonus = float(h.setting("entropy_coefficient", 0.0))
    if start is None or now is None or h.rows < at["rows"] or now > at["share"] * start or bonus >= 0:
        return None
    seen = f"entropy fell from {start:.2f} to {now:.2f} nats a token"
    cause = f"entropy_coefficient {bonus:g} is negative and rewards certainty"
    cure = "Set entropy_coefficient 0"
    return Sign("warning", seen, cause, cure, {"start": start, "now": now})


def entropy_explodes(h: History, at: Limits) -> Sign | None:
    start, now = h.start("objective/entropy_per_token", 2), h.now("objective/entropy_per_token", 3)
    bonus = h.setting("entropy_coefficient", 0.0)
    if start is None or now is None or h.rows < at["rows"] or bonus < at["bonus"]:
        return None
    if now < at["times"] * start + at["by"]:
        return None
    seen = f"entropy rose from {start:.2f} to {now:.2f} nats a token"
    cause = f"entropy_coefficient {bonus:g} pays more than the reward"
    cure = "Set entropy_coefficient 0"
    return Sign("warning", seen, cause, cure, {"start": start, "now": now})


RULES_SAMPLING = (
    Rule("dropout_on", PPO, 0.95, dropout_on),
    Rule("tokens_after_end", PPO, 0.95, tokens_after_end),
    Rule("sampler_differs", PPO, 0.95, sampler_differs),
    Rule("stale_rollouts", PPO, 0.95, stale_rollouts),
    Rule("reference_drifts", PPO, 0.95, reference_drifts),
    Rule("untrained_start", (*DPO, *PPO), 0.93, untrained_start),
    Rule("too_many_inner_steps", PPO, SETTING, too_many_inner_steps),
)
RULES_WEIGHTS = (
    Rule("entropy_explodes", PPO, SETTING, entropy_explodes),
    Rule("entropy_penalised", PPO, SETTING, entropy_penalised),
    Rule("clip_too_narrow", PPO, SETTING, clip_too_narrow),
    Rule("kl_penalty_off", PPO, 0.78, kl_penalty_off),
)
RULES_POLICY = (
    Rule("clip_fraction_high", PPO, 0.5, clip_fraction_high),
    Rule("entropy_collapse", PPO, 0.5, entropy_collapse),
    Rule("kl_explodes", PPO, 0.5, kl_explodes),
    Rule("clip_fraction_zero", PPO, 0.4, clip_fraction_zero),
    Rule("kl_negative", PPO, SYMPTOM, kl_negative),
)
