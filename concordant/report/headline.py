"""The result in words: who is shown to be better than whom. Where an interval holds zero, nobody wins."""

from __future__ import annotations

from collections.abc import Sequence

from concordant.core.counted import counted
from concordant.evaluation.records import LEVEL, Comparison, Evaluation, Mean, Verdict
from concordant.report.blocks import Block, Paragraph, Table
from concordant.report.wording import (
    SCORER_NAMES,
    against,
    difference,
    level_name,
    signed,
    signed_ends,
    told,
    with_sentence,
)


def headline(evaluation: Evaluation) -> str:
    """The result in one or two sentences. A policy is called better only where the interval shows it."""
    base, scorer, verdict = evaluation.baseline, evaluation.decided_by, evaluation.verdict
    if scorer is None:
        return "No scorer was given, so no policy can be called better than another."
    if verdict is None:
        mean = with_sentence(evaluation.mean(base, scorer))
        return f"By {SCORER_NAMES[scorer]}, {base} has {mean} over {_prompts(evaluation)}."
    by = f"By {SCORER_NAMES[scorer]}, "
    with_base = [verdict.between(name, base) for name in evaluation.ranking() if name != base]
    better = [c for c in with_base if c.first != base and c.is_shown]
    worse = [c for c in with_base if c.first == base and c.is_shown]
    if better:
        return by + _winner(evaluation, verdict, better)
    nearest = with_base[0]
    name, facts = nearest.first if nearest.second == base else nearest.second, _facts(evaluation, verdict, nearest)
    if len(with_base) == 1:
        said = f"{name} is worse than {base}" if worse else f"no difference between {name} and {base} was shown"
        return f"{by}{said}: {facts}."
    if worse == with_base:
        return f"{by}every other policy is worse than {base}; the best of them, {name}, has {facts}."
    text = f"{by}no policy was shown to be better than {base}; the best of the others, {name}, has {facts}."
    return text + (f" Shown to be worse than {base}: {_listed([c.second for c in worse])}." if worse else "")


def _winner(evaluation: Evaluation, verdict: Verdict, better: Sequence[Comparison]) -> str:
    """The policy with the highest mean. The policy is called best if no other one may be as good."""
    best, base = evaluation.ranking()[0], evaluation.baseline
    rivals = [c for c in verdict.comparisons if c.first == best and not c.is_shown]
    lead = next((c for c in better if c.first == best), better[0])
    wins = with_sentence(evaluation.policies[lead.first].win).removesuffix(f" of {evaluation.prompts}")  # a count
    called = "best" if lead.first == best and not rivals else f"better than {base}"
    text = f"{lead.first} is {called}: {_values(evaluation, verdict, lead)}"
    text = f"{text}, winning {wins} of {_prompts(evaluation)}, ties half."
    others = [c.first for c in better if c is not lead]
    if others and called != "best":
        text = f"{text} {_listed(others)} {'is' if len(others) == 1 else 'are'} better than {base} too."
    if rivals:
        closest = min(rivals, key=lambda c: c.difference.value)
        which = f"the closest is {closest.second}, " if len(rivals) > 1 else ""
        text = f"{text} It was not shown that {best} is better than {_listed([c.second for c in rivals])}:"
        text = f"{text} {which}{difference(closest.difference, verdict.level)}."
    return text


def _facts(evaluation: Evaluation, verdict: Verdict, c: Comparison) -> str:
    """The numbers of a comparison with the baseline, seen from the other policy."""
    if c.difference.value == c.difference.error == 0:
        _, other, mine, others = _two(evaluation, c)
        return f"{told(mine)} against {other}'s {told(others)}, the same score on each of {_prompts(evaluation)}"
    text = f"{_values(evaluation, verdict, c)}, over {_prompts(evaluation)}"
    few = c.difference.count < verdict.fewest
    return f"{text}, too few to show a difference ({verdict.fewest} are needed)" if few else text


def _values(evaluation: Evaluation, verdict: Verdict, c: Comparison) -> str:
    """ "0.79 against sft's 0.44, +0.35 (95 % interval +0.31 to +0.39)", with the baseline second if it takes part."""
    name, other, mine, others = _two(evaluation, c)
    return against(mine, others, c.seen_from(name), other, verdict.level)


def _two(evaluation: Evaluation, c: Comparison) -> tuple[str, str, Mean, Mean]:
    """The names of the two policies and their means, the baseline second if it takes part."""
    name, other = (c.second, c.first) if c.first == evaluation.baseline else (c.first, c.second)
    scorer = evaluation.decided_by
    assert scorer is not None
    mine, others = evaluation.mean(name, scorer), evaluation.mean(other, scorer)
    assert mine is not None and others is not None  # the deciding scorer scored every policy
    return name, other, mine, others


def _prompts(evaluation: Evaluation) -> str:
    return counted(evaluation.prompts, "held-out prompt")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def caveats(evaluation: Evaluation) -> list[Block]:
    """What a reader must know to believe the headline."""
    blocks: list[Block] = []
    verdict = evaluation.verdict
    if verdict is not None and len(verdict.comparisons) > 1:
        blocks.append(Paragraph(_LEVELS.format(count=len(verdict.comparisons), level=level_name(verdict.level))))
    if verdict is not None and evaluation.bootstrap * (1 - verdict.level) / 2 < 1:
        blocks.append(Paragraph(_FEW_RESAMPLES.format(count=evaluation.bootstrap, level=level_name(verdict.level))))
    if any(scores.runs for scores in evaluation.policies.values()):
        blocks.append(Paragraph(_RUNS))
    if evaluation.decided_by == "reward":
        blocks.append(Paragraph(_ONLY_THE_PROXY))
    return blocks


_LEVELS = (
    f"{{count}} pairs of policies are compared. So that all of these statements together hold with {level_name(LEVEL)},"
    " the interval of each difference is one of {level} (Bonferroni)."
)
_FEW_RESAMPLES = "{count} bootstrap resamples are too few for an interval of {level}: set bootstrap to 2000 or more."
_RUNS = (
    "A policy of several runs is the mean of its runs. The intervals say how much the result would change with other"
    " prompts, and not how much it would change with other seeds: see the spread over runs below."
)
_ONLY_THE_PROXY = (
    "Nothing but the proxy scored these answers. If a policy was trained to raise the proxy, a win by the proxy"
    " proves nothing about quality: name a judge that no policy was trained on."
)


def comparisons_table(evaluation: Evaluation) -> Table | None:
    """A row for each pair of policies; None for a single policy."""
    verdict, scorer = evaluation.verdict, evaluation.decided_by
    if verdict is None or scorer is None:
        return None
    rows = []
    for c in verdict.comparisons:
        ends = signed_ends(c.difference)
        shown = f"{c.first} is better" if c.is_shown else "none"
        value = signed(told(c.difference), c.difference.value)
        rows.append((f"{c.first} against {c.second}", value, f"{ends[0]} to {ends[1]}" if ends else "–", shown))
    name, interval = SCORER_NAMES[scorer].removeprefix("the "), f"{level_name(verdict.level)} interval"
    return Table(("pair", f"difference in {name}", interval, "difference shown"), tuple(rows))
