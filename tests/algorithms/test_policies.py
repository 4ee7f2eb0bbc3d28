"""PPO's step with the settings of later papers: what is sampled again, left out, compared and paid."""

import json
from dataclasses import replace

import pytest
import torch

from concordant.algorithms.dynamic_sampling import together
from concordant.algorithms.process_rewards import Step, SteppedScore
from concordant.algorithms.reward_functions import FunctionReward
from concordant.algorithms.rewards import Answer, NamedAxes, Reward, WeightedSum
from concordant.config.stages import KLConfig
from concordant.core.errors import UserError
from concordant.engines.protocol import Done
from tests.algorithms.steps import BARE, ENDED_AND_CUT, NO_KL, scores
from tests.algorithms.worlds import PROMPTS, make_ppo, moved, plain, tree, weights_of, written

FOUR = [([8, 9, 10], True), ([11, 12], False), ([13], True), ([14, 15], True)]


def gradient(ppo, rollouts):
    """The gradient of the policy's first piece, and the experience."""
    experience = ppo.make_experience(rollouts)
    trees, tokens = experience.part(range(len(rollouts.trees)))
    ppo.actor.forward_backward(trees, ppo.policy_objective(experience, tokens)).result()
    made = torch.cat([p.grad.flatten() for p in ppo.actor.parameters if p.grad is not None])
    ppo.actor.discard()
    return made, experience


# -- rewards --------------------------------------------------------------------------------------


def test_the_overlong_penalty_by_hand():
    """A limit of 6 tokens and a buffer of 4: up to 2 tokens are free, 3 cost a quarter of 2, and 6 all of it."""
    ppo = make_ppo(overlong_penalty=2.0, overlong_buffer=4, reward_normalize="none")
    rollouts = written([([8], True), ([8, 9], True), ([8, 9, 10], True), ([8] * 6, False)])
    assert ppo.shape(torch.full((4,), 5.0), rollouts).tolist() == [5.0, 5.0, 4.5, 3.0]


def test_a_score_for_a_missing_end_replaces_the_reward():
    ppo = make_ppo(missing_eos_penalty=1.5, missing_eos_replaces=True, reward_normalize="none")
    assert ppo.shape(torch.tensor([5.0, 7.0]), written(ENDED_AND_CUT)).tolist() == [5.0, -1.5]


def test_an_answer_without_a_score_is_learnt_from_as_if_it_had_not_been_sampled():
    """Baseline, deviation, statistics and loss: none of them knows of it."""
    settings = {"advantage": "grpo", "aggregation": "token-mean", "sampling": {"n": 4}}
    whole, experience = gradient(make_ppo(scores(1.0, None, 3.0, 8.0), **settings), written(FOUR))
    less, _ = gradient(make_ppo(scores(1.0, 3.0, 8.0), **settings), written([FOUR[0], *FOUR[2:]]))
    assert torch.allclose(whole, less, atol=1e-7) and whole.abs().max() > 0
    assert experience.learnt_B.tolist() == [True, False, True, True]


def test_a_truncated_answer_is_in_the_baseline_and_not_in_the_loss():
    ppo = make_ppo(scores(1.0, 6.0, 3.0, 2.0), advantage="dr_grpo", mask_truncated=True, kl=NO_KL, **NOT_SCALED)
    found, experience = gradient(ppo, written(FOUR))
    assert experience.advantage_N.tolist() == [-2.0] * 3 + [3.0] * 2 + [0.0] + [-1.0] * 2
    trees, tokens = experience.part([0])
    assert tokens.tolist() == [0, 1, 2, 5, 6, 7] and [len(b.ids_T) for b in trees[0].branches] == [3, 1, 2]
    ended, _ = gradient(
        make_ppo(scores(1.0, 6.0, 3.0, 2.0), advantage="dr_grpo", kl=NO_KL, **NOT_SCALED), written(FOUR)
    )
    assert not torch.allclose(found, ended)


NOT_SCALED = {"reward_normalize": "none", "whiten": "none"}


@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_a_step_whose_answers_are_all_truncated_moves_nothing(advantage):
    ppo = make_ppo(advantage=advantage, mask_truncated=True, sampling={"max_new_tokens": 2})
    ppo.sample = lambda step: written(*[[([8, 9], False), ([10, 11], False)]] * 4)
    before = weights_of(ppo.actor)
    metrics = ppo.step(0, 1e-2)
    assert not moved(ppo.actor, before) and metrics["response/left_out"] == 1.0 and ppo.actor.version == 0


def test_whitening_looks_at_the_tokens_that_are_learnt_from():
    ppo = make_ppo(scores(1.0, 60.0, 3.0, 2.0), mask_truncated=True, whiten="step", kl=NO_KL)
    e = ppo.make_experience(written(FOUR))
    learnt_N = e.advantage_N[e.part([0])[1]]
    assert learnt_N.mean().abs() < 1e-5 and abs(float(learnt_N.std(correction=0)) - 1) < 1e-5


def test_remax_compares_with_the_most_likely_answer_and_asks_for_it_once_a_prompt():
    asked = []

    def reward(answers):
        asked.append([a.response for a in answers])
        return [float(len(a.response)) for a in answers]

    ppo = make_ppo(reward, advantage="remax", kl=NO_KL, **NOT_SCALED)
    rollouts = ppo.rollouts(0)
    again = ppo.rollouts(0)
    assert [a.response for a in rollouts.greedy.answers] == [a.response for a in again.greedy.answers]
    e = ppo.make_experience(rollouts)
    assert [len(call) for call in asked] == [8, 4]
    baseline_B = torch.tensor([float(len(a.response)) for a in rollouts.greedy.answers]).repeat_interleave(2)
    token = torch.repeat_interleave(torch.arange(8), rollouts.length_B)
    assert torch.allclose(e.advantage_N, (e.score_B - baseline_B)[token])
    assert ppo.describe(e)["objective/greedy_score"] == pytest.approx(float(baseline_B.mean()))


# -- dynamic sampling -----------------------------------------------------------------------------

MANY = [replace(PROMPTS[0], messages=(replace(PROMPTS[0].messages[0], content=f"owl {i}"),)) for i in range(40)]


def parity_of(answers):
    """All answers to a prompt of an even number have the same reward, and those of others differ."""
    numbers = [int(a.prompt[0].content.split()[1]) for a in answers]
    return [0.0 if number % 2 == 0 else float(i % 2) for i, number in enumerate(numbers)]


def numbers_of(rollouts):
    return [int(a.prompt[0].content.split()[1]) for a in rollouts.answers]


def test_prompts_that_teach_nothing_are_replaced_and_counted():
    ppo = make_ppo(parity_of, prompts=MANY, advantage="grpo", dynamic_sampling=20, sampling={"n": 2})
    plainly = make_ppo(parity_of, prompts=MANY, advantage="grpo", sampling={"n": 2})
    for step in range(3):
        kept, rollouts = plainly.rollouts(step), ppo.rollouts(step)
        tied = [number for number in numbers_of(kept)[::2] if number % 2 == 0]
        assert rollouts.counts["dynamic_sampling/replaced"] == len(tied)
        assert all(number % 2 for number in numbers_of(rollouts)) and len(set(numbers_of(rollouts))) == 4
        e = ppo.make_experience(rollouts)
        assert e.tied == 0.0 and e.score_B.tolist() == parity_of(rollouts.answers)


def test_the_tries_are_bounded_and_what_is_left_stays_as_it_was():
    ppo = make_ppo(lambda answers: [1.0] * len(answers), advantage="grpo", dynamic_sampling=2)
    rollouts = ppo.rollouts(0)
    assert rollouts.counts == {"dynamic_sampling/tries": 2.0, "dynamic_sampling/replaced": 0.0}
    plainly = make_ppo(lambda answers: [1.0] * len(answers), advantage="grpo").rollouts(0)
    assert [a.response for a in rollouts.answers] == [a.response for a in plainly.answers]
    assert ppo.make_experience(rollouts).advantage_N.abs().max() == 0


def test_groups_put_together_in_their_order_are_what_they_were():
    rollouts = make_ppo(sampling={"n": 3}).rollouts(0)
    same = together([(rollouts, i) for i in range(4)])
    turned = together([(rollouts, i) for i in (2, 0, 3, 1)])
    for name in rollouts.__dataclass_fields__:
        a, b = getattr(rollouts, name), getattr(same, name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name
    assert turned.trees[1] is rollouts.trees[0] and turned.answers[3:6] == rollouts.answers[:3]
    start, stop = rollouts.token_slice()[2]
    assert torch.equal(turned.sampler_logprob_N[: stop - start], rollouts.sampler_logprob_N[start:stop])


def test_a_resumed_step_draws_the_same_prompts_in_their_place(tmp_path):
    settings = {"prompts": MANY, "advantage": "grpo", "dynamic_sampling": 3, "replay": 1, "mask_truncated": True}
    whole, resumed = make_ppo(parity_of, **settings), make_ppo(parity_of, seed=2, **settings)
    whole.step(0, 1e-2)
    resumed.reference = whole.reference
    whole.actor.save(tmp_path)
    resumed.actor.load(tmp_path)
    resumed.load_numbers(json.loads(json.dumps(whole.numbers())))
    first, second = whole.step(1, 1e-2), resumed.step(1, 1e-2)
    assert {k: v for k, v in first.items() if "seconds" not in k} == {
        k: v for k, v in second.items() if "seconds" not in k
    }
    assert not moved(whole.actor, weights_of(resumed.actor)) and first["dynamic_sampling/tries"] > 0


# -- rewards of steps -----------------------------------------------------------------------------


def stepped(*values):
    """A reward of one axis whose scores are these."""
    return plain(lambda answers: list(values)[: len(answers)])


def test_a_steps_reward_lands_on_its_last_token_and_the_rest_on_the_answers_last():
    """Scores 5 with a step of 2 that ends at the second token, and 7 without steps."""
    first = SteppedScore.of([Step(2.0, 2)], "tokens", outcome=3.0)
    e = make_ppo(stepped(first, 7.0), kl=NO_KL, **BARE).make_experience(written(ENDED_AND_CUT))
    assert e.advantage_N.tolist() == [0, 2, 3, 0, 7] and e.score_B.tolist() == [5, 7]


def test_steps_are_in_the_units_of_shaped_rewards():
    """Scores -2 and 6 have deviation 4: a step of 2 becomes ½, and the sum over an answer is its shaped reward."""
    bare = BARE | {"reward_normalize": "start"}
    score = SteppedScore.of([Step(2.0, 1)], "tokens", outcome=4.0)
    e = make_ppo(stepped(-2.0, score), kl=NO_KL, **bare).make_experience(written(ENDED_AND_CUT))
    assert e.shaped_B.tolist() == [-1.0, 1.0] and e.advantage_N.tolist() == [0, 0, -1.0, 0.5, 0.5]


def test_characters_of_an_answer_become_the_token_that_reaches_them():
    ppo = make_ppo(kl=NO_KL, advantage="reinforce++", **NOT_SCALED)
    rollouts = ppo.rollouts(0)
    at, answer = next((i, a.response) for i, a in enumerate(rollouts.answers) if len(a.response) > 5)
    half = len(answer) // 2
    values = [0.0] * 8
    values[at] = SteppedScore.of([Step(1.0, half), Step(2.0, len(answer))])
    e = make_ppo(stepped(*values), kl=NO_KL, advantage="reinforce++", **NOT_SCALED).make_experience(rollouts)
    ids = [b.ids_T for t in rollouts.trees for b in t.branches][at]
    reached = next(t for t in range(len(ids)) if len(ppo.text_of(ids[: t + 1])) >= half)
    start = int(rollouts.length_B[:at].sum())
    own = e.advantage_N[start : start + len(ids)].tolist()
    assert own[: reached + 1] == [3.0] * (reached + 1) and own[reached + 1] == 2.0


def answered(value):
    """The score of an answer of seven letters by a function that returns this."""
    reward = FunctionReward(lambda prompt, response: value, "mine")
    return reward([Answer(PROMPTS[0].messages, "a b c d", True, {})]).result()[0]


def test_a_function_may_return_steps():
    score = answered({"steps": [0.5, 1], "ends": [3, 7], "score": 2})
    assert score == 3.5 and score.steps == (Step(0.5, 3), Step(1.0, 7)) and score.unit == "characters"
    assert answered({"steps": [], "ends": []}) == 0.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"steps": [1.0]}, "two lists"),
        ({"steps": [1.0, 2.0], "ends": [3]}, "as many ends as steps"),
        ({"steps": [float("nan")], "ends": [3]}, "a finite number for each step"),
        ({"steps": [1.0, 2.0], "ends": [3, 3]}, "rise from step to step"),
        ({"steps": [1.0], "ends": [8]}, "ends at character 8 of an answer of 7"),
        ({"steps": [1.0], "ends": [2], "unit": "words"}, "unit may be characters or tokens"),
    ],
)
def test_steps_that_make_no_sense_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        answered(value)


def test_steps_need_a_weighted_sum_and_ends_inside_the_answer():
    def axis(score):
        return lambda answers: Done([score] * len(answers))

    one = SteppedScore.of([Step(1.0, 1)], "tokens")
    ensemble = NamedAxes(members={"all": ("a", "b")}, weights={"all": 1.0}, ensemble="minimum")
    with pytest.raises(UserError, match="reward a gives rewards for steps, which need a weighted sum"):
        make_ppo(Reward({"a": axis(one), "b": axis(0.0)}, ensemble)).make_experience(written(ENDED_AND_CUT))
    weighted = Reward({"a": axis(one)}, WeightedSum({"a": -2.0}))
    e = make_ppo(weighted, kl=NO_KL, **BARE).make_experience(written(ENDED_AND_CUT))
    assert e.advantage_N.tolist() == [-2, 0, 0, -2, 0]
    far = SteppedScore.of([Step(1.0, 4)], "tokens")
    with pytest.raises(UserError, match="a step ends at token 4 of an answer of 3 tokens"):
        make_ppo(stepped(far, 0.0)).make_experience(written(ENDED_AND_CUT))


def test_what_a_policy_objective_is_given():
    ppo = make_ppo(
        advantage="dr_grpo", policy_loss="gspo", clip=0.01, clip_high=0.02, aggregation="seq-mean-token-sum-norm",
        kl=KLConfig(place="loss", estimator="k3+"),
    )  # fmt: skip
    e = ppo.make_experience(written(ENDED_AND_CUT))
    objective = ppo.policy_objective(e, torch.arange(5))
    assert (objective.loss, objective.clip, objective.clip_high, objective.limit) == ("gspo", 0.01, 0.02, 6)
    assert objective.kl_estimator == "k3+" and tree([8]).branches
