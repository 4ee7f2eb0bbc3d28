"""The contents of the report: an evaluation as blocks, independent of Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from concordant.core.counted import counted
from concordant.core.digits import measured, number, share
from concordant.core.seeding import python_stream
from concordant.evaluation.records import SCORERS, Evaluation, PolicyScores, Scorer, Survival
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.report.axes_section import axes_blocks
from concordant.report.blocks import (
    Answer,
    Block,
    Bullets,
    Code,
    Definitions,
    Heading,
    Paragraph,
    Picture,
    Sample,
    Table,
)
from concordant.report.headline import caveats, comparisons_table, headline
from concordant.report.ratings import ratings_blocks
from concordant.report.reward_section import reward_model_blocks
from concordant.report.run_facts import Source, facts_blocks
from concordant.report.run_findings import Event, findings_blocks
from concordant.report.spread import spread_blocks
from concordant.report.wording import SCORER_NAMES, difference, in_percent, kl, with_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    meaning: str
    cell: Callable[[PolicyScores], str]
    known: Callable[[PolicyScores], bool]


COLUMNS = (
    Column(name="gold", meaning="mean true quality of the answers, 0 to 1; no policy was trained on it",
           cell=lambda s: with_interval(s.gold), known=lambda s: s.gold is not None),
    Column(name="judge", meaning="mean score by a reward model that no policy was trained on",
           cell=lambda s: with_interval(s.judge), known=lambda s: s.judge is not None),
    Column(name="win rate", meaning="prompts won against the baseline, ties half",
           cell=lambda s: with_interval(s.win), known=lambda s: s.win is not None),
    Column(name="reward", meaning="mean score by the proxy, the reward that --reward names",
           cell=lambda s: with_interval(s.reward), known=lambda s: s.reward is not None),
    Column(name="reward sd", meaning="standard deviation of that reward over answers",
           cell=lambda s: _deviation(s), known=lambda s: s.reward_std is not None),
    Column(name="KL", meaning="mean distance from the reference policy, nats a response; "
           "≤ marks a bound, log n − (n−1)/n for best-of-n",
           cell=kl, known=lambda s: s.kl is not None or s.kl_bound is not None),
    Column(name="perplexity", meaning="on held-out texts, per token; lower means a better prediction of the text",
           cell=lambda s: with_interval(s.perplexity), known=lambda s: s.perplexity is not None),
    Column(name="distinct-1", meaning="different words over all words of the policy's answers; "
           "falls as answers get longer",
           cell=lambda s: share(s.distinct_1, s.prompts), known=lambda s: s.distinct_1 is not None),
    Column(name="distinct-2", meaning="the same for pairs of neighbouring words",
           cell=lambda s: share(s.distinct_2, s.prompts), known=lambda s: s.distinct_2 is not None),
    Column(name="repetition", meaning="mean share of an answer's sequences of four words that repeat an earlier one, "
           "over answers of four words or more",
           cell=lambda s: with_interval(s.repetition), known=lambda s: s.repetition is not None),
    Column(name="length", meaning="mean tokens an answer, end token included",
           cell=lambda s: with_interval(s.length), known=lambda s: True),
    Column(name="ends", meaning="share of answers that end by themselves instead of running into the length limit",
           cell=lambda s: with_interval(s.ends), known=lambda s: True),
)  # fmt: skip


def _deviation(s: PolicyScores) -> str:
    """A standard deviation over n answers has an error of about itself over √(2n)."""
    return measured(s.reward_std, None if s.reward_std is None else s.reward_std / (2 * s.prompts) ** 0.5)


def shown_columns(evaluation: Evaluation) -> list[Column]:
    """The columns in which at least one policy has a number."""
    return [c for c in COLUMNS if any(c.known(s) for s in evaluation.policies.values())]


def _table(evaluation: Evaluation) -> list[Block]:
    columns = shown_columns(evaluation)
    rows = []
    for name, scores in evaluation.policies.items():
        label = f"{name} ({len(scores.runs)} runs)" if scores.runs else name
        label = f"{label} (baseline)" if name == evaluation.baseline else label
        rows.append((label, *(c.cell(scores) for c in columns)))
    meanings = [(c.name, c.meaning) for c in columns]
    if evaluation.decided_by is not None:
        by = SCORER_NAMES[evaluation.decided_by]
        meanings = [(n, f"{m}; decided by {by}" if n == "win rate" else m) for n, m in meanings]
    comparisons = comparisons_table(evaluation)
    shown: list[Block] = [Heading("Which differences are shown"), comparisons] if comparisons else []
    return [
        Heading(f"Policies on the same {counted(evaluation.prompts, 'held-out prompt')}"),
        Table(("policy", *(c.name for c in columns)), tuple(rows)),
        Paragraph(_BRACKETS + _texts(evaluation)),
        *map(Paragraph, unknown_kls(evaluation)),
        Definitions(tuple(meanings)),
        *shown,
    ]


_BRACKETS = (
    "Numbers in brackets are 95 % intervals: how much the mean would change with other prompts. There is none where all"
    " values are equal. Each number has as many digits as its number of prompts supports."
)


def _texts(evaluation: Evaluation) -> str:
    counts = sorted({s.perplexity.count for s in evaluation.policies.values() if s.perplexity is not None})
    return f" Perplexity is over {' or '.join(f'{count:,}' for count in counts)} texts." if counts else ""


def unknown_kls(evaluation: Evaluation) -> list[str]:
    """A sentence for each policy whose KL is not known."""
    return [
        f"The KL of {name} is not known: {s.kl_unknown}." for name, s in evaluation.policies.items() if s.kl_unknown
    ]


def survival_line(policy: str, scorer: Scorer, survival: Survival) -> str:
    """A sentence about how much of a policy's gain by the proxy another scorer confirms."""
    proxy, other, ratio = survival.proxy.deviations, survival.other.deviations, survival.ratio
    if proxy is None or other is None:
        return f"{policy}: all of the baseline's answers score the same, so gains cannot be compared."
    moved = [difference(mean) for mean in (proxy, other)]
    gains = f"{policy}: the proxy moved by {moved[0]} sd, {SCORER_NAMES[scorer]} by {moved[1]} sd"
    if ratio is None:
        return f"{gains}; the proxy shows no gain beyond noise, so none can be lost."
    if (ratio.interval.high if ratio.interval else ratio.value) <= 0:
        return f"{gains}; none of the gain survives: the policy learned to please the proxy, not to answer better."
    return f"{gains}; {in_percent(ratio)} of the gain survives."


def _over_optimisation(evaluation: Evaluation) -> list[Block]:
    lines = [survival_line(p, s, x) for p, by_scorer in evaluation.survival.items() for s, x in by_scorer.items()]
    if not lines:
        return []
    text = (
        f"A policy learns to please the proxy, and part of its gain is the proxy's error. Below is each policy's gain"
        f" over {evaluation.baseline} on the same answers, by the proxy and by a scorer that no policy was trained on."
        f" Both are in standard deviations (sd) of {evaluation.baseline}'s answers. At 100 %, the scorer confirms all"
        " of the gain."
    )
    return [Heading("Over-optimisation: how much of the gain survives"), Paragraph(text), Bullets(tuple(lines))]


def drawn_prompts(evaluation: Evaluation, count: int, seed: int) -> list[int]:
    """The numbers of ``count`` prompts, drawn only by ``seed`` and not by their answers."""
    chosen = python_stream(seed, "evaluation/side_by_side").sample(
        range(evaluation.prompts), min(count, evaluation.prompts)
    )
    return sorted(chosen)


def _samples(evaluation: Evaluation, count: int, seed: int) -> list[Block]:
    """Prompts with every policy's answer; of a policy of several runs the first run's answer."""
    if count < 1:
        return []
    shown = [runs[0] for runs in evaluation.answers.values()]
    scorers = [s for s in SCORERS if any(a.scores(s) is not None for a in shown)]
    samples: list[Block] = []
    for i in drawn_prompts(evaluation, count, seed):
        answers = []
        for a in shown:
            scores = [(s, a.scores(s)) for s in scorers]
            figures = [(str(s), number(x[i] if x is not None else None)) for s, x in scores]
            figures += [("tokens", str(a.lengths[i])), ("ends", "yes" if a.ended[i] else "no")]
            runs = len(evaluation.answers[a.name])
            name = f"{a.name} (run 1 of {runs})" if runs > 1 else a.name
            answers.append(Answer(name, a.responses[i] or "(empty)", tuple(figures)))
        samples.append(Sample(i + 1, tuple(shown[0].prompts[i]), tuple(answers)))
    drawn = (
        f"{len(samples)} of {counted(evaluation.prompts, 'prompt')}, drawn by seed {seed} and not by how good the "
        "answers are."
    )
    return [Heading("Side by side"), Paragraph(drawn), *samples]


def report_blocks(
    evaluation: Evaluation,
    *,
    reward_model: RewardModelSummary | None,
    pictures: Sequence[Picture],
    reward_picture: Picture | None,
    side_by_side: int,
    seed: int,
    command: str,
    versions: Mapping[str, str],
    notes: Sequence[str],
    findings: Mapping[str, Sequence[Event]],
    facts: Sequence[tuple[str, str]],
    sources: Sequence[Source],
    folder: Path,
) -> list[Block]:
    """All blocks of the report that stands in ``folder``, from top to bottom."""
    blocks: list[Block] = [Paragraph(headline(evaluation), lead=True), *caveats(evaluation)]
    blocks += [Paragraph(note) for note in notes]
    blocks += _table(evaluation) + axes_blocks(evaluation) + ratings_blocks(evaluation)
    blocks += spread_blocks(evaluation) + _over_optimisation(evaluation)
    if pictures:
        blocks += [Heading("Pictures"), *pictures]
    if reward_model is not None:
        blocks += reward_model_blocks(reward_model, reward_picture)
    blocks += findings_blocks(findings)
    blocks += facts_blocks(facts, sources, folder)
    blocks += _samples(evaluation, side_by_side, seed)
    repeat = [
        f"seed {evaluation.seed}; {evaluation.bootstrap} bootstrap resamples of {counted(evaluation.prompts, 'prompt')}"
    ]
    repeat.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    repeat.append("report.json has all numbers of this page, with more digits.")
    blocks += [Heading("How to reproduce"), *([Code(command)] if command else []), Bullets(tuple(repeat))]
    return blocks
