"""The table of the proxy's axes in the report."""

from dataclasses import replace

from concordant.evaluation.compare import evaluate_policies
from concordant.report.axes_section import axes_blocks
from concordant.report.blocks import Table


def test_the_axes_of_every_policy_by_hand(answers):
    sft = replace(answers("sft", rewards=[1.0, 1.0]), parts={"helpful": [1.0, 1.0], "reward/disagreement": [0.5, 0.5]})
    ppo = replace(answers("ppo", rewards=[3.0, 3.0]), parts={"helpful": [3.0, 3.0], "reward/disagreement": [2.0, 2.0]})
    (table,) = [b for b in axes_blocks(evaluate_policies([sft, ppo], "sft", 50, 0)) if isinstance(b, Table)]
    assert table.header == ("policy", "helpful", "disagreement")
    assert [row[0] for row in table.rows] == ["sft", "ppo"]
    assert table.rows[0][1].startswith("1") and table.rows[1][1].startswith("3") and table.rows[1][2].startswith("2")


def test_a_proxy_without_axes_has_no_table(answers):
    assert axes_blocks(evaluate_policies([answers("sft", rewards=[1.0, 2.0])], "sft", 50, 0)) == []
