"""What a run folder holds stands once, and the documentation says the same."""

from __future__ import annotations

import ast
from pathlib import Path

from concordant.core.pair_losses import PREFERENCE_LOSSES
from concordant.doctor.finding import Finding
from concordant.evaluation.reward_summary import summarise_reward_model
from concordant.runs import metrics, names

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_documentation_lists_every_file_in_the_same_words():
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = page.split("## The run folder")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {meaning} |" for name, meaning in names.CONTENTS.items()]


def test_the_documentation_lists_every_metric_in_the_same_words():
    assert (DOCS / "metrics.md").read_text(encoding="utf-8").endswith(metrics.table())


NAMED = {name for name in names.CONTENTS if "." in name.strip(".")}


def test_nobody_else_spells_the_name_of_a_file():
    paths = [path for path in sorted((DOCS.parent / "concordant").rglob("*.py")) if path.name != "names.py"]
    assert len(paths) > 300
    for path in paths:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        said = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not said & NAMED, f"{path}: import {said & NAMED} from concordant.runs.names"


def test_metrics_of_conventions_keep_their_names_and_only_the_doctors_have_its_prefix():
    plain = {"objective/kl", "policy/clip_fraction", "ratio/max", "value/explained_variance", "kl_coefficient", "loss"}
    assert plain <= metrics.METRICS.keys()
    assert not {name for name in metrics.METRICS if "doctor/" in name[1:]}
    assert metrics.older_name("data/batch_id") and metrics.older_name("value/update/ratio")
    assert not metrics.older_name("doctor/data/batch_id") and not metrics.older_name("objective/kl")
    assert metrics.metric("eval/accuracy") is metrics.METRICS["accuracy"] and metrics.metric("accurracy") is None


def test_every_preference_loss_is_a_metric():
    assert PREFERENCE_LOSSES.keys() <= metrics.METRICS.keys()


def test_what_is_written_has_the_keys_of_its_schema():
    event = Finding("disk", "info", "seen", "cause", "cure").as_event()
    assert event.keys() == names.FindingRow.__required_keys__ | names.FindingRow.__optional_keys__
    summary = summarise_reward_model([1.0, 2.0], [0.0, 3.0], [4, 5], [4, 4], bootstrap=10)
    missing = names.RewardSummary.__annotations__.keys() - summary.as_json().keys()
    assert missing == {"length_mean", "length_slope", "heads"}, "these need the answers' texts, or several heads"


def test_an_accuracy_is_told_with_the_digits_that_its_pairs_support():
    """One held-out pair ranked right is no accuracy of 1.000."""
    for accuracy, pairs, words in ((1.0, 1, "1 of 1"), (2 / 3, 3.0, "2 of 3"), (2 / 3, 300, "0.67")):
        assert metrics.told("eval/accuracy", {"eval/accuracy": accuracy, "eval/samples": pairs}) == words
    assert metrics.told("eval/accuracy", {"eval/accuracy": 0.625}) == "0.625", "of a batch nobody knows the pairs"
    assert metrics.told("eval/loss", {"eval/loss": 0.693147, "eval/samples": 1}) == "0.6931"
