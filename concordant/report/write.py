"""Writes the report of an evaluation: report.json, report.md, report.html and the pictures."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from concordant.evaluation.records import Evaluation, Gain, PolicyScores, Survival
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.report import curve_plots, plots
from concordant.report.blocks import Picture
from concordant.report.contents import report_blocks
from concordant.report.curves import Curve
from concordant.report.html_page import render_html
from concordant.report.markdown_page import render_markdown
from concordant.report.run_findings import Event
from concordant.runs.atomic import write_text
from concordant.runs.names import REPORT_JSON, REPORT_MARKDOWN, REPORT_PAGE

LIBRARIES = ("concordant", "torch", "transformers", "numpy")

CAPTIONS = {
    "reward_comparison.png": (
        "Histograms of the scores of every policy's answers by each scorer, with one row for each policy.",
        "The distribution of the scores of the answers to the held-out prompts. Each row is one policy and is scaled"
        " to its own peak. The black line and the number are the policy's mean, and the dashed line is the baseline's"
        " mean. The outermost half percent of a policy's answers may be counted in the end bins.",
    ),
    "proxy_vs_gold.png": (
        "The proxy reward and the true quality against KL and over training.",
        "The proxy is above, and the quality that it stands for is below. The left side shows both against the"
        " distance from the reference, the right side over training. Diamonds are the evaluated policies; a hollow"
        " diamond means that the KL is a bound. Where the upper line continues to rise and the lower one does not,"
        " the proxy is over-optimised.",
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
        " one side.",
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
) -> Path:
    """Write the report and its pictures into ``folder`` (made if missing); returns the path of report.html.

    ``curves`` are training runs by name (see ``read_curve``). ``command`` repeats the evaluation. ``notes`` are
    paragraphs after the result. ``findings`` are the doctor's findings in each run (see ``read_findings``). A picture
    without data is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        plots.reward_comparison(evaluation, folder / "reward_comparison.png"),
        curve_plots.proxy_vs_gold(evaluation, curves or {}, folder / "proxy_vs_gold.png"),
        curve_plots.training_curves(curves or {}, folder / "rlhf_training_curves.png"),
    ]
    reward_picture = None
    if reward_model is not None:
        reward_picture = _picture(plots.reward_calibration(reward_model, folder / "reward_calibration.png"))
    blocks = report_blocks(
        evaluation,
        reward_model=reward_model,
        pictures=[_picture(path) for path in drawn if path is not None],
        reward_picture=reward_picture,
        side_by_side=side_by_side,
        seed=seed,
        command=command,
        versions=versions(),
        notes=notes,
        findings=findings or {},
    )
    numbers = json.dumps(report_numbers(evaluation, reward_model), indent=2, allow_nan=False)
    write_text(folder / REPORT_JSON, numbers + "\n")
    write_text(folder / REPORT_MARKDOWN, render_markdown(title, blocks))
    page = folder / REPORT_PAGE
    write_text(page, render_html(title, blocks, folder))
    return page


def _picture(path: Path) -> Picture:
    alt, caption = CAPTIONS[path.name]
    return Picture(path.name, alt, caption)


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
    numbers = {
        "policies": {name: _policy(scores) for name, scores in evaluation.policies.items()},
        "reward_model": reward_model.as_json() if reward_model else {"accuracy": None, "bayes_accuracy": None},
        "over_optimisation": {
            name: {scorer: _survival(s) for scorer, s in by_scorer.items()}
            for name, by_scorer in evaluation.survival.items()
        },
        "baseline": evaluation.baseline,
        "win_rate_by": evaluation.decided_by,
        "prompts": evaluation.prompts,
        "bootstrap": evaluation.bootstrap,
        "seed": evaluation.seed,
        "versions": versions(),
    }
    return _finite(numbers)


def _policy(s: PolicyScores) -> dict[str, Any]:
    return {
        "reward_mean": s.reward_mean,
        "reward_std": s.reward_std,
        "gold_mean": s.gold_mean,
        "win_rate": s.win_rate,
        "win_rate_low": s.win_interval.low if s.win_interval else None,
        "win_rate_high": s.win_interval.high if s.win_interval else None,
        "kl": s.kl,
        "perplexity": s.perplexity,
        "distinct_1": s.distinct_1,
        "distinct_2": s.distinct_2,
        "length_mean": s.length_mean,
        "eos_fraction": s.eos_fraction,
        "judge_mean": s.judge_mean,
        "repetition": s.repetition,
        "kl_is_bound": s.kl_is_bound,
        "gain": _gain(s.gain) if s.gain else None,
    }


def _gain(gain: Gain) -> dict[str, float | None]:
    interval = gain.interval
    return {
        "mean": gain.mean,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "baseline_deviations": gain.deviations,
    }


def _survival(survival: Survival) -> dict[str, Any]:
    interval = survival.interval
    return {
        "proxy_gain": _gain(survival.proxy),
        "gain": _gain(survival.other),
        "survives": survival.ratio,
        "survives_low": interval.low if interval else None,
        "survives_high": interval.high if interval else None,
    }


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinity, because JSON has no such numbers. A perplexity can be infinite."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
