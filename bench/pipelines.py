"""A pipeline as a text with words in capitals: filled in, run, and read from its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import parse_yaml
from concordant.pipeline.plan import read_plan
from concordant.pipeline.runner import run_pipeline
from concordant.runs.names import REPORT_JSON

_OF_POLICIES = ("gold_mean", "gold_mean_low", "gold_mean_high", "kl", "length_mean")


def filled(text: str, **words: object) -> str:
    """``text`` with each word replaced by its value, in the order given. A value may hold words that come later."""
    for word, value in words.items():
        text = text.replace(word, str(value))
    return text


def report_of(text: str, name: str, folder: Path) -> dict[str, Any]:
    """Run the pipeline ``text`` in ``folder``; the numbers of its stage ``report``."""
    run_pipeline(read_plan(parse_yaml(text, name), name), folder)
    found: dict[str, Any] = json.loads((folder / "report" / REPORT_JSON).read_text(encoding="utf-8"))
    return found


def policies_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Gold with its interval, KL and length of every policy of a report."""
    return {name: {key: numbers[key] for key in _OF_POLICIES} for name, numbers in report["policies"].items()}
