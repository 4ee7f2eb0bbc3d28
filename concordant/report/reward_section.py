"""The section of the report about the reward model on held-out pairs."""

from __future__ import annotations

from concordant.core.counted import counted
from concordant.core.digits import number, percent, share
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.report.blocks import Block, Bullets, Heading, Picture, Table
from concordant.report.wording import with_interval, with_sentence


def reward_model_blocks(summary: RewardModelSummary, picture: Picture | None) -> list[Block]:
    reads = {"longer": "chosen is longer", "same": "both as long", "shorter": "chosen is shorter"}
    bins = [
        (f"{number(100 * b.low, 0)} to {number(100 * b.high, 0)} %", f"{b.pairs:,}")
        + (f"{number(100 * b.predicted, 1)} %", with_interval(b.observed))
        for b in summary.bins
    ]
    groups = [(reads[g.name], f"{g.pairs:,}", with_interval(g.accuracy)) for g in summary.by_length]
    return [
        Heading(f"Reward model on {counted(summary.pairs, 'held-out pair')}"),
        Bullets(tuple(_facts(summary))),
        *([picture] if picture else []),
        Table(("confidence σ(|Δ|)", "pairs", "mean confidence", "ranked as people did"), tuple(bins)),
        Table(("length in tokens", "pairs", "accuracy"), tuple(groups)),
    ]


def _facts(summary: RewardModelSummary) -> list[str]:
    facts = [f"Accuracy {with_sentence(summary.accuracy)}, ties half."]
    if summary.bayes_accuracy is not None:
        ratio = percent(min(summary.accuracy.value / summary.bayes_accuracy.value, 1.0), summary.pairs)
        facts.append(
            "Labels are drawn by chance, so no model can be right more often than"
            f" {with_sentence(summary.bayes_accuracy)} of the time (the Bayes accuracy): the reward model reaches"
            f" {ratio} of it."
        )
    longer = with_sentence(summary.longer_accuracy)
    facts.append(f"Always preferring the answer of more tokens would be right {longer} of the time.")
    error = share(summary.calibration_error, summary.pairs)
    facts.append(
        f"Expected calibration error {error}; log-loss {with_sentence(summary.log_loss)} nats (a coin has 0.693)."
    )
    return facts
