"""PPO: the terms of the reward beside each other, its scores, the start's entropy, and the critic."""

from __future__ import annotations

from concordant.doctor.history import History
from concordant.doctor.quantities import reward_spread
from concordant.doctor.rule import EARLY, PPO, Limits, Rule, Sign

ROWS = 5


def one_reward_rules(h: History, at: Limits) -> Sign | None:
    """A penalty that is many deviations of the reward, or one of two rewards that is never earned."""
    penalty, spread = h.number("missing_eos_penalty"), reward_spread(h)
    if penalty and spread and penalty > at["penalty"] * spread:
        seen = f"missing_eos_penalty is {penalty:g}, and the rewards that the policy learns from differ by {spread:.2g}"
        cause = "the penalty for a missing end is so large that the reward means nothing beside it"
        cure = f"Set missing_eos_penalty {spread:.2g}"
        return Sign("warning", seen, cause, cure, {"penalty": penalty, "spread": spread})
    agreement, sources = h.values("doctor/reward/agreement", int(at["rows"])), h.setting("reward") or []
    if len(agreement) < at["rows"] or any(agreement) or len(sources) != 2 or not h.now("objective/score_std", 1):
        return None
    seen = f"in the last {len(agreement)} steps one of the two rewards was the same for every answer"
    cause = "one of the rewards is never earned (its condition never matches), so only the other one is learnt"
    cure = "Look at each reward alone with `concordant score`; check the column that it compares with"
    return Sign("warning", seen, cause, cure)


def start_without_entropy(h: History, at: Limits) -> Sign | None:
    """The start gives the same answer every time, whatever is trained."""
    entropy, heat = h.start("objective/entropy_per_token", 1), h.number("sampling.temperature") or 1.0
    if entropy is None or entropy > at["entropy"] or heat < at["temperature"]:
        return None
    return Sign(
        "warning",
        f"the first answers have an entropy of {entropy:.3f} nats a token; trained models have 0.2 to 3",
        "the start is certain of every token, so the answers to a prompt do not differ and nothing can be compared",
        "Start from another checkpoint (earlier, or trained for fewer passes); a higher sampling.temperature hides it",
        {"entropy": entropy},
    )


def reward_abstains(h: History, at: Limits) -> Sign | None:
    absent, answers = h.now("reward/abstained", ROWS), _answers(h)
    if absent is None or not answers or absent < at["share"] * answers:
        return None
    failed = h.now("reward/errors", ROWS) or 0.0
    seen = f"{min(1.0, absent / answers):.0%} of a step's answers have no score; the function failed {failed:.0f} times"
    cause = "the reward function fails for these answers, or leaves them out, and such answers teach nothing"
    cure = "Call the function with an answer of samples.jsonl; set reward_on_error fail to be told at once"
    return Sign("error", seen, cause, cure, {"abstained": absent, "answers": answers})


def _answers(h: History) -> float:
    """Answers of a step."""
    return h.number("train.batch_size") * (h.number("sampling.n") or 1.0)


def value_explains_nothing(h: History, at: Limits) -> Sign | None:
    if stands := _critic_stands(h, at):
        return stands
    explained = h.now("value/explained_variance", 8)
    if explained is None or h.rows < at["first_rows"] or h.progress < EARLY or explained > at["explained"]:
        return None
    if explained > -at["worse"] and h.rows < at["rows"]:  # a new critic needs its time
        return None
    clipped, update = h.now("value/clip_fraction", 8), h.now("doctor/value/update/ratio", 8)
    numbers = {"explained_variance": explained, "clip_fraction": clipped or 0.0, "update": update or 0.0}
    cause, cure = "the critic learns too slowly", "Set critic_learning_rate three times train.learning_rate"
    if (clipped or 0) > at["clipped"]:
        cause, cure = "value_clip is narrower than the rewards' scale", "Set value_clip 0"
    elif explained < -at["much_worse"]:
        cause, cure = "the critic learns too fast or from other returns", "Lower critic_learning_rate tenfold"
    return Sign("warning", f"the critic explains {explained:.0%} of the returns' variance after {h.rows} steps",
                cause, cure, numbers)  # fmt: skip


def _critic_stands(h: History, at: Limits) -> Sign | None:
    """The critic's weights beside the policy's: the critic should move at least as much."""
    critic, policy, rows = h.values("doctor/value/update/ratio"), h.values("doctor/update/ratio"), h.rows
    if rows < at["still_rows"] or not critic or not sum(policy) or sum(critic) > at["still"] * sum(policy):
        return None
    rate = h.number("critic_learning_rate")
    return Sign("warning", f"in {rows} steps the critic moved by {sum(critic):.1g}, the policy by {sum(policy):.1g}",
                "the critic does not learn: "
                + (f"critic_learning_rate {rate:g} is far too low" if rate else "its learning rate is far too low"),
                f"Set critic_learning_rate {h.number('train.learning_rate'):g}",
                {"critic": sum(critic), "policy": sum(policy)}, weight=0.85)  # fmt: skip


RULES_TERMS = (
    Rule("reward_abstains", PPO, 0.96, reward_abstains),
    Rule("one_reward_rules", PPO, 0.88, one_reward_rules),
    Rule("start_without_entropy", PPO, 0.85, start_without_entropy),
)
RULES_CRITIC = (Rule("value_explains_nothing", PPO, 0.4, value_explains_nothing),)
