"""Writes the report of an evaluation: report.json, report.md, report.html and the pictures."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from concordant.evaluation.records import Comparison, Evaluation, Gain, Mean, PolicyScores, Ratings, Survival
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.report import curve_plots, gold_plot, plots
from concordant.report.blocks import Picture
from concordant.report.contents import report_blocks
from concordant.report.curves import Curve
from concordant.report.html_page import render_html
from concordant.report.markdown_page import render_markdown
from concordant.report.plot_style import DARK, LIGHT, Theme
from concordant.report.ratings import ratings_picture
from concordant.report.run_facts import Source
from concordant.report.run_findings import Event
from concordant.report.spread import SPREAD, deviation_over_runs
from concordant.runs.atomic import write_bytes, write_text
from concordant.runs.names import REPORT_JSON, REPORT_MARKDOWN, REPORT_PAGE

LIBRARIES = ("concordant", "torch", "transformers", "numpy")

CAPTIONS = {
    "reward_comparison.png": (
        "Histograms of the scores of every policy's answers by each scorer, with one row for each policy.",
        "The distribution of the scores of the answers to the held-out prompts. Each row is one policy and is scaled"
        " to its own peak. The upright line and the number are the policy's mean, the band around the line is its 95 %"
        " interval, and the dashed line is the baseline's mean. Dots are the means of single runs, where a policy has"
        " several. The outermost half percent of a policy's answers may be counted in the end bins.",
    ),
    "ratings.png": (
        "Bradley–Terry ratings of the policies, and how often each policy wins against each other one.",
        "Left: the rating of every policy, with its 95 % interval over prompts; the baseline has 0. Right: the share of"
        " prompts that the policy of the row wins against the policy of the column, ties half.",
    ),
    "proxy_vs_gold.png": (
        "The proxy reward and the true quality against KL and over training.",
        "The proxy is above, and the quality that it stands for is below. The left side shows both against the"
        " distance from the reference, the right side over training. Diamonds are the evaluated policies with their"
        " 95 % intervals, small diamonds their single runs; a hollow diamond means that the KL is a bound. A line is"
        " one run and begins at its start, before the first update: at the evaluated policy that it started from, or at"
        " the answers that its first step sampled. Its other points are evaluations during training, on fewer prompts."
        " Where the upper line continues to rise and the lower one does not, the proxy is over-optimised.",
    ),
    "rlhf_training_curves.png": (
        "Curves of every training run, with one panel for each metric.",
        "The training of every stage. Lines are training batches, averaged over neighbouring steps. Dots are held-out"
        " data.",
    ),
    "reward_calibration.png": (
        "The reward model's calibration, and its accuracy by length difference.",
        "Left: the share of pairs that the reward model ranks as people did, by its confidence. Right: its accuracy"
        " if the chosen answer is longer, as long, or shorter. A model that has learned only length is right on only"
        " one side. Upright bars are 95 % intervals.",
    ),
}


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    reward_model: RewardModelSummary | None = None,
    curves: Mapping[str, Curve] | None = None,
    side_by_side: int = 8,
    seed: int = 0,
    title: str = "Evaluation",
    command: str = "",
    notes: Sequence[str] = (),
    findings: Mapping[str, Sequence[Event]] | None = None,
    starts: Mapping[str, str] | None = None,
    facts: Sequence[tuple[str, str]] = (),
    sources: Sequence[Source] = (),
) -> Path:
    """Write the report and its pictures into ``folder`` (made if missing); returns the path of report.html.

    ``curves`` are training runs by name (see ``read_curve``), and ``starts`` says from which evaluated policy a run
    started. ``command`` repeats the evaluation. ``notes`` are paragraphs after the result. ``findings`` are the
    doctor's findings in each run (see ``read_findings``). ``facts`` describe the evaluation, by name, and ``sources``
    the models and runs behind it. A picture without data is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, begins = curves or {}, starts or {}
    pictures = draw(
        folder,
        {
            "reward_comparison.png": lambda theme: plots.reward_comparison(evaluation, theme),
            "ratings.png": lambda theme: ratings_picture(evaluation, theme),
            "proxy_vs_gold.png": lambda theme: gold_plot.proxy_vs_gold(evaluation, lines, begins, theme),
            "rlhf_training_curves.png": lambda theme: curve_plots.training_curves(lines, theme),
            "reward_calibration.png": lambda theme: (
                plots.reward_calibration(reward_model, theme) if reward_model else None
            ),
        },
    )
    blocks = report_blocks(
        evaluation,
        reward_model=reward_model,
        reward_picture=pictures.pop("reward_calibration.png", None),
        pictures=list(pictures.values()),
        side_by_side=side_by_side,
        seed=seed,
        command=command,
        versions=versions(),
        notes=notes,
        findings=findings or {},
        facts=facts,
        sources=sources,
        folder=folder,
    )
    numbers = json.dumps(report_numbers(evaluation, reward_model), indent=2, allow_nan=False)
    write_text(folder / REPORT_JSON, numbers + "\n")
    write_text(folder / REPORT_MARKDOWN, render_markdown(title, blocks))
    page = folder / REPORT_PAGE
    write_text(page, render_html(title, blocks, folder))
    return page


def draw(
    folder: Path,
    drawings: Mapping[str, Callable[[Theme], bytes | None]],
    captions: Mapping[str, tuple[str, str]] = CAPTIONS,
) -> dict[str, Picture]:
    """Draw every picture for a light page, which is also written to ``folder``, and for a dark one.

    ``captions`` has a description and a caption for each name. A picture without data is not written.
    """
    found = {}
    for name, draw in drawings.items():
        light, dark = draw(LIGHT), draw(DARK)
        if light is not None and dark is not None:
            write_bytes(folder / name, light)
            found[name] = Picture(name, *captions[name], dark)
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of the installed libraries on which the numbers depend."""
    found = {"Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def report_numbers(evaluation: Evaluation, reward_model: RewardModelSummary | None) -> dict[str, Any]:
    """The contents of report.json. None (null) means "not known"."""
    verdict = evaluation.verdict
    numbers = {
        "policies": {name: _policy(scores) | _runs(scores) for name, scores in evaluation.policies.items()},
        "comparisons": [_comparison(c, verdict.level) for c in verdict.comparisons] if verdict else [],
        "reward_model": reward_model.as_json() if reward_model else {"accuracy": None, "bayes_accuracy": None},
        "over_optimisation": {
            name: {scorer: _survival(s) for scorer, s in by_scorer.items()}
            for name, by_scorer in evaluation.survival.items()
        },
        "ratings": _ratings(evaluation.ratings),
        "baseline": evaluation.baseline,
        "win_rate_by": evaluation.decided_by,
        "prompts": evaluation.prompts,
        "bootstrap": evaluation.bootstrap,
        "seed": evaluation.seed,
        "versions": versions(),
    }
    return finite(numbers)


def _policy(s: PolicyScores) -> dict[str, Any]:
    return {
        **_mean("reward_mean", s.reward),
        "reward_std": s.reward_std,
        **_mean("gold_mean", s.gold),
        **_mean("win_rate", s.win),
        **_mean("kl", s.kl),
        **({"kl": s.kl_bound} if s.kl_bound is not None else {}),
        **_mean("perplexity", s.perplexity),
        "distinct_1": s.distinct_1,
        "distinct_2": s.distinct_2,
        **_mean("length_mean", s.length),
        **_mean("eos_fraction", s.ends),
        **_mean("judge_mean", s.judge),
        **_mean("repetition", s.repetition),
        "kl_is_bound": s.kl_bound is not None,
        "kl_unknown": s.kl_unknown or None,
        "gain": _gain(s.gain) if s.gain else None,
    }


def _runs(s: PolicyScores) -> dict[str, Any]:
    """Of a policy of several runs: each run alone, and the standard deviation over runs; else nothing."""
    if not s.runs:
        return {}
    spread = {}
    for name, number in SPREAD.items():
        known = [mean.value for run in s.runs if (mean := number(run)) is not None]
        spread[name.replace(" ", "_")] = deviation_over_runs(known) if len(known) == len(s.runs) else None
    return {"runs": [{"run": run.run} | _policy(run) for run in s.runs], "sd_over_runs": spread}


def _mean(name: str, mean: Mean | None) -> dict[str, float | None]:
    return {name: mean.value if mean else None, **_ends(name, mean)}


def _ends(name: str, mean: Mean | None) -> dict[str, float | None]:
    interval = mean.interval if mean else None
    return {f"{name}_low": interval.low if interval else None, f"{name}_high": interval.high if interval else None}


def _gain(gain: Gain) -> dict[str, float | None]:
    interval = gain.mean.interval
    return {
        "mean": gain.mean.value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "baseline_deviations": gain.deviations.value if gain.deviations else None,
    }


def _comparison(c: Comparison, level: float) -> dict[str, Any]:
    names = {"first": c.first, "second": c.second}
    return names | _mean("difference", c.difference) | {"level": level, "shown": c.is_shown}


def _ratings(ratings: Ratings | None) -> dict[str, Any] | None:
    """By policy: the rating with its interval, and the share of prompts that it won against each other policy."""
    if ratings is None:
        return None
    found = {}
    for name, rating in ratings.ratings.items():
        ends = (rating.interval.low, rating.interval.high) if rating.interval else (None, None)
        wins = {other: _mean("win_rate", mean) for other, mean in ratings.wins[name].items()}
        found[name] = {"rating": rating.value, "rating_low": ends[0], "rating_high": ends[1], "against": wins}
    return found


def _survival(survival: Survival) -> dict[str, Any]:
    return {"proxy_gain": _gain(survival.proxy), "gain": _gain(survival.other), **_mean("survives", survival.ratio)}


def finite(value: Any) -> Any:
    """``value`` with None for NaN and infinity, because JSON has no such numbers. A perplexity can be infinite."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
