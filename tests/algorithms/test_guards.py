"""What guards PPO against a reward that is wrong: a constraint on the cost, and an end by disagreement."""

import json
import math

import pytest
import torch

from concordant.algorithms.constraint import Constraint
from concordant.algorithms.rewards import NamedAxes, Reward
from concordant.config.scoring import ConstraintConfig
from concordant.core.errors import UserError
from concordant.core.lagrange import penalised
from concordant.engines.protocol import Done
from tests.algorithms.worlds import letters, make_ppo, plain


def constrained(limit=1.0, **settings):
    """PPO whose answers cost one for each word."""
    ppo = make_ppo(letters, advantage="rloo")
    cost = plain(lambda answers: [float(len(a.response.split())) for a in answers])
    ppo.constraint = Constraint(cost, ConstraintConfig(cost="-", limit=limit, **settings))
    return ppo


def test_a_step_learns_from_the_reward_less_the_cost_and_then_moves_the_multiplier():
    ppo = constrained(rate=0.5)
    metrics = ppo.step(0, 1e-4)
    costs = [float(len(a.response.split())) for a in ppo.last.rollouts.answers]
    assert metrics["constraint/cost"] == pytest.approx(sum(costs) / len(costs))
    assert metrics["constraint/multiplier"] == 1.0, "the multiplier that the step used"
    assert ppo.constraint.multiplier == pytest.approx(math.exp(0.5 * (metrics["constraint/cost"] - 1.0)))
    shaped_B = ppo.shape.stats.normalize(ppo.last.score_B)
    assert torch.allclose(ppo.last.shaped_B, penalised(shaped_B, torch.tensor(costs), 1.0, 1.0))


def test_a_resumed_run_has_the_same_multiplier():
    ppo, other = constrained(), constrained()
    ppo.step(0, 1e-4)
    other.load_numbers(json.loads(json.dumps(ppo.numbers())))
    assert other.constraint.multiplier == ppo.constraint.multiplier != 1.0


def test_weights_that_keep_to_the_limit_are_the_better_ones():
    constraint = Constraint(plain(letters), ConstraintConfig(cost="-", limit=2.0, most=5.0))
    assert constraint.excess(1.5) == constraint.excess(2.0) == 0.0 and constraint.excess(2.5) == 2.5


def test_a_cost_model_for_other_data_is_refused_at_the_first_step():
    """Held-out costs of 10 ± 0.5; the answers of a tiny policy have a few words."""
    ppo = constrained()
    ppo.constraint.heldout = (10.0, 0.5)
    with pytest.raises(UserError, match="it was trained for other data"):
        ppo.step(0, 1e-4)
    ppo.constraint.update(8.0, 0)  # exactly as far as is allowed
    ppo.constraint.update(1.0, 1)  # a later policy may be far away


class Probe:
    """Answers nobody; each evaluation finds the next disagreement."""

    gold, rows = None, []

    def __init__(self, *found):
        self.found = iter(found)

    def __call__(self, step):
        return {"kl": 0.0, "reward": 1.0, "reward/disagreement": next(self.found)}


def test_the_run_ends_where_the_ensemble_disagrees_too_much():
    axes = {"a": lambda answers: Done(letters(answers)), "b": lambda answers: Done([0.0] * len(answers))}
    named = NamedAxes(members={"reward": ("a", "b")}, weights={"reward": 1.0}, ensemble="mean")
    ppo = make_ppo(Reward(axes, named), advantage="rloo", stop_disagreement=2.0)
    ppo.probe = Probe(0.5, 0.99, 1.01)
    assert "reward/disagreement" in ppo.step(0, 1e-4)
    assert [ppo.evaluate(step)["eval/past_limit"] for step in (1, 2)] == [0.0, 1.0]
    again = make_ppo(Reward(axes, named), advantage="rloo", stop_disagreement=2.0)
    again.load_numbers(json.loads(json.dumps(ppo.numbers())))
    assert again.first_disagreement == 0.5


def test_without_guards_a_checkpoint_is_as_before():
    assert make_ppo(letters, advantage="rloo").numbers().keys() == {"kl_coef", "reward_stats"}
