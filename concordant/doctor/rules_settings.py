"""Settings that are far from what is usual. Most are known before the first step, and need no metric."""

from __future__ import annotations

from concordant.core.counted import counted
from concordant.doctor.history import History
from concordant.doctor.quantities import divides_scores, fitting_rate, kl_per_token, reward_spread
from concordant.doctor.rule import ALL, DPO, PAIRS, PPO, SETTING, Limits, Rule, Sign


def too_few_steps(h: History, at: Limits) -> Sign | None:
    steps, needed = h.usual("steps"), h.usual("steps_needed")
    if not steps or not needed or (steps > at["steps"] and steps > at["share"] * needed):
        return None
    examples, batch = h.usual("examples") or 0, h.number("train.batch_size")
    return Sign(
        "warning",
        f"the run has {counted(int(steps), 'step')}, where about {needed:.0f} are usually needed",
        "too few examples or passes for the batch size"
        if not h.setting("train.max_steps")
        else f"train.max_steps {steps:.0f} ends the run early",
        f"Set train.max_steps {needed:.0f}"
        + (f", with train.batch_size {max(4, int(examples // 20))}" if 0 < examples < at["batches"] * batch else ""),
        {"steps": steps, "needed": needed},
    )


def warmup_too_long(h: History, at: Limits) -> Sign | None:
    steps = h.usual("steps")
    if not steps:
        return None
    rises = h.number("train.warmup_steps") or h.number("train.warmup_fraction") * steps
    share = rises / steps
    if share < at["share"] or rises < at["steps"]:
        return None
    seen = f"the learning rate rises during {rises:.0f} of {steps:.0f} steps"
    cause = "the warm-up takes most of the run, which hardly trains at its learning rate"
    cure = "Set train.warmup_fraction 0.05 and train.warmup_steps 0"
    return Sign("warning", seen, cause, cure, {"share": share})


def weight_decay_too_high(h: History, at: Limits) -> Sign | None:
    steps, rate, decay = h.usual("steps"), h.number("train.learning_rate"), h.number("train.weight_decay")
    if not steps or not rate * decay:
        return None
    shrunk = rate * decay * steps
    if shrunk < at["path"]:
        return None
    return Sign(
        "warning",
        f"weight decay alone takes {100 * (1 - (1 - min(0.999, rate * decay)) ** steps):.0f} % of the weights "
        f"in {steps:.0f} steps",
        f"train.weight_decay {decay:g} times the learning rate {rate:g} is too high for so many steps",
        "Set train.weight_decay 0.01",
        {"path": shrunk},
    )


def kl_penalty_too_strong(h: History, at: Limits) -> Sign | None:
    """One nat of KL costs more than the rewards of answers differ by, so that no answer is worth a change."""
    weight, spread = _kl_weight(h, at), reward_spread(h)
    if weight is None or not spread or weight < at["deviations"] * spread:
        return None
    first, target = h.first("kl_coefficient"), h.number("kl.target")
    numbers = {"kl_coefficient": weight, "spread": spread}
    seen = f"a nat of KL costs {weight:.3g}, and the rewards that the policy learns from differ by {spread:.3g}"
    cause = f"the KL weight {weight:.3g} is too large for the reward's scale, so the policy stays where it is"
    cure = f"Set kl.coefficient {0.05 * spread:.2g}"
    if h.setting("kl.controller") == "adaptive":  # it makes of every coefficient what its target asks for
        cause = f"kl.target {target:g} is too small: every policy that learns is beyond it, so the weight only grows"
        fixed = f"{cure} and kl.controller fixed, and leave its target and horizon out"
        cure = "Set kl.target 6 and kl.horizon 10000" if target < at["target"] else fixed
        if first and weight > at["grew"] * first:
            seen = f"the adaptive controller raised the KL weight from {first:.3g} to {weight:.3g}; {seen}"
    return Sign("warning", seen, cause, cure, numbers)


def _kl_weight(h: History, at: Limits) -> float | None:
    """The weight of the KL; where only GRPO's loss is logged, that loss over the KL, since the rest of it is near 0."""
    if h.has("kl_coefficient") or h.setting("advantage") != "grpo":
        return h.latest("kl_coefficient")
    loss, kl = h.now("loss", 4), kl_per_token(h, 4)
    if loss is None or kl is None or loss < at["loss"] or kl < at["kl"]:
        return None
    return loss / kl


def reward_scale(h: History, at: Limits) -> Sign | None:
    """Rewards so large that the KL penalty means nothing beside them, and the critic's loss runs away."""
    mean, spread = h.start("objective/score", 1), h.start("objective/score_std", 1)
    if mean is None or spread is None or h.setting("reward_normalize", "none") != "none":
        return None
    large = spread > at["spread"] or (abs(mean) > at["mean"] and abs(mean) > at["times"] * spread)
    clip = h.number("value_clip")
    is_narrow = h.has("value/loss") and 0 < clip < at["clip"] * spread
    if is_narrow:
        return Sign(
            "warning",
            f"the rewards are {mean:.3g} on average and differ by {spread:.3g}; value_clip is {clip:g}",
            "the returns are too large for the critic: the rewards are not normalised, and value_clip is made for "
            "rewards of scale 1",
            "Set reward_normalize start, or value_clip 0",
            {"mean": mean, "spread": spread, "value_clip": clip},
        )
    if not large or divides_scores(h):
        return None
    seen = f"the rewards are {mean:.3g} on average and differ by {spread:.3g}"
    cause = "the reward's scale is far from 1, the scale for which the other settings are made"
    cure = "Set reward_normalize start, or divide the reward by its deviation"
    return Sign("warning", seen, cause, cure, {"mean": mean, "spread": spread})


def temperature_extreme(h: History, at: Limits) -> Sign | None:
    heat = h.setting("sampling.temperature")
    if not isinstance(heat, (int, float)) or at["low"] <= heat <= at["high"]:
        return None
    distinct = h.start("doctor/response/distinct", 1)
    cold = heat < at["low"]
    return Sign(
        "warning",
        f"answers are sampled at temperature {heat:g}"
        + (f", and {distinct:.0%} of the first step's answers differ" if distinct is not None else ""),
        "so low a temperature gives almost the same answer every time, and nothing new is tried"
        if cold
        else "so high a temperature gives answers that the policy itself finds unlikely",
        "Set sampling.temperature 1",
        {"temperature": float(heat)},
    )


def beta_unusual(h: History, at: Limits) -> Sign | None:
    """β against the range of published runs; IPO's against the log-ratio that it aims at."""
    beta = h.number("beta")
    if beta and h.setting("loss") == "ipo":
        return _ipo(beta, at)
    if beta and h.setting("loss") in ("simpo", "sigmoid_norm"):
        return _per_token(beta, at)
    if not beta or at["low"] <= beta <= at["high"]:
        return None
    return Sign(
        "warning",
        f"beta is {beta:g}; published runs use 0.01 to 1",
        "so small a beta sets no limit to the policy" if beta < at["low"] else "so large a beta lets nothing be learnt",
        "Set beta 0.1",
        {"beta": beta},
    )


def _per_token(beta: float, at: Limits) -> Sign | None:
    if at["mean_low"] <= beta <= at["mean_high"]:
        return None
    return Sign(
        "warning",
        f"beta is {beta:g} and the loss compares means over tokens; published runs use 2 to 10",
        "means over tokens differ by tenths of a nat, so that so small a beta leaves the loss at its start"
        if beta < at["mean_low"]
        else "so large a beta lets nothing be learnt once a pair is ranked",
        "Set beta 2",
        {"beta": beta},
    )


def _ipo(beta: float, at: Limits) -> Sign | None:
    aim = 1 / (2 * beta)
    if aim < at["ipo_nats"]:
        return None
    return Sign(
        "warning",
        f"with beta {beta:g} IPO aims at a log-ratio of 1 / (2 beta) = {aim:.0f} nats a token",
        "so small a beta asks IPO for a distance that cannot be reached: every update goes as far as the rate lets it",
        "Set beta 0.5, or 0.1 for long answers" if beta < at["low"] else "Set beta 0.5",
        {"beta": beta, "aim": aim},
    )


def centering_too_strong(h: History, at: Limits) -> Sign | None:
    weight = h.number("centering")
    if weight < at["weight"]:
        return None
    seen = f"centering is {weight:g}, where 0.01 is usual"
    cause = "the weight of centering is so large that all scores are held at 0, and pairs are not told apart"
    cure = "Set centering 0.01"
    return Sign("warning", seen, cause, cure, {"centering": weight})


def lora_scale(h: History, at: Limits) -> Sign | None:
    rank, alpha = h.number("model.lora.rank"), h.number("model.lora.alpha")
    if h.setting("model.lora.rslora", False):
        rank = rank**0.5  # of rsLoRA, by which alpha is divided
    if not rank or alpha < at["times"] * rank:
        return None
    return Sign(
        "warning",
        f"model.lora.alpha is {alpha:g} at rank {rank:g}: what the adapter says counts {alpha / rank:g} times",
        "alpha over rank is far too large, so every update of the adapter is that much larger than the learning rate",
        f"Set model.lora.alpha {2 * rank:g}",
        {"alpha": alpha, "rank": rank},
        weight=0.9 if alpha > at["error_times"] * rank else None,
    )


def lora_too_small(h: History, at: Limits) -> Sign | None:
    rank, where = h.number("model.lora.rank"), h.setting("model.lora.target_modules") or []
    if not rank or rank > at["rank"] or not 0 < len(where) <= at["modules"]:
        return None
    seen = f"the adapter has rank {rank:g} and changes {', '.join(map(str, where))} alone"
    cause = "the adapter is too small: so few weights learn little that is new, whatever the learning rate is"
    cure = "Leave model.lora.target_modules empty for all linear layers, and set model.lora.rank 16"
    return Sign("warning", seen, cause, cure, {"rank": rank})


def smoothing_too_high(h: History, at: Limits) -> Sign | None:
    share = h.number("label_smoothing")
    if share < at["share"]:
        return None
    seen = f"label_smoothing is {share:g}, so the loss takes {share:.0%} of the labels for wrong"
    cause = "so much smoothing leaves almost no preference to learn; at 0.5 there is none"
    cure = "Set label_smoothing 0.1"
    return Sign("warning", seen, cause, cure, {"smoothing": share})


def rate_unusual(h: History, at: Limits) -> Sign | None:
    """The learning rate against the one that fits the method and the model's size, and the run shows an effect.

    A low rate is often a careful choice (a continued run), so only a high one is a warning, and only where it did harm.
    """
    rate, usual = h.number("train.learning_rate"), h.usual("usual_rate")
    if not rate or not usual or rate < at["times"] * usual:
        return None
    seen = f"train.learning_rate is {rate:g}, {rate / usual:.0f} times what is usual for this method and model"
    cause = "the rate was copied from another method or a smaller model, or has a typing error"
    cure = f"Set train.learning_rate {fitting_rate(h) or usual:g}"
    return Sign("warning", seen, cause, cure, {"rate": rate, "usual": usual})


def few_prompts(h: History, at: Limits) -> Sign | None:
    """The same few prompts again and again."""
    examples, steps, batch = h.usual("examples"), h.usual("steps"), h.number("train.batch_size")
    if not examples or not steps or examples >= at["prompts"]:
        return None
    if examples > at["few"] and steps * batch < at["passes"] * examples:
        return None
    return Sign(
        "warning",
        f"the run has {examples:.0f} prompts and takes each of them {steps * batch / examples:.0f} times",
        "the file has too few different prompts, or most rows repeat one",
        "Give some hundred different prompts"
        + (
            ""
            if examples <= at["few"]
            else f", or set train.max_steps {max(1, int(at['passes'] * examples / max(1.0, batch)))}"
        ),
        {"prompts": examples, "passes": steps * batch / examples},
    )


RULES_SETTINGS = (
    Rule("kl_penalty_too_strong", PPO, SETTING, kl_penalty_too_strong),
    Rule("temperature_extreme", PPO, 0.86, temperature_extreme),
    Rule("reward_scale", PPO, SETTING, reward_scale),
    Rule("centering_too_strong", ("reward",), 0.85, centering_too_strong),
    Rule("lora_scale", ALL, 0.8, lora_scale),
    Rule("lora_too_small", ALL, 0.85, lora_too_small),
    Rule("beta_unusual", DPO, SETTING, beta_unusual),
    Rule("smoothing_too_high", PAIRS, SETTING, smoothing_too_high),
    Rule("weight_decay_too_high", ALL, SETTING, weight_decay_too_high),
    Rule("warmup_too_long", ALL, SETTING, warmup_too_long),
    Rule("rate_unusual", ALL, 0.55, rate_unusual),
    Rule("few_prompts", PPO, SETTING, few_prompts),
    Rule("too_few_steps", ALL, 0.7, too_few_steps),
)
