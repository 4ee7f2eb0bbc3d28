"""What the batches themselves show: masks, ends, labels, order. Known after a few steps, whatever the model does."""

from __future__ import annotations

import math
from collections.abc import Mapping

from concordant.doctor.finding import Severity
from concordant.doctor.history import History
from concordant.doctor.quantities import balance, whole_answers
from concordant.doctor.rule import ALL, GIVEN, MEASURED, PAIRS, Limits, Rule, Sign

ROWS = 3  # rows after which a batch's makeup is believed
MANY_ROWS = 12
SAME = 5  # batches that are compared with the one before
LOOK_BACK = 200  # rows in which an example that comes again is noticed


def response_mask_wrong(h: History, at: Limits) -> Sign | None:
    starts, learnt = h.now("doctor/data/starts", ROWS), h.now("doctor/data/end_learnt", ROWS)
    share, prompt = h.now("doctor/data/response_share", ROWS), h.now("doctor/data/prompt_tokens", ROWS)
    if starts is None or learnt is None or share is None or prompt is None:
        return None
    numbers = {"starts": starts, "end_learnt": learnt, "response_share": share, "prompt_tokens": prompt}
    if prompt < at["prompt_tokens"]:
        seen = f"prompts have {prompt:.1f} tokens on average, so the prompt stands inside the response"
        return Sign("error", seen, "the mask counts the prompt's tokens as the policy's own", MASK_CURE, numbers)
    if starts < at["starts"]:
        seen = f"in {1 - starts:.0%} of the answers the first token is masked out"
        return Sign("error", seen, "the mask is shifted, or made from token ids", MASK_CURE, numbers)
    if share < at["little"] or (learnt < at["ends"] and share < at["share"]):
        seen = f"{share:.0%} of the answers' tokens are learnt from, the last one in {learnt:.0%} of the answers"
        return Sign("error", seen, "the mask leaves out part of each answer", MASK_CURE, numbers)
    return None


MASK_CURE = "Make the mask where the text is encoded (ChatEncoder does); a run's first lines show three of them"


def end_token_masked(h: History, at: Limits) -> Sign | None:
    ends, learnt = h.now("doctor/data/ends", ROWS), h.now("doctor/data/end_learnt", ROWS)
    if ends is None or learnt is None or ends < 0.5 or learnt >= 0.5:
        return None
    seen = f"{ends:.0%} of the answers end with an end token, which is learnt in {learnt:.0%} of them"
    cause = "padding equals the end token, so masking one masks both"
    cure = "Give the tokenizer a pad token of its own, and mask by position, not by id"
    return Sign("error", seen, cause, cure, {"ends": ends, "end_learnt": learnt})


def end_token_missing(h: History, at: Limits) -> Sign | None:
    ends = h.now("doctor/data/ends", ROWS)
    if ends is None or ends >= 0.5:
        return None
    cut = _are_cut(h, ends, 0.5)
    cause = "answers are cut at data.max_response_tokens" if cut else "template or data leave the end token out"
    cure = whole_answers(h) if cut else "Use a chat template that closes the turn"
    return Sign("error", f"{1 - ends:.0%} of the answers have no end token", cause, cure, {"ends": ends})


def _are_cut(h: History, ends: float | None, share: float) -> bool:
    """Whether the limit on length cuts at least ``share`` of the answers. ``ends``: share with an end token."""
    return h.setting("data.too_long") == "cut_response_end" and ends is not None and 1 - ends >= share


def answers_identical(h: History, at: Limits) -> Sign | None:
    same = h.now("doctor/data/identical", ROWS) if h.has("doctor/data/identical") else _equal_logprobs(h)
    if same is None or same <= at["share"]:
        return None
    cut = _are_cut(h, h.now("doctor/data/ends", ROWS), same)
    return Sign(
        "error" if same > at["error"] else "warning",
        f"in {same:.0%} of the pairs chosen and rejected are the same tokens",
        "both answers are cut to what they share" if cut else "one column was read or written twice",
        whole_answers(h)
        if cut
        else "Read the rejected column of ten such pairs; leave out the pairs whose answers are equal",
        {"identical": same},
    )


def _equal_logprobs(h: History) -> float | None:
    """1 where both answers of all pairs have the same log-prob in every row, as only equal answers have; else 0."""
    chosen, rejected = h.values("logps/chosen"), h.values("logps/rejected")
    return float(chosen == rejected) if len(chosen) >= ROWS else None


def data_repeated(h: History, at: Limits) -> Sign | None:
    """Within an epoch no example comes twice, and two epochs are not in one order."""
    first, epochs = h.values("doctor/data/first_id", LOOK_BACK), h.values("epoch", LOOK_BACK)
    batches = h.values("doctor/data/batch_id", LOOK_BACK)
    if len(first) <= at["same"] or not len(first) == len(epochs) == len(batches) or not all(map(math.isfinite, epochs)):
        return None
    if epochs[-1] - epochs[-2] > 0.5:  # a batch that is all the data comes again every epoch
        return None
    this = [i for i, epoch in enumerate(epochs) if int(epoch) == int(epochs[-1])][1:]  # the first may straddle two
    again = len(this) - len({first[i] for i in this})
    same = sum(a == b for a, b in zip(batches[-SAME:], batches[-SAME - 1 : -1], strict=True))
    numbers = {"repeated": again, "rows": len(this)}
    if same == at["same"]:
        return _repeats("error", "six batches in a row hold the same examples", numbers)
    if again >= at["again"] and again > at["share_of_batches"] * len(this):
        seen = f"{again} of {len(this)} batches of this epoch begin with an example seen in it"
        return _repeats("warning", seen, numbers)
    before = {b for b, epoch in zip(batches, epochs, strict=True) if int(epoch) < int(epochs[-1])}
    copied = sum(batches[i] in before for i in this)
    if copied >= at["copied"]:
        return _repeats("warning", f"{copied} batches of this epoch are batches of an earlier one", numbers)
    return None


def _repeats(severity: Severity, seen: str, numbers: Mapping[str, float]) -> Sign:
    cause = "the order is not drawn anew, the loader starts over, or the data hold rows many times"
    cure = "Draw each epoch's order from the seed and the epoch; remove rows that the file holds many times"
    return Sign(severity, seen, cause, cure, numbers)


def chosen_is_longer(h: History, at: Limits) -> Sign | None:
    share = h.now("doctor/data/chosen_longer", MANY_ROWS)
    if share is None or 1 - at["share"] < share < at["share"]:
        return None
    which = "longer" if share > 0.5 else "shorter"
    seen = f"the chosen answer is the {which} one in tokens in {max(share, 1 - share):.0%} of the pairs"
    cause = "raters, or whoever made the pairs, went by length"
    cure = balance(share, h.beside.start().get("examples", 0), at["left"])
    return Sign("warning", seen, cause, cure, {"chosen_longer": share})


def labels_swapped(h: History, at: Limits) -> Sign | None:
    name = "rewards/accuracies" if h.stage == "dpo" else "accuracy"
    train, heldout, pairs = h.now(name, 8), h.latest(f"eval/{name}"), h.latest("eval/samples")
    if train is None or heldout is None or not pairs:
        return None
    numbers = {"train": train, "heldout": heldout}
    loss_now = h.now("bradley_terry" if h.stage == "reward" else "loss", 8)
    learns = train > at["learns"] and (
        loss_now is None or loss_now < at["learns_loss"]
    )  # without learning, both accuracies are luck
    if heldout < min(at["heldout"], 0.5 - 1 / pairs**0.5) and learns:  # two standard errors of a coin
        return Sign(
            "error",
            f"accuracy is {train:.2f} in training and {heldout:.2f}, below chance, on held-out pairs",
            "chosen and rejected are swapped in one of the two sets",
            "Swap the columns of the wrong one; see `concordant doctor DATA` for both",
            numbers,
        )
    gold, loss = h.values("eval/gold") if h.has("eval/gold") else [], h.latest("eval/loss")
    has_learnt = (
        loss is not None and loss < at["has_learnt_loss"]
    )  # a policy that drifts without learning says bad things too
    quality_fell = len(gold) > 1 and gold[-1] < min(at["gold_share"] * gold[0], gold[0] - at["gold_by"])
    if heldout > at["sure"] and has_learnt and quality_fell:
        cause = "chosen and rejected are swapped throughout: the policy learns what people rejected"
        return Sign(
            "warning",  # a policy that flees both answers of its pairs says bad things with right labels too
            f"held-out accuracy is {heldout:.2f}, and the true quality of answers fell from {gold[0]:.2f} "
            f"to {gold[-1]:.2f}",
            f"{cause}; or beta is too small for the learning rate",
            "Read ten pairs; swap the two columns of the data, or set beta three times as high",
            numbers | {"gold_start": gold[0], "gold": gold[-1]},
        )
    return None


RULES_DATA = (
    Rule("response_mask_wrong", GIVEN, 0.95, response_mask_wrong),
    Rule("end_token_masked", GIVEN, 0.95, end_token_masked),
    Rule("end_token_missing", GIVEN, MEASURED, end_token_missing),
    Rule("answers_identical", PAIRS, 0.95, answers_identical),
    Rule("data_repeated", ALL, MEASURED, data_repeated),
    Rule("labels_swapped", PAIRS, 0.85, labels_swapped),
    Rule("chosen_is_longer", PAIRS, 0.75, chosen_is_longer),
)
