"""Several runs of one policy: mean, standard deviation and each run, in the report and in report.json."""

import json

import pytest

from concordant.evaluation.compare import evaluate_policies
from concordant.report.blocks import Bullets, Table
from concordant.report.spread import spread_blocks
from concordant.report.write import write_report


@pytest.fixture
def evaluation(answers):
    """Three runs over twenty prompts. By gold they have 0.40, 0.46 and 0.52: mean 0.46, sd 0.06."""
    sft = answers("sft", gold=[0.45] * 20)
    runs = [
        answers("ppo", run=f"runs/{i}/model", gold=[gold - 0.1, gold + 0.1] * 10, kl=[kl] * 20)
        for i, (gold, kl) in enumerate(((0.40, 2.0), (0.46, 2.0), (0.52, 2.0)))
    ]
    return evaluate_policies([sft, *runs], "sft", 100, 0)


def test_the_table_by_hand(evaluation):
    table = next(block for block in spread_blocks(evaluation) if isinstance(block, Table))
    assert table.header[1:] == ("runs", "mean over runs", "sd over runs", "lowest to highest", "each run")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["ppo: gold"] == ("3", "0.46", "0.06", "0.40 to 0.52", "0.40, 0.46, 0.52")
    # the baseline has 0.45: runs of 0.30/0.50, 0.36/0.56 and 0.42/0.62 win every second prompt
    assert rows["ppo: win rate, %"] == ("3", "50 %", "0 %", "50 % to 50 %", "50 %, 50 %, 50 %")
    assert rows["ppo: KL"] == ("3", "2", "0", "2 to 2", "2, 2, 2")
    assert list(rows) == ["ppo: gold", "ppo: win rate, %", "ppo: KL"]


def test_the_runs_are_named(evaluation):
    (named,) = [block for block in spread_blocks(evaluation) if isinstance(block, Bullets)]
    assert named.items == tuple(f"ppo, run {i + 1}: runs/{i}/model" for i in range(3))


def test_one_run_each_has_no_spread(answers):
    assert spread_blocks(evaluate_policies([answers("sft", gold=[0.5] * 5)], "sft", 10, 0)) == []


def test_the_report_has_every_run(evaluation, tmp_path):
    write_report(evaluation, tmp_path, side_by_side=1)
    page = (tmp_path / "report.md").read_text()
    assert "| ppo (3 runs) | " in page and "## Spread over runs" in page and "not how much it would change with" in page
    assert "ppo (run 1 of 3)" in page
    found = json.loads((tmp_path / "report.json").read_text())["policies"]["ppo"]
    assert [run["run"] for run in found["runs"]] == [f"runs/{i}/model" for i in range(3)]
    assert [run["gold_mean"] for run in found["runs"]] == pytest.approx([0.40, 0.46, 0.52])
    assert found["gold_mean"] == pytest.approx(0.46) and found["sd_over_runs"]["gold"] == pytest.approx(0.06)
    assert found["sd_over_runs"]["win_rate"] == 0 and found["sd_over_runs"]["reward"] is None
