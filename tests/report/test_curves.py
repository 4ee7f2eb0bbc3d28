from __future__ import annotations

from pathlib import Path

import pytest

from concordant.core.errors import UserError
from concordant.report.curves import read_curve, series, stage_of


def run(folder: Path, text: str) -> Path:
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    curve = read_curve(run(tmp_path, '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo'))
    assert series(curve, "loss") == ([1.0, 2.0], [2.0, 1.5])


def test_a_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    assert len(read_curve(run(tmp_path, '{"step": 1}\n{"step": 2}'))) == 2


def test_a_broken_line_costs_that_line_alone(tmp_path: Path) -> None:
    curve = read_curve(run(tmp_path, '{"step": 1}\n{"step": 2, "lo\n[2]\n{"step": 3}\n'))
    assert [row["step"] for row in curve] == [1, 3]


def test_rows_of_one_step_are_one_row(tmp_path: Path) -> None:
    text = '{"step": 2, "loss": 1}\n{"step": 1, "loss": 9}\n{"step": 2, "eval/gold": 0.5}\n{"step": 2, "loss": 3}\n'
    assert read_curve(run(tmp_path, text)) == [{"step": 1, "loss": 9}, {"step": 2, "loss": 3, "eval/gold": 0.5}]


def test_what_is_not_a_finite_number_is_not_drawn(tmp_path: Path) -> None:
    curve = read_curve(run(tmp_path, '{"step": 1, "loss": NaN, "note": "x", "ok": true}\n{"step": 2, "loss": 1}\n'))
    assert series(curve, "loss") == ([2.0], [1.0])
    assert series(curve, "note") == ([], []) == series(curve, "ok")


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no metrics.jsonl"):
        read_curve(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("keys", "stage"),
    [
        (["loss", "token_accuracy"], "sft"),
        (["loss", "accuracy", "margin"], "reward"),
        (["loss", "rewards/accuracies"], "dpo"),
        (["objective/score", "loss"], "ppo"),
        (["loss"], ""),
    ],
)
def test_stage(keys: list[str], stage: str) -> None:
    assert stage_of([{"step": 1.0} | dict.fromkeys(keys, 0.0)]) == stage
