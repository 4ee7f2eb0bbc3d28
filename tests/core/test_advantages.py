from dataclasses import replace

import pytest
import torch

from concordant.config.names import COMPARES_SAMPLES
from concordant.core.advantages import (
    ADVANTAGES,
    Returns,
    Steps,
    dr_grpo,
    gae,
    grpo,
    reinforce_plus_plus,
    remax,
    rloo,
    tied,
)
from concordant.core.errors import UserError


def returns(reward, value, lengths, groups=None, gamma=1.0, lam=0.95, score=None):
    """``reward``: what each token gets; ``score``: what each branch's last token gets besides."""
    length_B = torch.tensor(lengths)
    return Returns(
        score_B=torch.zeros(len(lengths)) if score is None else torch.tensor(score),
        penalty_N=torch.tensor(reward),
        value_N=torch.tensor(value),
        length_B=length_B,
        group_B=torch.arange(len(lengths)) if groups is None else torch.tensor(groups),
        gamma=gamma,
        lam=lam,
    )


def scored(score, groups, penalty=None):
    """Branches of one token."""
    count = len(score)
    return returns(penalty or [0.0] * count, [0.0] * count, [1] * count, groups, score=score)


def test_gae_by_hand():
    # γ = 0.9, λ = 0.5: δ_1 = 2 - 1 = 1; δ_0 = 1 + 0.9·1 - 0.5 = 1.4; A_0 = 1.4 + 0.45·1
    advantage, target = gae(returns([1.0, 2.0], [0.5, 1.0], [2], gamma=0.9, lam=0.5))
    assert advantage.tolist() == pytest.approx([1.85, 1.0])
    assert target.tolist() == pytest.approx([2.35, 2.0])


def test_gae_with_lambda_one_is_reward_to_come_less_value():
    advantage, _ = gae(returns([0.0, 0.0, 3.0], [0.5, 1.5, 2.0], [3], lam=1.0))
    assert advantage.tolist() == pytest.approx([2.5, 1.5, 1.0])


def test_a_branch_does_not_see_the_next_branchs_rewards():
    alone, _ = gae(returns([1.0, 2.0], [0.1, 0.2], [2]))
    beside, _ = gae(returns([1.0, 2.0, 9.0, 9.0, 9.0], [0.1, 0.2, 5.0, 5.0, 5.0], [2, 3]))
    assert torch.equal(alone, beside[:2])


def test_one_token_responses():
    advantage, _ = gae(returns([1.0, -1.0], [0.25, 0.25], [1, 1]))
    assert advantage.tolist() == [0.75, -1.25]


def test_values_that_are_not_the_rewards_give_advantages_that_rank_with_reward():
    advantage, _ = gae(returns([0.0, 1.0, 0.0, 3.0], [0.5, 0.5, 0.5, 0.5], [2, 2]))
    assert advantage.abs().min() > 0 and advantage[2] > advantage[0]


def test_the_score_lands_on_the_last_token():
    given = returns([-1.0, -2.0, -3.0], [0.0] * 3, [2, 1], score=[5.0, 7.0])
    assert given.reward_N.tolist() == [-1.0, 3.0, 4.0] and given.total_B.tolist() == [2.0, 4.0]


def test_rloo_by_hand():
    # Totals 3, 0, 6 of one prompt: 3 - 3, 0 - 4.5, 6 - 1.5
    advantage, _ = rloo(returns([0.0, -1.0, 0.0, 1.0], [0.0] * 4, [2, 1, 1], [0, 0, 0], score=[4.0, 0.0, 5.0]))
    assert advantage.tolist() == pytest.approx([0.0, 0.0, -4.5, 4.5])


def test_grpo_by_hand_and_a_group_of_equal_rewards():
    advantage, _ = grpo(scored([1.0, 3.0, 5.0, 5.0], [0, 0, 1, 1]))
    half = 0.5**0.5
    assert advantage.tolist() == pytest.approx([-half, half, 0.0, 0.0])


@pytest.mark.parametrize("name", sorted(COMPARES_SAMPLES))
def test_groups_of_one_are_refused(name):
    with pytest.raises(UserError, match="sampling.n must be at least 2"):
        ADVANTAGES[name](scored([1.0], [0]))


@pytest.mark.parametrize("name", sorted(COMPARES_SAMPLES))
def test_a_constant_added_to_a_prompts_rewards_changes_nothing(name):
    one = ADVANTAGES[name](scored([0.3, -1.0, 2.0, 0.7], [0, 0, 1, 1]))[0]
    two = ADVANTAGES[name](scored([5.3, 4.0, -1.0, -2.3], [0, 0, 1, 1]))[0]
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("name", sorted(COMPARES_SAMPLES))
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_equal_scores_give_exactly_nothing_whatever_their_size(name, size):
    """Their mean rounds: 8.3 eight times gave -0.935 each when it was divided by a deviation of rounding."""
    for value in (8.3, 0.1, -1e6, 1e-9, 0.0):
        score = [value] * size + [1.0, 2.0]
        advantage, _ = ADVANTAGES[name](scored(score, [0] * size + [1, 1]))
        assert advantage[:size].tolist() == [0.0] * size and advantage[size] < 0 < advantage[-1]
        assert tied(scored(score, [0] * size + [1, 1])).tolist() == [True] * size + [False] * 2


@pytest.mark.parametrize("name", sorted(COMPARES_SAMPLES))
def test_of_equal_scores_the_penalty_alone_is_left_and_follows_its_coefficient(name):
    """Divided by the group's deviation it would be the same for any coefficient."""
    nats = torch.tensor([3.0, 1.0, 2.0])
    small, large = (ADVANTAGES[name](scored([8.3] * 3, [0] * 3, (-beta * nats).tolist()))[0] for beta in (0.001, 0.05))
    assert torch.allclose(50 * small, large, atol=1e-7) and large[0] < large[2] < large[1]


def test_the_penalty_is_not_divided_by_the_deviation_of_the_scores():
    penalty = [-0.3, -0.1, 0.0]
    without = grpo(scored([1.0, 2.0, 6.0], [0] * 3))[0]
    beside = grpo(scored([1.0, 2.0, 6.0], [0] * 3, penalty))[0]
    alone = rloo(scored([0.0] * 3, [0] * 3, penalty))[0]
    assert torch.allclose(beside - without, alone, atol=1e-6)


@pytest.mark.parametrize("value", [8.3, 1e-3, -2e4])
def test_grpo_does_not_divide_by_rounding(value):
    """The last bit of a score is no reason to prefer an answer."""
    score = torch.full((4,), value)
    score[0] = torch.nextafter(score[0], torch.tensor(torch.inf))
    assert grpo(scored(score.tolist(), [0] * 4))[0].tolist() == [0.0] * 4


# -- advantages of later papers -------------------------------------------------------------------


def test_dr_grpo_by_hand():
    """Rewards 1, 3, 8 of one prompt, mean 4; nothing is divided. A penalty counts as the reward does."""
    assert dr_grpo(scored([1.0, 3.0, 8.0], [0] * 3))[0].tolist() == pytest.approx([-3.0, -1.0, 4.0])
    assert dr_grpo(scored([1.0, 3.0, 8.0], [0] * 3, [-1.0, 0.0, -2.0]))[0].tolist() == pytest.approx([-3.0, 0.0, 3.0])


def test_reinforce_plus_plus_with_a_baseline_by_hand():
    """As Dr. GRPO, before the step is whitened: rewards 1, 3 and 8 less their mean, on each token of an answer."""
    given = returns([0.0] * 4, [9.0] * 4, [1, 1, 2], [0] * 3, score=[1.0, 3.0, 8.0])
    assert ADVANTAGES["reinforce++-baseline"](given)[0].tolist() == pytest.approx([-3.0, -1.0, 4.0, 4.0])


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_the_better_of_two_answers_has_the_higher_advantage_and_a_penalty_lowers_one(name):
    given = replace(scored([2.0, -1.0], [0, 0]), greedy_B=torch.tensor([0.5, 0.5]))
    better, worse = ADVANTAGES[name](given)[0].tolist()
    assert better > 0 > worse
    less, _ = ADVANTAGES[name](replace(given, penalty_N=torch.tensor([-0.3, 0.0])))[0].tolist()
    assert less < better


def test_dr_grpo_is_rloo_times_n_minus_1_over_n():
    given = scored([0.3, -1.0, 2.0, 0.7, 0.1], [0, 0, 0, 1, 1], [-0.1, 0.0, -0.3, 0.2, 0.0])
    factor = torch.tensor([2 / 3] * 3 + [1 / 2] * 2)
    assert torch.allclose(dr_grpo(given)[0], factor * rloo(given)[0], atol=1e-6)


def test_reinforce_plus_plus_by_hand():
    """γ = 0.5, rewards -1, 0 and 4 on the last token: 4 + 0·… from the end: 4, 0 + 2, -1 + 1."""
    given = returns([-1.0, 0.0, 0.0], [9.0, 9.0, 9.0], [3], gamma=0.5, score=[4.0])
    assert reinforce_plus_plus(given)[0].tolist() == pytest.approx([0.0, 2.0, 4.0]), "no critic is asked"


def test_remax_by_hand():
    """Reward to come less what the most likely answer got: scores 5 and 1, and 2 and 4 of the greedy answers."""
    given = returns([-1.0, 0.0, -0.5], [0.0] * 3, [2, 1], [0, 1], score=[5.0, 1.0])
    advantage, _ = remax(replace(given, greedy_B=torch.tensor([2.0, 4.0])))
    assert advantage.tolist() == pytest.approx([2.0, 3.0, -3.5])
    shifted = replace(given, score_B=given.score_B + 7, greedy_B=torch.tensor([9.0, 11.0]))
    assert torch.allclose(remax(shifted)[0], advantage), "a constant added to all rewards of a prompt changes nothing"


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_the_order_of_a_groups_answers_changes_nothing(name):
    given = scored([0.3, -1.0, 2.0, 0.7, 0.1], [0, 0, 0, 1, 1], [-0.1, 0.0, -0.3, 0.2, 0.0])
    given = replace(given, greedy_B=torch.tensor([0.5] * 3 + [0.2] * 2))
    order = torch.tensor([2, 0, 1, 4, 3])
    moved = replace(
        given, score_B=given.score_B[order], penalty_N=given.penalty_N[order], greedy_B=given.greedy_B[order]
    )
    assert torch.allclose(ADVANTAGES[name](moved)[0], ADVANTAGES[name](given)[0][order], atol=1e-6)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_an_answer_without_a_score_leaves_its_group(name):
    """The others have the advantages that they have without it, whatever stands in its place; its own is 0."""
    whole = scored([0.3, 55.0, 2.0, 1.5, 0.7, 0.1], [0, 0, 0, 0, 1, 1], [-0.1, -9.0, -0.3, 0.0, 0.2, 0.0])
    whole = replace(whole, greedy_B=torch.full((6,), 0.5), scored_B=torch.arange(6) != 1)
    kept = [0, 2, 3, 4, 5]
    less = replace(
        whole, scored_B=None, greedy_B=torch.full((5,), 0.5),
        **{f: getattr(whole, f)[kept] for f in ("score_B", "penalty_N", "value_N", "length_B", "group_B")},
    )  # fmt: skip
    advantage = ADVANTAGES[name](whole)[0]
    assert torch.allclose(advantage[kept], ADVANTAGES[name](less)[0], atol=1e-6) and advantage[1] == 0


@pytest.mark.parametrize("name", sorted(COMPARES_SAMPLES))
def test_an_answer_that_alone_has_a_score_is_compared_with_nothing(name):
    alone = replace(scored([5.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]), scored_B=torch.tensor([True, False, False, False]))
    assert ADVANTAGES[name](alone)[0].tolist() == [0.0] * 4


# -- rewards of steps ------------------------------------------------------------------------------


def stepped(reward, token, lengths, score, groups=None, **more):
    given = returns([0.0] * sum(lengths), [0.0] * sum(lengths), lengths, groups, score=score, **more)
    return replace(given, steps=Steps(torch.tensor(reward), torch.tensor(token)))


def test_a_steps_reward_stands_on_its_last_token_and_the_sum_stays():
    """A score of 5, of which steps that end at tokens 0 and 1 have 1 and 3; the last token has the rest."""
    given = stepped([1.0, 3.0], [0, 1], [3], [5.0])
    assert given.reward_N.tolist() == [1.0, 3.0, 1.0] and given.total_B.tolist() == [5.0]
    assert reinforce_plus_plus(given)[0].tolist() == [5.0, 4.0, 1.0]
    assert gae(replace(given, lam=1.0))[0].tolist() == [5.0, 4.0, 1.0]


@pytest.mark.parametrize("name", ["rloo", "dr_grpo", "reinforce++-baseline"])
def test_advantages_of_whole_answers_do_not_look_at_steps(name):
    given = stepped([1.0, 3.0, 0.0], [0, 1, 3], [3, 2], [5.0, 0.0], [0, 0])
    assert torch.equal(ADVANTAGES[name](given)[0], ADVANTAGES[name](replace(given, steps=None))[0])


def test_grpos_process_supervision_by_hand():
    """Steps 1, 0 and 2, 1 of two answers: mean 1, deviation √(2/3). A token gets the sum of its step and later ones."""
    given = stepped([1.0, 0.0, 2.0, 1.0], [1, 2, 3, 4], [3, 2], [1.0, 3.0], [0, 0])
    unit = 1 / (2 / 3) ** 0.5
    assert grpo(given)[0].tolist() == pytest.approx([-unit, -unit, -unit, unit, 0.0])


def test_a_step_worth_nothing_counts_in_the_mean_and_equal_steps_teach_nothing():
    assert grpo(stepped([0.5, 0.5], [0, 1], [1, 1], [0.5, 0.5], [0, 0]))[0].tolist() == [0.0, 0.0]
    with_zero = grpo(stepped([0.0, 1.0], [0, 1], [1, 1], [0.0, 1.0], [0, 0]))[0].tolist()
    assert with_zero == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_the_rest_of_a_score_is_not_divided_by_its_rounding():
    """Scores that their steps explain to the last digit but one: only the steps may speak."""
    reward = [0.1, 0.2, 0.7, 0.4, 0.3, 0.6]
    scores = [sum(reward[i : i + 2]) + 0.123 for i in (0, 2, 4)]
    given = stepped(reward, [0, 1, 2, 3, 4, 5], [2, 2, 2], scores, [0] * 3)
    exact = replace(given, score_B=torch.tensor([sum(reward[i : i + 2]) for i in (0, 2, 4)]))
    assert torch.allclose(grpo(given)[0], grpo(exact)[0], atol=1e-5)
