"""Checks of the records without a tokenizer, for a data file and for the data of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from concordant.data.card import KINDS, DataCard, make_card
from concordant.data.convert import split_key
from concordant.data.dialogue import Messages
from concordant.data.records import Pair
from concordant.data.splits import Loaded, reasons
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding
from concordant.doctor.looked_at import FEW
from concordant.doctor.preflight_answers import check_answers, votes
from concordant.doctor.preflight_text import check_text
from concordant.doctor.quantities import balance

LOOKED_AT = 20_000  # rows of train and of test that the card counts, in half a second


def check_records(loaded: Loaded[Any], card: DataCard | None = None) -> list[Finding]:
    """All findings about the records. ``card`` is their data card, if there is one already."""
    card = card or make_card(
        loaded.train[:LOOKED_AT], loaded.test[:LOOKED_AT], source="", seed=0, rows_read=loaded.rows_read
    )
    pairs = [record for record in loaded.train if isinstance(record, Pair)]
    found = [
        dropped_rows(loaded),
        data_repeated(card),
        leaking_prompts(loaded),
        chosen_is_longer(card),
        labels(pairs),
    ]
    return (
        [finding for finding in found if finding is not None]
        + check_answers(loaded.train)
        + check_text(loaded.train[:LOOKED_AT])
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def dropped_rows(loaded: Loaded[Any]) -> Finding | None:
    """Were many rows dropped?"""
    share = loaded.dropped.total() / max(1, loaded.rows_read)
    if share <= limits("dropped_rows")["share"]:
        return None
    return Finding(
        "dropped_rows",
        "warning",
        f"{loaded.dropped.total():,} of {loaded.rows_read:,} rows ({percent(share)}) are of no use: "
        f"{reasons(loaded.dropped)}",
        f"the rows are written otherwise than was recognised ({', '.join(loaded.formats)}), or lack answers",
        "Look at one that was dropped; name the format with --data.format NAME (`concordant prepare --help all` lists "
        "the names)",
        numbers={"share": share, "rows": loaded.dropped.total()},
    )


def data_repeated(card: DataCard) -> Finding | None:
    """Do many rows have the prompt and the answers of an earlier row?"""
    rows = sum(card.rows.values())
    share = card.duplicate_rows / max(1, rows)
    if share <= limits("data_repeated")["share"]:
        return None
    return Finding(
        "data_repeated",
        "warning",
        f"{card.duplicate_rows:,} of {rows:,} rows ({percent(share)}) repeat an earlier row word for word",
        "a file joined twice, or few distinct answers",
        f"Remove the repeats, or make fewer passes: --train.epochs {1 - share:.2g} sees as many rows as are distinct",
        numbers={"share": share, "rows": card.duplicate_rows},
        weight=0.65,
    )


def leaking_prompts(loaded: Loaded[Any]) -> Finding | None:
    """Are held-out prompts in the training data too? Letter case and spacing are ignored."""
    known = {_letters(split_key(record)) for record in loaded.train}
    heldout = {split_key(record) for record in loaded.test}
    shared = {prompt for prompt in heldout if _letters(prompt) in known}
    if not shared:
        return None
    share = len(shared) / len(heldout)
    exact = len(heldout & {split_key(record) for record in loaded.train})
    return Finding(
        "leaking_prompts",
        "error" if share > limits("leaking_prompts")["error"] else "warning",
        f"{len(shared):,} of {len(heldout):,} held-out prompts ({percent(share)}) are in the training data too"
        + (f", {exact:,} of them word for word" if exact < len(shared) else ""),
        "the data brings a split of its own that overlaps"
        if exact
        else "the split is by prompt, and these differ in letter case or spacing only",
        "Put all rows in one file and let `concordant prepare --data FILE --output DIR` split by prompt"
        if exact
        else "Write such prompts alike before `concordant prepare` splits them",
        numbers={"share": share, "prompts": len(shared)},
        weight=0.8,
    )


def _letters(prompt: Messages) -> tuple[str, ...]:
    return tuple(" ".join(message.content.split()).casefold() for message in prompt)


def chosen_is_longer(card: DataCard) -> Finding | None:
    """Does length alone explain many of the labels?"""
    at, longer_wins, pairs = limits("chosen_is_longer"), card.longer_preferred, card.kinds.get(KINDS[Pair], 0)
    if longer_wins is None or pairs < FEW or max(longer_wins, 1 - longer_wins) < at["note"]:
        return None
    longer = longer_wins > 0.5
    accuracy = longer_wins if longer else 1 - longer_wins
    return Finding(
        "chosen_is_longer",
        "warning" if accuracy >= at["warning"] or not longer else "info",
        f'"always prefer the {"longer" if longer else "shorter"}" in {card.unit} is right in {percent(accuracy)} of '
        f"{pairs:,} pairs",
        "raters took length for thoroughness" if longer else "columns exchanged, or a cost read as a score",
        balance(longer_wins, pairs, at["left"])
        if longer
        else "Read ten pairs; if they are swapped, exchange the columns chosen and rejected",
        numbers={"accuracy": accuracy, "longer_preferred": longer_wins},
        weight=0.75,
    )


def labels(pairs: Sequence[Pair]) -> Finding | None:
    """Are many labels wrong? The data's margins or probabilities tell; without them, pairs that occur several times."""
    known = list(_known_to_be_wrong(pairs))
    if len(known) >= FEW:
        share, how = sum(known) / len(known), "by the data's own margin or probability"
    else:
        noise = _noise_of_repeated(pairs)
        if noise is None:
            return None
        share, how = noise, "judging by pairs that were asked more than once"
    if share > 0.5:
        seen = f"in {percent(share)} of the pairs the rejected answer is the better one, {how}"
        cause = "the columns chosen and rejected are exchanged, or a cost was read as a score"
        cure = "Exchange the columns chosen and rejected, or the sign of margin"
        return Finding("labels_swapped", "error", seen, cause, cure, numbers={"share": share}, weight=0.85)
    if share <= limits("label_noise")["share"]:
        return None
    smoothing = min(share, 0.45)
    return Finding(
        "label_noise",
        "warning",
        f"{percent(share)} of the labels point the other way, {how}",
        "raters disagree, or answers that hardly differ were compared",
        f"--label_smoothing {smoothing:.2f} (reward, dpo) says so to the loss; or leave out pairs with a small margin",
        numbers={"share": share},
        weight=0.8,
    )


def _known_to_be_wrong(pairs: Iterable[Pair]) -> Iterator[bool]:
    for pair in pairs:
        if pair.probability is not None:
            yield pair.probability < 0.5
        elif pair.margin is not None:
            yield pair.margin < 0


def _noise_of_repeated(pairs: Iterable[Pair]) -> float | None:
    """The share ε of flipped labels; two votes on a pair disagree in 2ε(1-ε) of cases. None if there are few votes."""
    compared = disagreed = 0
    for count in votes(pairs):
        total = count.total()
        compared += total * (total - 1) // 2
        disagreed += math.prod(count.values()) if len(count) == 2 else 0
    if compared < FEW:
        return None
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreed / compared))) / 2
