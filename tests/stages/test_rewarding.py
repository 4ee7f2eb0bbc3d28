"""What is done to a reward model's scores, from the figures beside the model."""

import json

import pytest

from concordant.algorithms.reward_corrections import Correction
from concordant.config.scoring import ScoringConfig
from concordant.core.errors import UserError
from concordant.stages.rewarding import correction_for

FIGURES = {"score_mean": 0.5, "score_std": 2.0, "length_slope": 0.1, "length_mean": 12.0}


def correction(tmp_path, figures, **scoring):
    (tmp_path / "reward_model.json").write_text(json.dumps(figures))
    return correction_for(str(tmp_path / "model"), ScoringConfig(**scoring))


def test_members_of_an_ensemble_have_one_unit_and_length_is_taken_away_first(tmp_path):
    assert correction(tmp_path, FIGURES) is None, "one model keeps its raw scores"
    assert correction(tmp_path, FIGURES, ensemble="mean") == Correction(mean=0.5, deviation=2.0)
    assert correction(tmp_path, FIGURES, debias_length=True) == Correction(slope=0.1, words=12.0)
    both = correction(tmp_path, FIGURES, ensemble="mean", debias_length=True)
    assert both == Correction(slope=0.1, words=12.0, mean=0.5, deviation=2.0)


@pytest.mark.parametrize(
    ("figures", "scoring", "message"),
    [
        ({}, {"ensemble": "minimum"}, "scoring.ensemble=minimum: .*score_mean and score_std is needed"),
        (FIGURES | {"score_std": 0.0}, {"ensemble": "mean"}, "score_mean and score_std is needed"),
        ({"score_mean": 0.5, "score_std": 2.0}, {"debias_length": True}, "debias_length: .*length_slope is needed"),
    ],
)
def test_without_its_figures_a_model_is_refused(tmp_path, figures, scoring, message):
    with pytest.raises(UserError, match=message):
        correction(tmp_path, figures, **scoring)
