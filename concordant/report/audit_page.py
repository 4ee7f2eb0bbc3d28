"""The page of an audit: audit.html with its pictures, audit.md, and the numbers in audit.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from concordant.core.counted import counted
from concordant.core.digits import UNKNOWN
from concordant.evaluation.audit import Ensemble
from concordant.evaluation.audit_result import Audit, RewardAudit
from concordant.evaluation.records import Mean
from concordant.report import audit_plots, plots
from concordant.report.blocks import Block, Bullets, Code, Definitions, Heading, Paragraph, Picture, Table
from concordant.report.html_page import render_html
from concordant.report.markdown_page import render_markdown
from concordant.report.wording import difference, told, with_interval, with_sentence
from concordant.report.write import CAPTIONS, draw, finite, versions
from concordant.runs.atomic import write_text

PAGE, MARKDOWN, NUMBERS = "audit.html", "audit.md", "audit.json"
_READS = {"length": "the chosen answer is", "turns": "turns of the user", "topic": "topic"}
_LARGE_SHIFT = 0.2  # deviations: a small effect by Cohen's rule
_STEADY = 0.97  # share of pairs that a harmless change should leave alone


def write_audit(audit: Audit, folder: Path, command: str = "") -> Path:
    """Write the page, its pictures and its numbers into ``folder``; returns the path of audit.html."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks: list[Block] = [Paragraph(_lead(audit), lead=True), Definitions(tuple(audit.facts))]
    for number, reward in enumerate(audit.rewards, start=1):
        blocks += _reward(reward, _pictures(reward, folder, "" if number == 1 else f"_{number}"))
    if audit.ensemble is not None:
        blocks += _ensemble(audit.ensemble, audit.members, folder)
    blocks += [Heading("How to read the numbers"), Definitions(_MEANINGS)]
    blocks += [Heading("To repeat it"), Code(command)] if command else []
    title = f"Audit of {' and '.join(reward.name for reward in audit.rewards)}"
    numbers = audit.as_json() | {"versions": versions()}
    write_text(folder / NUMBERS, json.dumps(finite(numbers), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(folder / MARKDOWN, render_markdown(title, blocks))
    write_text(folder / PAGE, render_html(title, blocks, folder))
    return folder / PAGE


def _lead(audit: Audit) -> str:
    parts = [
        f"{reward.name} ranks {with_sentence(reward.summary.accuracy)} of {counted(reward.summary.pairs, 'pair')} as"
        " the data does."
        for reward in audit.rewards
    ]
    if audit.ensemble is not None:
        whose = "Their mean" if len(audit.rewards) > 1 else "The mean of its heads, each scaled,"
        parts.append(f"{whose} ranks {with_sentence(audit.ensemble.mean)} so.")
    return " ".join(parts)


def _pictures(audit: RewardAudit, folder: Path, suffix: str) -> dict[str, Picture]:
    names = {kind: f"audit_{kind}{suffix}.png" for kind in ("accuracy", "calibration", "words")}
    captions = {
        names["accuracy"]: (
            "Accuracy by length difference, by the number of turns and by topic.",
            "The share of pairs that the reward ranks as the data does, in groups. The upright line is the accuracy on"
            " all pairs, the dashed line is guessing, and the bars are 95 % intervals.",
        ),
        names["calibration"]: CAPTIONS["reward_calibration.png"],
        names["words"]: (
            "The shift of the score by one word of the prompt.",
            "The same answer to prompts that differ in one word. A reward without prejudice has all dots near 0. Bars"
            " are 95 % intervals over the prompts.",
        ),
    }
    found = draw(
        folder,
        {
            names["accuracy"]: lambda theme: audit_plots.accuracies(audit, theme),
            names["calibration"]: lambda theme: plots.reward_calibration(audit.summary, theme),
            names["words"]: lambda theme: audit_plots.word_shifts(audit, theme),
        },
        captions,
    )
    return {kind: found[name] for kind, name in names.items() if name in found}


def _reward(audit: RewardAudit, pictures: Mapping[str, Picture]) -> Iterator[Block]:
    yield Heading(audit.name)
    stands_out = list(findings(audit))
    yield Bullets(tuple(stands_out)) if stands_out else Paragraph("Nothing stands out.")
    yield Heading("Accuracy in groups")
    yield pictures["accuracy"]
    for kind, groups in audit.groups.items():
        rows = tuple((g.name, f"{g.pairs:,}", with_interval(g.accuracy)) for g in groups)
        yield Table((_READS[kind], "pairs", "accuracy"), rows)
    yield Heading("Calibration")
    yield pictures["calibration"]
    yield Table(("number", "value"), tuple(_numbers(audit)))
    yield Heading("Harmless changes")
    yield Table(
        ("change", "pairs that it changes", "ranked the same way", "score moves by, in deviations"),
        tuple(
            (name, f"{c.pairs:,}", with_interval(c.same) if c.pairs else UNKNOWN, with_interval(c.moved))
            for name, c in audit.changes.items()
        ),
    )
    yield Heading("Prompts that differ in one word")
    if audit.words_unknown:
        yield Paragraph(f"Not measured: {audit.words_unknown}")
    else:
        yield pictures["words"]
        yield Table(
            ("word", "shift of the score, in deviations"),
            tuple((f"{g}: {w}", with_interval(m)) for g, row in audit.words.items() for w, m in row.items()),
        )


def _numbers(audit: RewardAudit) -> Iterator[tuple[str, str]]:
    yield "accuracy", with_interval(audit.summary.accuracy)
    yield "accuracy of “prefer the longer answer”, in words", with_interval(audit.summary.longer_accuracy)
    yield "expected calibration error", with_interval(audit.calibration)
    yield "log-loss, nats", with_interval(audit.summary.log_loss)
    sets = counted(audit.four.count, "set") if audit.four else "no set"
    kind = "of one prompt" if audit.four_whole else "two of other prompts"
    yield f"best of four, ties shared ({sets}, {kind})", with_interval(audit.four)
    yield "share of the scores' variance that length explains", with_interval(audit.length_of_score)
    yield "share of the margins' variance that length explains", with_interval(audit.length_of_margin)
    for name, mean in audit.agrees_with.items():
        yield name, with_interval(mean)
    if audit.without_score:
        yield "pairs without a score, left out", f"{audit.without_score:,}"


def findings(audit: RewardAudit) -> Iterator[str]:
    """Sentences about what a person should look at. Each is shown by an interval and not by a value alone."""
    lengths = {group.name: group.accuracy for group in audit.groups["length"]}
    short, long = lengths.get("much shorter"), lengths.get("much longer")
    if short and long and _below(short, long):
        yield (
            f"It prefers long answers: accuracy {told(long)} where the chosen answer is much longer, and {told(short)} "
            "where it is much shorter."
        )
    if short and long and _below(long, short):
        yield (
            f"It prefers short answers: accuracy {told(short)} where the chosen answer is much shorter, and "
            f"{told(long)} where it is much longer."
        )
    for kind in ("turns", "topic"):
        for group in audit.groups[kind]:
            if group.accuracy.interval and group.accuracy.interval.high < audit.summary.accuracy.value:
                yield f"It is weak for {_READS[kind]} {group.name}: accuracy {with_sentence(group.accuracy)}."
    if audit.summary.accuracy.interval and audit.summary.accuracy.interval.low <= 0.5:
        yield "It ranks the pairs no better than guessing would."
    for name, change in audit.changes.items():
        if change.same and change.same.interval and change.same.interval.high < _STEADY:
            yield f"A harmless change moves its ranking: {name} leaves {with_sentence(change.same)} of the pairs alone."
    for words, row in audit.words.items():
        for word, mean in row.items():
            if mean.interval and not mean.interval.holds_zero and abs(mean.value) >= _LARGE_SHIFT:
                yield f"The word “{word}” ({words}) shifts its score by {difference(mean)} deviations."


def _below(low: Mean, high: Mean) -> bool:
    return bool(low.interval and high.interval and low.interval.high < high.interval.low)


def _ensemble(ensemble: Ensemble, names: Sequence[str], folder: Path) -> Iterator[Block]:
    yield Heading("All rewards together")
    rows = [(name, with_interval(mean)) for name, mean in zip(names, ensemble.members, strict=True)]
    yield Table(("reward", "accuracy"), (*rows, ("mean of the scaled margins", with_interval(ensemble.mean))))
    if ensemble.predicts is None:
        yield Paragraph("There are too few errors to say whether disagreement predicts them.")
    else:
        yield Paragraph(
            f"With probability {with_sentence(ensemble.predicts)}, a pair that the mean ranks wrongly has more"
            " disagreement than a pair that it ranks rightly. At 0.5 disagreement says nothing about errors."
        )
    file = "audit_disagreement.png"
    caption = (
        "Accuracy of the mean by quarters of disagreement.",
        "The pairs in four equal parts, from the least disagreement to the most. Bars are 95 % intervals.",
    )
    yield draw(folder, {file: lambda theme: audit_plots.disagreement(ensemble, theme)}, {file: caption})[file]
    quarters = tuple((g.name, f"{g.pairs:,}", with_interval(g.accuracy)) for g in ensemble.quarters)
    yield Table(("disagreement", "pairs", "accuracy of the mean"), quarters)


_MEANINGS = (
    ("intervals", "95 %. Shares have Wilson's interval; other numbers are resampled over prompts or pairs."),
    (
        "length",
        "In words. “About as long” is a difference of at most a tenth of the longer answer, “much” more than half.",
    ),
    ("topic", "The first list of words that fits the last user message; docs/audit.md has the lists."),
    (
        "best of four",
        "1 if the best answer alone has the highest score, 1/k if k answers share it, else 0. Guessing: ¼.",
    ),
    (
        "variance that length explains",
        "R² of a straight line in the logarithm of the number of words. Good answers may really be longer, so compare"
        " it with the accuracy of “prefer the longer answer”.",
    ),
    ("deviations", "Standard deviations of the scores of all answers."),
)
