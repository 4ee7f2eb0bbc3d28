"""The line of a run starts where the run started."""

import pytest

from concordant.evaluation.compare import evaluate_policies
from concordant.report import gold_plot
from concordant.report.gold_plot import _points, line_of, proxy_vs_gold
from concordant.report.plot_style import DARK, LIGHT

FIRST = {"step": 1.0, "objective/kl": 0.001, "objective/score": -1.5, "objective/gold": 0.42}
CURVE = [
    FIRST,
    {"step": 10.0, "eval/kl": 2.0, "eval/reward": 1.0, "eval/gold": 0.6},
    {"step": 20.0, "eval/kl": 3.0, "eval/reward": 2.0, "eval/gold": 0.7},
]


@pytest.fixture
def evaluation(answers):
    sft = answers("sft", gold=[0.3, 0.5], rewards=[-3.0, -1.0], kl=[0.0, 0.0])
    ppo = answers("ppo", gold=[0.6, 0.9], rewards=[1.0, 3.0], kl=[2.0, 4.0])
    return evaluate_policies([sft, ppo], "sft", 50, 0)


def test_the_line_starts_at_the_evaluated_policy_that_the_run_started_from(evaluation):
    line = line_of(evaluation, CURVE, "sft", "gold")
    assert (line.kl, line.step) == ([0, 2, 3], [0, 10, 20])
    assert line.heights == ([-2.0, 1.0, 2.0], [pytest.approx(0.4), 0.6, 0.7])


def test_a_start_that_was_not_evaluated_has_its_own_first_answers(evaluation):
    line = line_of(evaluation, CURVE, None, "gold")
    assert (line.kl, line.step) == ([0.001, 2, 3], [0, 10, 20])
    assert line.heights == ([-1.5, 1.0, 2.0], [0.42, 0.6, 0.7])


def test_a_run_that_says_nothing_of_its_start_begins_at_its_first_evaluation(evaluation):
    assert line_of(evaluation, CURVE[1:], None, "gold").kl == [2, 3]


def test_a_line_without_gold_has_its_proxy_alone(evaluation):
    curve = [{key: value for key, value in row.items() if "gold" not in key} for row in CURVE]
    line = line_of(evaluation, curve, "sft", "gold")
    assert line.heights == ([-2.0, 1.0, 2.0], []) and line.kl == [0, 2, 3]


def test_the_picture_is_drawn_in_two_themes(evaluation):
    light, dark = (proxy_vs_gold(evaluation, {"ppo": CURVE}, {"ppo": "sft"}, theme) for theme in (LIGHT, DARK))
    assert light[:4] == dark[:4] == b"\x89PNG" and light != dark
    assert light == proxy_vs_gold(evaluation, {"ppo": CURVE}, {"ppo": "sft"}, LIGHT), "the same bytes again"


def test_the_titles_hold_for_policies_that_were_not_trained_on_the_proxy(evaluation, monkeypatch):
    """SFT and DPO never see the proxy."""
    titles = []
    monkeypatch.setattr(gold_plot, "png", lambda figure: titles.extend(a.get_title("left") for a in figure.axes))
    proxy_vs_gold(evaluation, {}, {}, LIGHT)
    assert titles == ["Proxy: the reward that --reward names", "Gold: the true quality"]


def test_a_diamond_has_the_proxy_above_and_the_truth_below(evaluation):
    heights = {p.name: tuple(mean.value for mean in p.heights) for p in _points(evaluation, "gold")}
    assert heights == {"sft": (-2.0, pytest.approx(0.4)), "ppo": (2.0, pytest.approx(0.75))}
