"""The contents of the report: an evaluation as blocks, independent of Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from concordant.core.seeding import python_stream
from concordant.evaluation.records import SCORERS, Evaluation, PolicyScores, Scorer, Survival
from concordant.evaluation.reward_summary import RewardModelSummary
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
from concordant.report.run_findings import Event, findings_blocks
from concordant.report.wording import (
    SCORER_NAMES,
    between,
    kl,
    number,
    percent,
    percent_between,
    signed,
    win_rate,
    within_noise,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    meaning: str
    cell: Callable[[PolicyScores], str]
    known: Callable[[PolicyScores], bool]


COLUMNS = (
    Column(name="gold", meaning="mean true quality of the answers, 0 to 1; no policy was trained on it",
           cell=lambda s: number(s.gold_mean), known=lambda s: s.gold_mean is not None),
    Column(name="judge", meaning="mean score by a reward model that no policy was trained on",
           cell=lambda s: number(s.judge_mean), known=lambda s: s.judge_mean is not None),
    Column(name="win rate", meaning="prompts won against the baseline, ties half, with the 95 % interval over prompts",
           cell=win_rate, known=lambda s: s.win_rate is not None),
    Column(name="reward", meaning="mean score by the proxy, the reward that the policies were trained on",
           cell=lambda s: number(s.reward_mean), known=lambda s: s.reward_mean is not None),
    Column(name="reward sd", meaning="standard deviation of that reward over prompts",
           cell=lambda s: number(s.reward_std), known=lambda s: s.reward_std is not None),
    Column(name="KL", meaning="distance from the reference policy, nats a response; "
           "≤ marks a bound, log n − (n−1)/n for best-of-n",
           cell=kl, known=lambda s: s.kl is not None),
    Column(name="perplexity", meaning="on held-out text, per token; lower means a better prediction of the text",
           cell=lambda s: number(s.perplexity), known=lambda s: s.perplexity is not None),
    Column(name="distinct-1", meaning="different words over all words of the policy's answers; "
           "falls as answers get longer",
           cell=lambda s: number(s.distinct_1, 3), known=lambda s: s.distinct_1 is not None),
    Column(name="distinct-2", meaning="the same for pairs of neighbouring words",
           cell=lambda s: number(s.distinct_2, 3), known=lambda s: s.distinct_2 is not None),
    Column(name="repetition", meaning="share of an answer's sequences of four words that repeat an earlier sequence",
           cell=lambda s: percent(s.repetition), known=lambda s: s.repetition is not None),
    Column(name="length", meaning="mean tokens an answer, end token included",
           cell=lambda s: number(s.length_mean, 1), known=lambda s: True),
    Column(name="ends", meaning="share of answers that end by themselves instead of running into the length limit",
           cell=lambda s: percent(s.eos_fraction), known=lambda s: True),
)  # fmt: skip


def shown_columns(evaluation: Evaluation) -> list[Column]:
    """The columns in which at least one policy has a number."""
    return [c for c in COLUMNS if any(c.known(s) for s in evaluation.policies.values())]


def headline(evaluation: Evaluation) -> str:
    """The result in one sentence: the best policy, its lead and the certainty of the lead."""
    ranking, base, scorer = evaluation.ranking(), evaluation.baseline, evaluation.decided_by
    if scorer is None:
        return "No scorer was given, so no policy can be called better than another."
    by = SCORER_NAMES[scorer]
    if len(ranking) == 1:
        return f"By {by}, {base} has {number(evaluation.mean(base, scorer))} over {evaluation.prompts} prompts."
    best = evaluation.policies[ranking[0]]
    if best.name == base or best.gain is None or best.gain.mean <= 0:
        return f"By {by}, no policy is better than {base} ({number(evaluation.mean(base, scorer))})."
    interval = between(best.gain.interval)
    doubt = ", which is within noise" if within_noise(best.gain) else ""
    wins = percent_between(best.win_interval)
    return (
        f"By {by}, {best.name} is best: {number(evaluation.mean(best.name, scorer))} against {base}'s"
        f" {number(evaluation.mean(base, scorer))} ({signed(best.gain.mean)}"
        f"{f', 95 % interval {interval}' if interval else ''}{doubt}), winning {percent(best.win_rate)}"
        f"{f' ({wins})' if wins else ''} of {evaluation.prompts} held-out prompts, ties half."
    )


def _caveats(evaluation: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    ranking, lead = evaluation.ranking(), evaluation.lead
    if lead is not None and len(ranking) > 2:
        ahead = f"{ranking[0]} is ahead of {ranking[1]}, the second best, by {number(lead.mean)}"
        interval = f" (95 % interval {between(lead.interval)})" if lead.interval else ""
        doubt = ": these prompts do not show which of them is better" if within_noise(lead) else ""
        blocks.append(Paragraph(f"{ahead}{interval}{doubt}."))
    if evaluation.decided_by == "reward":
        warning = "Nothing but the proxy scored these answers. The policies were trained to raise it, so its wins"
        blocks.append(Paragraph(f"{warning} prove nothing about quality: name a judge that no policy was trained on."))
    return blocks


def _table(evaluation: Evaluation) -> list[Block]:
    columns = shown_columns(evaluation)
    rows = []
    for name, scores in evaluation.policies.items():
        label = f"{name} (baseline)" if name == evaluation.baseline else name
        rows.append((label, *(c.cell(scores) for c in columns)))
    meanings = [(c.name, c.meaning) for c in columns]
    if evaluation.decided_by is not None:
        by = SCORER_NAMES[evaluation.decided_by]
        meanings = [(n, f"{m}; decided by {by}" if n == "win rate" else m) for n, m in meanings]
    return [
        Heading(f"Policies on the same {evaluation.prompts} held-out prompts"),
        Table(("policy", *(c.name for c in columns)), tuple(rows)),
        Definitions(tuple(meanings)),
    ]


def survival_line(policy: str, scorer: Scorer, survival: Survival) -> str:
    """A sentence about how much of a policy's gain by the proxy another scorer confirms."""
    proxy, other = survival.proxy, survival.other
    if proxy.deviations is None or other.deviations is None:
        return f"{policy}: all of the baseline's answers score the same, so gains cannot be compared."
    gains = f"{policy}: the proxy moved by {signed(proxy.deviations)} sd, {SCORER_NAMES[scorer]} by"
    gains = f"{gains} {signed(other.deviations)} sd"
    if survival.ratio is None:
        return f"{gains}; the proxy shows no gain beyond noise, so none can be lost."
    if survival.ratio <= 0:
        return f"{gains}; none of the gain survives: the policy learned to please the proxy, not to answer better."
    interval = percent_between(survival.interval)
    return f"{gains}; {percent(survival.ratio)} of the gain survives{f' ({interval})' if interval else ''}."


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


def _reward_model(summary: RewardModelSummary, picture: Picture | None) -> list[Block]:
    interval = percent_between(summary.accuracy_interval)
    facts = [f"Accuracy {percent(summary.accuracy)}{f' (95 % interval {interval})' if interval else ''}, ties half."]
    if summary.bayes_accuracy is not None:
        share = percent(summary.accuracy / summary.bayes_accuracy)
        facts.append(
            f"Labels are drawn by chance, so no model can be right more often than {percent(summary.bayes_accuracy)}"
            f" (the Bayes accuracy): the reward model reaches {share} of it."
        )
    facts.append(f"Always preferring the longer answer would be right {percent(summary.longer_accuracy)} of the time.")
    facts.append(
        f"Expected calibration error {number(summary.calibration_error, 3)}; log-loss {number(summary.log_loss, 3)}"
        " nats (a coin has 0.693)."
    )
    bins = [
        (f"{percent(b.low)} to {percent(b.high)}", str(b.pairs), percent(b.predicted), percent(b.observed))
        for b in summary.bins
    ]
    reads = {"longer": "chosen is longer", "same": "both as long", "shorter": "chosen is shorter"}
    groups = [(reads[g.name], str(g.pairs), percent(g.accuracy)) for g in summary.by_length]
    return [
        Heading(f"Reward model on {summary.pairs} held-out pairs"),
        Bullets(tuple(facts)),
        *([picture] if picture else []),
        Table(("confidence σ(|Δ|)", "pairs", "mean confidence", "ranked as people did"), tuple(bins)),
        Table(("length", "pairs", "accuracy"), tuple(groups)),
    ]


def drawn_prompts(evaluation: Evaluation, count: int, seed: int) -> list[int]:
    """The numbers of ``count`` prompts, drawn only by ``seed`` and not by their answers."""
    chosen = python_stream(seed, "evaluation/side_by_side").sample(
        range(evaluation.prompts), min(count, evaluation.prompts)
    )
    return sorted(chosen)


def _samples(evaluation: Evaluation, count: int, seed: int) -> list[Block]:
    if count < 1:
        return []
    scorers = [s for s in SCORERS if any(a.scores(s) is not None for a in evaluation.answers)]
    samples: list[Block] = []
    for i in drawn_prompts(evaluation, count, seed):
        answers = []
        for a in evaluation.answers:
            scores = [(s, a.scores(s)) for s in scorers]
            figures = [(str(s), number(x[i] if x is not None else None)) for s, x in scores]
            figures += [("tokens", str(a.lengths[i])), ("ends", "yes" if a.ended[i] else "no")]
            answers.append(Answer(a.name, a.responses[i] or "(empty)", tuple(figures)))
        samples.append(Sample(i + 1, tuple(evaluation.answers[0].prompts[i]), tuple(answers)))
    drawn = f"{len(samples)} of {evaluation.prompts} prompts, drawn by seed {seed} and not by how good the answers are."
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
) -> list[Block]:
    """All blocks of the report, from top to bottom."""
    blocks: list[Block] = [Paragraph(headline(evaluation), lead=True), *_caveats(evaluation)]
    blocks += [Paragraph(note) for note in notes]
    blocks += _table(evaluation) + _over_optimisation(evaluation)
    if pictures:
        blocks += [Heading("Pictures"), *pictures]
    if reward_model is not None:
        blocks += _reward_model(reward_model, reward_picture)
    blocks += findings_blocks(findings)
    blocks += _samples(evaluation, side_by_side, seed)
    facts = [f"seed {evaluation.seed}; {evaluation.bootstrap} bootstrap resamples of {evaluation.prompts} prompts"]
    facts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    facts.append("report.json has all numbers of this page, with more digits.")
    blocks += [Heading("How to reproduce"), *([Code(command)] if command else []), Bullets(tuple(facts))]
    return blocks
