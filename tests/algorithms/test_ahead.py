"""Sampling ahead: how old answers are, in which order the calls come, and what a resumed run goes on with."""

import json

import pytest
import torch

from concordant.algorithms.ahead import Ahead
from concordant.algorithms.ppo import PPO
from concordant.config.cluster import ClusterConfig
from concordant.core.losses import SAMPLER_WEIGHT, sampler_weight
from tests.algorithms.worlds import PROMPTS, make_ppo, moved, weights_of

UPDATES = 4  # optimizer steps that a step of ``make_ppo`` takes


def ahead_by(lag, **settings):
    return make_ppo(cluster=ClusterConfig(max_lag=lag), advantage="rloo", **settings)


class Started:
    def __init__(self, log, step):
        self.log, self.step = log, step

    def result(self):
        self.log.append(("taken", self.step))
        return self.step


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_every_step_is_sampled_once_at_most_lag_steps_before_it_is_taken(lag):
    log = []
    ahead = Ahead(lambda step: log.append(("started", step)) or Started(log, step), None, lag, steps=6)
    for step in range(6):
        log.append(("present", step))
        assert ahead.rollouts(step) == step
        newest = min(step + lag, 5)
        assert log[-1] == (("started", newest) if newest > step and step + lag < 6 else ("taken", step))
    assert [step for deed, step in log if deed == "started"] == list(range(6))
    present = 0
    for deed, step in log:
        present = step if deed == "present" else present
        assert deed != "started" or step - present <= lag


@pytest.mark.parametrize("lag", [1, 2])
def test_answers_come_from_the_policy_of_lag_steps_before(lag):
    ppo = ahead_by(lag)
    for step in range(4):
        assert ppo.step(step, 1e-3)["sampling/lag"] == min(step, lag) * UPDATES


def test_the_tokens_of_an_older_policy_are_weighted_by_the_present_one():
    ppo = ahead_by(1)
    ppo.step(0, 1e-2)
    e = ppo.make_experience(ppo.rollouts(1))
    ratio_N = (e.old_logprob_N - e.rollouts.sampler_logprob_N).exp()
    assert float((ratio_N - 1).abs().max()) > 0.01, "the policy moved"
    assert torch.equal(e.weight_N, sampler_weight(e.old_logprob_N, e.rollouts.sampler_logprob_N, SAMPLER_WEIGHT))
    torch.testing.assert_close(e.weight_N, ratio_N.clamp(max=SAMPLER_WEIGHT))


def test_a_run_that_samples_ahead_resumes_to_the_same_bits(tmp_path):
    whole, resumed = ahead_by(2), ahead_by(2, seed=2)
    whole.step(0, 1e-2)
    resumed.reference = whole.reference
    (tmp_path / "policy").mkdir()
    whole.actor.save(tmp_path / "policy")
    resumed.actor.load(tmp_path / "policy")
    resumed.load_numbers(json.loads(json.dumps(whole.numbers())))
    for step in (1, 2, 3):
        first, second = whole.step(step, 1e-2), resumed.step(step, 1e-2)
        assert {k: v for k, v in first.items() if "seconds" not in k} == {
            k: v for k, v in second.items() if "seconds" not in k
        }
    assert not moved(whole.actor, weights_of(resumed.actor))


@pytest.mark.parametrize("other", [{"train": {"batch_size": 4}}, {"prompts": PROMPTS[::-1]}, {"sampling": {"n": 3}}])
def test_answers_to_other_prompts_than_a_step_has_now_are_sampled_again(other):
    """The user goes on with other settings or data: no answer stands beside a prompt that it did not answer."""
    pairs = {"batch_size": 2}
    whole = ahead_by(2, train=pairs)
    whole.step(0, 1e-2)
    sampled = [c.ids_T.tolist() for group in whole.ahead.started[1].groups.result() for c in group]
    changed = ahead_by(2, **{"train": pairs, **other})
    changed.load_numbers(json.loads(json.dumps(whole.numbers())))
    assert list(changed.ahead.started) == []
    changed.actor.steps = whole.actor.version
    rollouts = changed.rollouts(1)
    prompts = changed.sampler.prompt_ids(changed.prompts_of(1), changed.config.sampling.max_new_tokens)
    assert [t.prompt_T.tolist() for t in rollouts.trees] == [ids_T.tolist() for ids_T in prompts]
    assert [b.ids_T.tolist() for t in rollouts.trees for b in t.branches] != sampled


def test_a_run_that_goes_on_without_sampling_ahead_learns_from_no_old_answer():
    whole, plainly = ahead_by(2), ahead_by(0)
    whole.step(0, 1e-2)
    plainly.load_numbers(json.loads(json.dumps(whole.numbers())))
    assert plainly.step(1, 1e-2)


def test_answers_that_are_learnt_from_again_are_weighted_from_the_policy_that_sampled():
    ppo = ahead_by(1, replay=1)
    ppo.step(0, 1e-2)
    ppo.step(1, 1e-2)
    (kept,) = ppo.replay.kept
    assert torch.equal(kept.old_logprob_N, ppo.last.rollouts.sampler_logprob_N)
    assert not torch.equal(kept.old_logprob_N, ppo.last.old_logprob_N), "the policy moved between"


def test_nothing_is_sampled_beyond_the_last_step():
    ppo = ahead_by(3, train={"max_steps": 2})
    assert isinstance(ppo, PPO) and ppo.total_steps == 2
    ppo.step(0, 1e-3)
    assert list(ppo.ahead.started) == [1]
    ppo.step(1, 1e-3)
    assert not ppo.ahead.started
