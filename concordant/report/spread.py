"""How much the numbers of a policy differ between its runs, such as training with several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from concordant.core.digits import measured
from concordant.evaluation.records import Evaluation, Mean, PolicyScores
from concordant.report.blocks import Block, Bullets, Heading, Paragraph, Table
from concordant.report.wording import told

# The numbers whose spread is shown.
SPREAD: dict[str, Callable[[PolicyScores], Mean | None]] = {
    "gold": lambda s: s.gold,
    "judge": lambda s: s.judge,
    "win rate": lambda s: s.win,
    "reward": lambda s: s.reward,
    "KL": lambda s: s.kl,
}


def deviation_over_runs(values: Sequence[float]) -> float:
    """The sample's standard deviation, divided by the number of runs less 1."""
    return statistics.stdev(values)


def spread_blocks(evaluation: Evaluation) -> list[Block]:
    """A row for each policy of several runs and each number; no block if every policy has one run."""
    policies = [scores for scores in evaluation.policies.values() if scores.runs]
    rows = [row for scores in policies for name in SPREAD if (row := _row(scores, name)) is not None]
    if not rows:
        return []
    named = tuple(f"{s.name}, run {i}: {run.run}" for s in policies for i, run in enumerate(s.runs, 1) if run.run)
    header = ("policy and number", "runs", "mean over runs", "sd over runs", "lowest to highest", "each run")
    return [Heading("Spread over runs"), Paragraph(_WHAT), Table(header, tuple(rows)), Bullets(named)]


def _row(scores: PolicyScores, name: str) -> tuple[str, ...] | None:
    """Single runs have the digits of their spread, because they answered the same prompts."""
    whole, alone = SPREAD[name](scores), [SPREAD[name](run) for run in scores.runs]
    known = [mean.value for mean in alone if mean is not None]
    if whole is None or len(known) < len(alone):
        return None
    unit, sign = (100, " %") if whole.is_share else (1, "")
    values = [unit * value for value in known]
    deviation = deviation_over_runs(values)
    error = deviation / (2 * (len(values) - 1)) ** 0.5  # the standard error of a standard deviation
    each = [measured(value, deviation) for value in values] if deviation else [told(whole)] * len(values)
    lowest, highest = each[values.index(min(values))], each[values.index(max(values))]
    spread = measured(deviation, error) if deviation else "0"
    cells = f"{len(values)}", told(whole), spread + sign, f"{lowest} to {highest}", ", ".join(each)
    return f"{scores.name}: {name}" + (", %" if sign else ""), *cells


_WHAT = (
    "Each run alone, on the same prompts. The sd is the standard deviation over runs (of the sample, divided by runs"
    " less 1): how much one more run, such as another seed, would differ."
)
