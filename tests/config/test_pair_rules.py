"""Which settings of ``dpo`` go together."""

import pytest

from concordant.config.checks import validate
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.plan import PlanConfig
from concordant.config.stages import DPOConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError


def made(**changes):
    return DPOConfig(output="runs/x", data=DataConfig("pairs.jsonl"), model=ModelConfig("builtin:tiny"), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "simpo", "beta": 2.0, "margin": 1.0},
        {"loss": "kto", "desirable_weight": 1.3, "reference": "base"},
        {"plus": ["bco_pair=0.2", "hinge=1"], "lm_coefficient": 1.0},
        {"loss": "simpo", "plus": ["sigmoid=0.5"], "reference": "base"},
        {"loss": "apo_zero", "strength": "label"},
        {"loss": "apo_zero", "plus": ["sigmoid=1"], "margin": 0.5},
        {"loss": "hinge", "f_divergence": "alpha_divergence", "f_alpha": 0.3},
        {"loss": "apo_zero_unpaired", "train": TrainConfig(batch_size=1)},
    ],
)
def test_settings_that_go_together(changes):
    validate(made(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "orpo", "reference": "base"}, "reference=.base. would do nothing: .* needs no reference"),
        ({"loss": "kto", "label_smoothing": 0.1}, "label_smoothing=0.1 would do nothing: .* rated good or bad"),
        ({"loss": "kto", "plus": ["hinge=1"]}, "plus=.* would do nothing"),
        ({"loss": "kto", "train": TrainConfig(batch_size=1)}, 'loss="kto", train.batch_size=1: its anchor'),
        ({"loss": "bco", "train": TrainConfig(batch_size=1)}, 'loss="bco", train.batch_size=1: its anchor'),
        ({"desirable_weight": 2.0}, "desirable_weight=2.0 would do nothing: the loss takes pairs"),
        ({"loss": "apo_zero", "margin": 1.0}, "margin=1.0 would do nothing"),
        ({"loss": "ipo", "strength": "margin"}, "strength=.margin. would do nothing"),
        ({"loss": "robust", "strength": "label"}, "robust corrects for one known share"),
        ({"strength": "margin", "margin": 1.0}, "two margins"),
        ({"loss": "cpo", "lm_coefficient": 1.0}, "lm_coefficient=1.0 would do nothing: orpo and cpo have this term"),
        ({"loss": "simpo", "f_divergence": "js_divergence"}, "f_divergence=.* would do nothing"),
        ({"loss": "apo_zero", "f_divergence": "js_divergence"}, "only losses of the difference"),
        ({"f_alpha": 0.3}, "f_alpha=0.3 would do nothing: only alpha_divergence"),
        ({"plus": ["sigmoid=0.5"]}, "the loss has weight 1 already"),
        ({"plus": ["hing=0.5"]}, 'plus: expected some of .*; given "hing". Did you mean "hinge"'),
        ({"plus": ["kto=0.5"]}, "plus: expected some of"),
        ({"plus": ["hinge"]}, 'plus: "hinge" is not NAME=WEIGHT'),
        ({"plus": ["hinge=0"]}, "weight above 0"),
        ({"plus": ["hinge=1", "hinge=2"]}, "given twice"),
        ({"margin": -1.0}, r"margin: expected a number in \[0, ∞\)"),
    ],
)
def test_settings_that_do_not(changes, message):
    with pytest.raises(UserError, match=message):
        validate(made(**changes))


def test_a_plan_has_a_loss_of_dpo_alone():
    validate(PlanConfig(model=ModelConfig("qwen3-0.6b"), method="dpo", loss="simpo"))
    with pytest.raises(UserError, match="loss=.simpo. would do nothing"):
        validate(PlanConfig(model=ModelConfig("qwen3-0.6b"), method="sft", loss="simpo"))
