"""Axes with names, ensembles, and corrections of a model's scores."""

import pytest

from concordant.algorithms.reward_corrections import Corrected, Correction
from concordant.algorithms.reward_sources import make_reward
from concordant.config.scoring import ScoringConfig
from concordant.config.specs import Source, source_of
from concordant.core.errors import UserError
from concordant.engines.protocol import Done
from tests.algorithms.answers import answer

ANSWERS = [answer("a"), answer("b c d")]
GIVEN = {"low": [1.0, 4.0], "high": [3.0, 4.0], "none": [None, 2.0]}


def load(name):
    return lambda answers: Done(GIVEN[name])


def scores(*sources, **scoring):
    return make_reward(sources, load, scoring=ScoringConfig(**scoring))(ANSWERS).result()


@pytest.mark.parametrize(("ensemble", "total"), [("mean", [2.0, 4.0]), ("minimum", [1.0, 4.0]), ("mean-std", [1, 4])])
def test_sources_without_a_name_are_one_ensemble(ensemble, total):
    made = scores("low", "high", ensemble=ensemble)
    assert made.total == total and made.parts["reward/disagreement"] == [1.0, 0.0]
    assert made.metrics["reward/disagreement"] == 0.5 and made.columns == {"low": [1.0, 4.0], "high": [3.0, 4.0]}


def test_axes_with_names_are_weighted_and_each_has_its_mean():
    made = scores("helpful=low=2", "harmless=high")
    assert made.total == [5.0, 12.0]
    assert made.metrics["axis/helpful"] == 2.5 and made.metrics["axis/harmless"] == 3.5
    assert "reward/disagreement" not in made.metrics


def test_an_ensemble_beside_another_axis():
    made = scores("helpful=low", "helpful=high", "harmless=low=-1", ensemble="minimum")
    assert made.parts["axis/helpful"] == [1.0, 4.0] and made.total == [0.0, 0.0]


def test_a_member_that_abstains_gets_the_mean_of_its_own_scores():
    made = scores("none", "high", ensemble="mean")
    assert made.total == [2.5, 3.0] and made.abstained == 1


class Heads:
    """A source of two members."""

    members = 2

    def columns(self, answers):
        return [Done(GIVEN["low"]), Done(GIVEN["high"])]


def test_a_source_of_two_members_is_an_ensemble_and_stands_beside_others():
    made = make_reward(["heads=3"], lambda name: Heads(), scoring=ScoringConfig(ensemble="minimum"))(ANSWERS).result()
    assert made.total == [3.0, 12.0] and made.parts["reward/disagreement"] == [1.0, 0.0]
    assert list(made.columns) == ["heads head 1", "heads head 2"]
    load_both = {"heads": Heads(), "low": load("low")}
    both = make_reward(["a=heads", "a=low"], load_both.get, scoring=ScoringConfig(ensemble="mean"))(ANSWERS).result()
    assert both.total == pytest.approx([5 / 3, 4.0]), "three members of one weight"


@pytest.mark.parametrize(
    ("sources", "ensemble", "message"),
    [
        (["helpful=low", "helpful=high"], "none", "say how the scores of such an ensemble become one"),
        (["low"], "mean", "an ensemble needs two members or more"),
        (["low=2", "high"], "mean", "the members of an ensemble have one weight"),
        (["helpful=low=much"], "none", 'expected SOURCE=WEIGHT with a number, found "much"'),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(sources, ensemble, message):
    with pytest.raises(UserError, match=message):
        scores(*sources, ensemble=ensemble)


def test_the_parts_of_a_source(tmp_path, monkeypatch):
    assert source_of("helpful=runs/a/model=0.5") == Source("helpful", "runs/a/model", "0.5")
    assert source_of("helpful=rule:ends") == Source("helpful", "rule:ends", "")
    assert source_of("model=2") == Source("", "model", "2"), "a number is a weight and no model"
    assert source_of("rule:ends=-1") == Source("", "rule:ends", "-1")
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert source_of("a=b") == Source("", "a=b", "")


def test_a_correction_takes_length_away_and_keeps_what_is_not_scored():
    """1 - 0.5 · (1 - 2) = 1.5 and 4 - 0.5 · (3 - 2) = 3.5, then less 0.5, in halves."""
    correction = Correction(slope=0.5, words=2.0, mean=0.5, deviation=0.5)
    assert Corrected(load("low"), correction)(ANSWERS).result() == [2.0, 6.0]
    assert Corrected(load("none"), correction)(ANSWERS).result() == [None, 2.0]
