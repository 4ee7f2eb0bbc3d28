"""What PPO rewards: which token gets the score, the KL and the penalties, and how sampled tokens are weighted."""

import math
from dataclasses import replace

import pytest
import torch

from concordant.algorithms.ppo_objectives import PolicyObjective
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import KLConfig
from concordant.training.progress import Display, use
from tests.algorithms.steps import BARE, ENDED_AND_CUT, NO_KL, scores
from tests.algorithms.worlds import PROMPTS, given, letters, loss_of, make_ppo, plain, tree, written

# -- rewards --------------------------------------------------------------------------------------


def test_the_reward_lands_on_the_last_response_token_eos_or_not():
    ppo = make_ppo(scores(5.0, 7.0), kl=NO_KL, **BARE)
    assert ppo.make_experience(written(ENDED_AND_CUT)).advantage_N.tolist() == [0, 0, 5, 0, 7]


def test_the_rows_for_people_have_the_mean_advantage_of_each_answer_and_are_few():
    ppo = make_ppo(scores(5.0, 7.0), kl=NO_KL, **BARE)
    assert ppo.train_samples() == []  # before the first step
    ppo.last = ppo.make_experience(written(ENDED_AND_CUT))
    rows = ppo.train_samples()
    assert [row["advantage"] for row in rows] == pytest.approx([5 / 3, 3.5])
    assert [(row["split"], row["reward"], row["length"], row["ended"]) for row in rows] == [
        ("train", 5.0, 3, True),
        ("train", 7.0, 2, False),
    ]


def test_undiscounted_every_token_is_credited_with_what_follows():
    ppo = make_ppo(scores(5.0, 7.0), kl=NO_KL, whiten="none", reward_normalize="none", lam=1.0)
    experience = ppo.make_experience(written(ENDED_AND_CUT))
    assert experience.advantage_N.tolist() == experience.return_N.tolist() == [5, 5, 5, 7, 7]


def test_the_missing_eos_penalty_is_for_the_truncated_alone():
    ppo = make_ppo(scores(5.0, 7.0), kl=NO_KL, missing_eos_penalty=2.0, **BARE)
    rollouts = written(ENDED_AND_CUT)
    experience = ppo.make_experience(rollouts)
    assert experience.shaped_B.tolist() == [5, 5] and experience.score_B.tolist() == [5, 7]
    assert [len(b.ids_T) for b in rollouts.trees[0].branches] == [3, 2], "the truncated one stays truncated"
    seen = ppo.describe(experience)
    assert (seen["objective/score"], seen["objective/score_std"]) == (6.0, 1.0), "raw, as the reward said it"
    assert seen["objective/rlhf_reward"] == 5.0, "shaped, as it is maximised"
    assert (seen["response/eos_fraction"], seen["response/length"], seen["samples"]) == (0.5, 2.5, 2.0)


def test_kl_is_nothing_at_the_start_and_something_after():
    ppo = make_ppo(scores(5.0, 7.0), kl=KLConfig(coefficient=1.0), **BARE)
    at_start = ppo.make_experience(written(ENDED_AND_CUT))
    assert at_start.advantage_N.tolist() == [0, 0, 5, 0, 7]
    assert ppo.describe(at_start)["objective/kl"] == 0
    ppo.actor.forward_backward(at_start.rollouts.trees, ppo.policy_objective(at_start, torch.arange(5))).result()
    ppo.actor.step(5e-2).result()
    ppo.sampler.generator.load_weights(ppo.actor.publish())
    rollouts = ppo.sampler(PROMPTS, SamplingConfig(n=32, max_new_tokens=6), seed=0)
    ppo.reward = plain(letters)
    assert ppo.describe(ppo.make_experience(rollouts))["objective/kl"] > 0.01


def test_kl_in_the_reward_is_on_every_token_and_in_the_loss_on_none():
    for kl, on_tokens in (
        (KLConfig(coefficient=2.0), True),
        (KLConfig(place="loss", estimator="k2", coefficient=2.0), False),
    ):
        ppo = make_ppo(scores(0.0, 0.0), kl=kl, **BARE)
        start = ppo.make_experience(written(ENDED_AND_CUT))
        ppo.actor.forward_backward(start.rollouts.trees, ppo.policy_objective(start, torch.arange(5))).result()
        with torch.no_grad():
            for p in ppo.actor.parameters:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        e = ppo.make_experience(written(ENDED_AND_CUT))
        penalty_N = -2.0 * (e.old_logprob_N - e.reference_N)
        assert penalty_N.abs().min() > 0
        assert torch.allclose(e.advantage_N, penalty_N if on_tokens else torch.zeros(5), atol=1e-6)
        assert ppo.policy_objective(e, torch.arange(5)).kl_estimator == ("" if on_tokens else "k2")


def test_rewards_are_normalised_once_by_default_and_clipped():
    ppo = make_ppo(reward_clip=1.5)
    rollouts = written([([8], True)] * 4)
    first = ppo.shape(torch.tensor([0.0, 2.0, 4.0, 6.0]), rollouts)  # mean 3, deviation √5
    assert torch.allclose(first, torch.tensor([-3.0, -1.0, 1.0, 3.0]) / math.sqrt(5))
    second = ppo.shape(torch.tensor([3.0, 3.0, 3.0, 300.0]), rollouts)
    assert second.tolist() == [0, 0, 0, 1.5], "a fixed scale, and a limit on what an outlier says"


def test_a_first_step_of_all_but_equal_scores_is_said_and_sets_no_unit(capsys):
    ppo, rollouts = make_ppo(), written([([8], True)] * 4)
    with use(Display()):
        ppo.shape(torch.tensor([0.0, 0.0, 0.0, 2.5e-6]), rollouts)
        assert ppo.shape(torch.tensor([1.0, 1.0, 1.0, 0.0]), rollouts).max().item() == pytest.approx(1.0)
    assert capsys.readouterr().err.count("the scores of the first step are all but equal") == 1


def test_running_normalisation_moves():
    ppo = make_ppo(reward_normalize="running")
    rollouts = written([([8], True)] * 2)
    ppo.shape(torch.tensor([0.0, 2.0]), rollouts)
    second = ppo.shape(torch.tensor([4.0, 6.0]), rollouts)  # of all four: mean 3, deviation √5
    assert torch.allclose(second, torch.tensor([1.0, 3.0]) / math.sqrt(5))


@pytest.mark.parametrize("how", ["none", "start", "running"])
def test_a_single_sample_or_equal_scores_are_survived(how):
    ppo = make_ppo(reward_normalize=how)
    for values in ([3.0], [3.0, 3.0]):
        shaped = ppo.shape(torch.tensor(values), written([([8], True)] * len(values)))
        assert shaped.isfinite().all()


def test_the_missing_eos_penalty_is_not_clipped_away():
    """Both at once: the clip bounds what a reward may say, and the penalty comes off whatever that was."""
    ppo = make_ppo(reward_normalize="none", reward_clip=1.5, missing_eos_penalty=2.0)
    rollouts = written([([8], True), ([8], False), ([8], False), ([8], False)])
    shaped = ppo.shape(torch.tensor([9.0, 9.0, 0.5, -9.0]), rollouts)
    assert shaped.tolist() == [1.5, -0.5, -1.5, -3.5]


def test_the_held_out_objective_is_in_the_rewards_units_at_the_present_price():
    """A KL of 3 nats at 0.25 a nat of the normalised reward, whose unit is a deviation of 4 raw ones: 5 - 3."""
    ppo = make_ppo(kl=KLConfig(controller="adaptive", coefficient=0.5))
    ppo.probe = lambda step: {"reward": 5.0, "kl": 3.0}
    ppo.controller.kl_coef = 0.25
    assert ppo.evaluate(0) == {"eval/reward": 5.0, "eval/kl": 3.0, "eval/objective": 4.25}
    ppo.shape(torch.tensor([-4.0, 4.0]), written([([8], True)] * 2))
    assert ppo.evaluate(1)["eval/objective"] == 2.0


# -- sampling ---------------------------------------------------------------------------------------


def test_an_answer_that_a_stop_string_ended_is_ended_and_rewarded_on_its_last_token():
    sampling = {"n": 8, "max_new_tokens": 8, "stop_strings": ["a", "e", "o", " "]}
    ppo = make_ppo(scores(*[5.0] * 32), kl=NO_KL, missing_eos_penalty=2.0, sampling=sampling, **BARE)
    rollouts = ppo.rollouts(0)
    e = ppo.make_experience(rollouts)
    ends = [int(b.ids_T[-1]) in rollouts.end_ids for tree in rollouts.trees for b in tree.branches]
    by_string = [ended and not end for ended, end in zip(rollouts.ended_B.tolist(), ends, strict=True)]
    assert 0 < sum(by_string) < 32 and not rollouts.ended_B.all()
    assert e.shaped_B.tolist() == [5.0 if ended else 3.0 for ended in rollouts.ended_B.tolist()]
    last_N = rollouts.length_B.cumsum(0) - 1
    assert torch.equal(e.advantage_N[last_N], e.shaped_B) and e.advantage_N.count_nonzero() == 32
    assert e.weight_N is None, "a stop string leaves the distribution alone"
    assert torch.allclose(e.old_logprob_N, rollouts.sampler_logprob_N, atol=1e-4)


@pytest.mark.parametrize(
    "reshaping",
    [{"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.3}, {"repetition_penalty": 1.5}, {"min_new_tokens": 3}],
    ids=str,
)
def test_tokens_of_another_distribution_count_by_their_probability_ratio(reshaping):
    """π/μ, at most 2: below 1 where the sampler left tokens out, and on both sides of 1 with a penalty."""
    ppo = make_ppo(sampling={"n": 8, "max_new_tokens": 6} | reshaping, allow_truncated_sampling=True)
    e = ppo.make_experience(ppo.rollouts(0))
    ratio_N = (e.old_logprob_N - e.rollouts.sampler_logprob_N).exp()
    torch.testing.assert_close(e.weight_N, ratio_N.clamp(max=2.0))
    assert float((ratio_N - 1).abs().max()) > 1e-3
    assert (float(ratio_N.max()) > 1.001) == ("repetition_penalty" in reshaping)
    objective = ppo.policy_objective(e, torch.tensor([2, 0]))
    assert torch.equal(objective.weight_N, e.weight_N[[2, 0]])


def test_a_sampler_of_other_arithmetic_is_corrected_up_to_the_cap_that_was_given():
    """The sampler says of some tokens that they were less likely than the learner says, by a factor of 1.5 or of 8."""
    ppo = make_ppo(sampling={"n": 8, "max_new_tokens": 6}, importance_cap=3.0)
    sampled = ppo.rollouts(0)
    tokens = len(sampled.sampler_logprob_N)
    factor_N = torch.tensor([1.0, 1.5, 8.0] * tokens)[:tokens]
    e = ppo.make_experience(replace(sampled, sampler_logprob_N=sampled.sampler_logprob_N - factor_N.log()))
    torch.testing.assert_close(e.weight_N, factor_N.clamp(max=3.0), atol=1e-3, rtol=0)
    metrics = ppo.describe(e)
    assert metrics["sampling/importance_ratio/capped"] == pytest.approx(float((factor_N == 8).float().mean()))
    assert metrics["sampling/importance_ratio/mean"] == pytest.approx(float(factor_N.clamp(max=3.0).mean()), abs=1e-3)


def test_without_a_cap_no_token_is_weighted():
    ppo = make_ppo(sampling={"n": 2, "max_new_tokens": 6})
    e = ppo.make_experience(ppo.rollouts(0))
    assert e.weight_N is None and not any(name.startswith("sampling/") for name in ppo.describe(e))


def test_the_weight_multiplies_the_surrogate_and_nothing_else():
    out, batch = given([tree([8, 9]), tree([10])], logprobs=[-1.0, -2.0, -3.0])
    out = replace(out, entropy_N=torch.zeros(3))
    old, advantage, reference = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0] * 3)

    def objective(weight):
        return PolicyObjective(old, advantage, reference, 0.2, "token-mean", 0.0, "k2", 1.0, weight)

    plain, weighted = (loss_of(objective(w), out, batch) for w in (None, torch.tensor([0.5, 1.0, 0.25])))
    assert plain["policy/loss"] == pytest.approx(-7 / 3)
    assert weighted["policy/loss"] == pytest.approx(-(0.5 + 2 + 1) / 3)
    assert weighted["policy/kl_loss"] == plain["policy/kl_loss"] == pytest.approx((0.5 + 2 + 4.5) / 3)


def test_with_the_default_sampling_no_token_is_weighted():
    ppo = make_ppo()
    e = ppo.make_experience(ppo.rollouts(0))
    assert e.weight_N is None and ppo.policy_objective(e, torch.tensor([0])).weight_N is None
