"""PPO's reward and critic: constant, reversed, hacked, out of its depth."""

from __future__ import annotations

from concordant.doctor.history import Change, History
from concordant.doctor.quantities import lower, mend
from concordant.doctor.rule import EFFECT, HALF, MEASURED, PPO, SYMPTOM, Limits, Rule, Sign

ROWS = 5


def reward_constant(h: History, at: Limits) -> Sign | None:
    spread = h.start("objective/score_std", 3)  # later it may also mean that all answers are the same
    if spread is None or spread > at["spread"]:
        return None
    few = "; set sampling.n 8" if 1 < h.number("sampling.n") < at["answers"] else ""
    return Sign(
        "error",
        "every answer of the first three steps got the same reward",
        "the reward pays never, hardly ever or always: a rule whose pattern or ground_truth never matches, a yes-or-no "
        "reward that is too rare for so few answers a prompt, or a reward that does not read the answer",
        "Score two answers by hand with `concordant score`; check the ground_truth column; pay for a part of the way "
        f"too{few}",
        {"score_std": spread},
    )


LOOK_FIRST = "Look at the reward first: order ten answers of samples.jsonl by hand, and compare their scores"


def tied_groups(h: History, at: Limits) -> Sign | None:
    tied = h.now("objective/tied_groups", ROWS)
    if tied is None or tied < at["share"]:
        return None
    entropy = h.start("objective/entropy_per_token", 2)
    if entropy is not None and entropy < at["entropy"]:
        return Sign(
            "warning",
            f"{tied:.0%} of the answers stand beside answers of the same score only, and the policy's entropy is "
            f"{entropy:.2f} nats a token",
            "the answers to a prompt are all alike: the temperature is too low, or the start says one thing only",
            "Set sampling.temperature 1"
            if h.number("sampling.temperature") != 1
            else "Start from a policy that gives different answers; raise sampling.n",
            {"tied": tied, "entropy": entropy},
        )
    seen = f"{tied:.0%} of the answers stand beside answers of the same score only, so their scores teach nothing"
    cause = "the reward has few values, its prompts are too easy or too hard, or the answers to a prompt are all alike"
    n = h.number("sampling.n")
    more = f"; if the scores are right, set sampling.n {2 * n:.0f}" if n and tied > at["few"] else ""
    cure = f"{LOOK_FIRST}; pay for a part of the way too{more}"
    return Sign("warning", seen, cause, cure, {"tied": tied})


def reward_random(h: History, at: Limits) -> Sign | None:
    """The same answer to the same prompt gets different rewards."""
    same, spread = h.start("doctor/reward/same_answer", 1), h.start("objective/score_std", 1)
    if same is None or not spread or same < at["share"] * spread:
        return None
    seen = f"equal answers to one prompt differ by {same:.2g} in reward, all answers by {spread:.2g}"
    cause = "the reward is drawn by chance, or depends on something else than prompt and answer"
    cure = "Make the reward a function of prompt and answer alone: no random number, no dropout, no judge that samples"
    return Sign("error", seen, cause, cure, {"same": same, "spread": spread})


def reward_ignores_answer(h: History, at: Limits) -> Sign | None:
    """The reward differs between prompts and not between the answers to one."""
    within, spread = h.start("doctor/reward/group_std", 3), h.start("objective/score_std", 3)
    if within is None or not spread or within > at["share"] * spread:
        return None
    seen = f"the answers to one prompt differ by {within:.2g} in reward, and answers to all prompts by {spread:.2g}"
    cause = "the reward depends on the prompt and not on the answer"
    cure = "Score two answers to one prompt with `concordant score`; pass the response, not the prompt, to the reward"
    return Sign("error", seen, cause, cure, {"within": within, "spread": spread})


def reward_does_not_rise(h: History, at: Limits) -> Sign | None:
    """The policy moves away from its start, and its reward stays."""
    score, kl = h.change("objective/score", ROWS), h.now("objective/kl", ROWS)
    spread = h.start("objective/score_std", ROWS)
    if score is None or kl is None or not spread or h.progress < HALF:
        return None
    if kl < at["kl"] or score.by > at["deviations"] * spread or score.z > 2:
        return None
    return Sign(
        "warning",
        f"the policy is {kl:.1f} nats from its start, and the reward went from {score.before:.2f} to {score.after:.2f}",
        "the reward says nothing that the policy can learn (noise, a rule that seldom matches), or other terms of the "
        "loss push harder than the reward",
        LOOK_FIRST,
        {"kl": kl, "before": score.before, "after": score.after},
    )


def answers_empty(h: History, at: Limits) -> Sign | None:
    empty = h.now("doctor/response/empty", ROWS)
    if empty is None or empty < at["share"]:
        return None
    seen = f"{empty:.0%} of the answers have no word"
    cause = "the reward pays for an empty answer, or punishes every other one"
    cure = mend(h, "give an empty answer the lowest reward")
    return Sign("warning", seen, cause, cure, {"empty": empty})


def answers_alike(h: History, at: Limits) -> Sign | None:
    """Fewer and fewer different answers in a step."""
    start, now = h.start("doctor/response/distinct", 2), h.now("doctor/response/distinct", 3)
    if start is None or now is None or h.rows < at["rows"] or now > at["share"] * start:
        return None
    seen = f"{now:.0%} of a step's answers differ from each other, at first {start:.0%}"
    cause = "the policy has found one answer that pays for every prompt"
    cure = mend(h, "let the reward read the prompt")
    return Sign("warning", seen, cause, cure, {"start": start, "now": now})


def copying_hacking(h: History, at: Limits) -> Sign | None:
    copies = h.change("doctor/response/copies", ROWS)
    if copies is None or copies.by < at["rise"] or copies.z < 2:
        return None
    return Sign(
        "warning",
        f"the share of the answers that is copied from the prompt went from {copies.before:.0%} to {copies.after:.0%}",
        "the reward pays for words of the prompt",
        mend(h, "take the prompt's words out of what the reward counts"),
        {"before": copies.before, "after": copies.after},
    )


def reward_reversed(h: History, at: Limits) -> Sign | None:
    agreement, gold = h.start("doctor/reward/gold_correlation", 6), h.change("objective/gold", ROWS)
    if agreement is None or gold is None or agreement > -at["correlation"]:
        return None
    return Sign(
        "error",
        f"reward and true quality correlate at {agreement:.2f} at first; quality went from {gold.before:.2f} "
        f"to {gold.after:.2f}",
        "the reward's sign is reversed, or its model learnt from swapped labels",
        "Give the reward the weight 1, not -1; check the reward model's held-out accuracy",
        {"correlation": agreement, "gold": gold.after},
    )


def _rises(change: Change | None, z: float = 2.0) -> bool:
    return change is not None and change.z > z


def _beside_the_reward(h: History, metric: str) -> Change | None:
    """How ``metric`` changed; None unless the reward rises, and the true quality, where it is known, does not."""
    gold = h.change("objective/gold", ROWS) if h.has("objective/gold") else None  # most runs do not know it
    if not _rises(h.change("objective/score", ROWS)) or (gold is not None and gold.z > 1):
        return None
    return h.change(metric, ROWS)


def length_hacking(h: History, at: Limits) -> Sign | None:
    length, by_length = _beside_the_reward(h, "response/length"), h.now("doctor/reward/length_correlation", 8)
    if length is None or not _rises(length):
        return None
    if by_length is None and length.after < at["times_alone"] * length.before:  # the answers are not known one by one
        return None
    if by_length is not None and (length.after < at["times"] * length.before or by_length < at["correlation"]):
        return None
    return Sign(
        "warning",
        f"reward and length rise together: length {length.before:.0f} to {length.after:.0f} tokens"
        + (f", correlation {by_length:.2f}" if by_length is not None else ""),
        "the reward pays for length",
        mend(h, "let the reward stop growing at a length that is enough, or train its model on pairs of like length"),
        {"before": length.before, "after": length.after, "correlation": by_length or 0.0},
    )


def shortness_hacking(h: History, at: Limits) -> Sign | None:
    """Answers shrink while their reward rises."""
    length = _beside_the_reward(h, "response/length")
    if length is None or length.after > at["times"] * length.before or length.z > -2:
        return None
    seen = f"reward rises while answers shrink from {length.before:.0f} to {length.after:.0f} tokens"
    cause = "the reward pays for short answers"
    cure = mend(h, "lower its penalty of length, until a good long answer gets more than a bad short one")
    return Sign("warning", seen, cause, cure, {"before": length.before, "after": length.after})


def repetition_hacking(h: History, at: Limits) -> Sign | None:
    repeats = _beside_the_reward(h, "doctor/response/repetition")
    if repeats is None or repeats.by < at["rise"]:
        return None
    return Sign(
        "warning",
        f"reward rises while repeated four-word runs go from {repeats.before:.0%} to {repeats.after:.0%} of an answer",
        "the reward pays for saying the same again",
        mend(h, "count what is said again once, or show the reward model such answers as rejected"),
        {"before": repeats.before, "after": repeats.after},
    )


def phrase_hacking(h: History, at: Limits) -> Sign | None:
    score, share = h.change("objective/score", ROWS), h.change("doctor/response/top_phrase", ROWS)
    if score is None or share is None or not _rises(score) or share.after < at["share"] or share.by < at["rise"]:
        return None
    gold = h.change("objective/gold", ROWS)  # good answers share phrases too: thanks, an apology
    if gold is not None and gold.z > -1:
        return None
    phrase = _top_phrase(h)
    seen = f"reward rises while one phrase{phrase} goes from {share.before:.0%} to {share.after:.0%} of the answers"
    cause = "the reward pays for the phrase"
    cure = mend(h, "show the reward model answers where the phrase is out of place")
    return Sign("warning", seen, cause, cure, {"before": share.before, "after": share.after})


def _top_phrase(h: History) -> str:
    """' ("…")', from the last answers in samples.jsonl; '' where there are none."""
    texts = [str(row.get("response", "")).split() for row in list(h.beside.samples())[-8:]]
    grams = [" ".join(words[i : i + 3]) for words in texts for i in range(len(words) - 2)]
    top = max(grams, key=grams.count, default="")
    return f' (such as "{top}")' if top and grams.count(top) > 1 else ""


def proxy_over_gold(h: History, at: Limits) -> Sign | None:
    score, gold = h.change("objective/score", ROWS), h.change("objective/gold", ROWS)
    if score is None or gold is None or not _rises(score) or gold.z > -at["errors"] or gold.by > -at["fall"]:
        return None
    return Sign(
        "warning",
        f"reward rose from {score.before:.2f} to {score.after:.2f} while true quality fell from {gold.before:.2f} "
        f"to {gold.after:.2f}",
        "the policy exploits the reward's errors",
        mend(h, "train the reward model on these answers"),
        {"gold_before": gold.before, "gold_after": gold.after},
    )


def ensemble_disagrees(h: History, at: Limits) -> Sign | None:
    start, now = h.start("doctor/reward/agreement", ROWS), h.now("doctor/reward/agreement", ROWS)
    score = h.change("objective/score", ROWS)
    if start is None or now is None or start < at["start"] or now > at["share"] * start or not _rises(score):
        return None
    seen = f"reward rises while its models agree less and less: correlation {start:.2f}, now {now:.2f}"
    cause = "the policy has found what only some of them like"
    cure = mend(h, "train the models on these answers")
    return Sign("warning", seen, cause, cure, {"start": start, "now": now})


def reward_out_of_range(h: History, at: Limits) -> Sign | None:
    z = h.now("doctor/reward/z", 3)
    if z is None or abs(z) < at["deviations"]:
        return None
    start = h.start("doctor/reward/z", 1) or 0.0
    return Sign(
        "warning",
        f"answers score {z:+.1f} standard deviations from those the reward model was tested on, {start:+.1f} at first",
        "the policy has left what the reward model knows",
        mend(h, "train the reward model on these answers"),
        {"z": z, "start": start},
    )


def reward_misread(h: History, at: Limits) -> Sign | None:
    """What the start says is unlike what the reward model was tested on, and no policy is to blame for that yet."""
    z, spread = h.start("doctor/reward/z", 3), h.start("doctor/reward/spread", 3)
    if z is None or spread is None or (abs(z) < at["deviations"] and at["low"] < spread < at["high"]):
        return None
    return Sign(
        "warning",
        f"the first answers score {z:+.1f} standard deviations from those the reward model was tested on, "
        f"with {spread:.2f} of their spread",
        "the reward model is given text unlike its training's: another template, no prompt, other spaces",
        "Score the reward model's own test pairs with the same call and compare",
        {"z": z, "spread": spread},
    )


def never_ends(h: History, at: Limits) -> Sign | None:
    """From the start; ``stops_ending`` is what training does."""
    ends, limit = h.start("response/eos_fraction", 2), h.setting("sampling.max_new_tokens", 0)
    if ends is None or ends > at["share"]:
        return None
    least, heat = h.number("sampling.min_new_tokens"), h.number("sampling.temperature")
    if least and least >= limit - 1:
        return Sign("error", f"{ends:.0%} of the first answers end, and none may before {least:.0f} of {limit} tokens",
                    "sampling.min_new_tokens forbids the end token", "Set sampling.min_new_tokens 0", {"ends": ends},
                    weight=0.96)  # fmt: skip
    if heat > at["temperature"]:
        return None
    if 0 < limit <= at["tokens"]:
        return Sign("error", f"{ends:.0%} of the first answers end within {limit} tokens",
                    "sampling.max_new_tokens is too small: the answers are cut off",
                    f"Set sampling.max_new_tokens {max(64, 4 * int(limit))}", {"ends": ends})  # fmt: skip
    if ends > at["none"]:
        return Sign("warning", f"{ends:.0%} of the first answers end within {limit} tokens", "the limit is too short",
                    f"Set sampling.max_new_tokens {2 * int(limit) or 'twice as high'}", {"ends": ends})  # fmt: skip
    return Sign("error", f"{ends:.0%} of the first answers end", "the policy's start never learnt the end token",
                "Train SFT on answers with their end token learnt (data/end_learnt 1)", {"ends": ends})  # fmt: skip


def stops_ending(h: History, at: Limits) -> Sign | None:
    ends, start = h.now("response/eos_fraction", 4), h.start("response/eos_fraction", 2)
    if ends is None or start is None or ends > at["share"] or start < ends + at["fall"]:
        return None
    seen = f"answers that end fell from {start:.0%} to {ends:.0%}"
    cause = "the reward pays for going on, or updates break the policy"
    cure = mend(h, "pay only for answers that end")
    return Sign("warning", seen, cause, cure, {"start": start, "now": ends})


def reward_falls(h: History, at: Limits) -> Sign | None:
    score, spread = h.change("objective/score", ROWS), h.start("objective/score_std", ROWS)
    if score is None or not spread or score.z > -at["errors"] or score.by > -at["deviations"] * spread:
        return None
    seen = f"the reward that is trained on falls, from {score.before:.2f} to {score.after:.2f}"
    cause = "updates go against the advantages (a sign), or break the policy faster than they teach it"
    cure = "Check the sign of advantage and loss; " + lower(h)
    return Sign("warning", seen, cause, cure, {"before": score.before, "after": score.after})


RULES_REWARD = (
    Rule("never_ends", PPO, 0.75, never_ends),
    Rule("reward_constant", PPO, 0.95, reward_constant),
    Rule("reward_random", PPO, MEASURED, reward_random),
    Rule("reward_ignores_answer", PPO, MEASURED, reward_ignores_answer),
    Rule("tied_groups", PPO, 0.55, tied_groups),
    Rule("reward_misread", PPO, 0.65, reward_misread),
    Rule("reward_reversed", PPO, MEASURED, reward_reversed),
)
RULES_HACKING = (
    Rule("answers_empty", PPO, 0.85, answers_empty),
    Rule("length_hacking", PPO, 0.75, length_hacking),
    Rule("shortness_hacking", PPO, 0.65, shortness_hacking),
    Rule("repetition_hacking", PPO, 0.75, repetition_hacking),
    Rule("copying_hacking", PPO, 0.75, copying_hacking),
    Rule("phrase_hacking", PPO, 0.75, phrase_hacking),
    Rule("answers_alike", PPO, EFFECT, answers_alike),
    Rule("ensemble_disagrees", PPO, EFFECT, ensemble_disagrees),
    Rule("proxy_over_gold", PPO, EFFECT, proxy_over_gold),
    Rule("reward_out_of_range", PPO, 0.5, reward_out_of_range),
    Rule("reward_falls", PPO, 0.55, reward_falls),
    Rule("stops_ending", PPO, EFFECT, stops_ending),
    Rule("reward_does_not_rise", PPO, SYMPTOM, reward_does_not_rise),
)
