import pytest
import torch

from concordant.core.advantages import ADVANTAGES, Returns, gae, grpo, rloo, tied
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


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_groups_of_one_are_refused(name):
    with pytest.raises(UserError, match="sampling.n must be at least 2"):
        ADVANTAGES[name](scored([1.0], [0]))


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_constant_added_to_a_prompts_rewards_changes_nothing(name):
    one = ADVANTAGES[name](scored([0.3, -1.0, 2.0, 0.7], [0, 0, 1, 1]))[0]
    two = ADVANTAGES[name](scored([5.3, 4.0, -1.0, -2.3], [0, 0, 1, 1]))[0]
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_equal_scores_give_exactly_nothing_whatever_their_size(name, size):
    """Their mean rounds: 8.3 eight times gave -0.935 each when it was divided by a deviation of rounding."""
    for value in (8.3, 0.1, -1e6, 1e-9, 0.0):
        score = [value] * size + [1.0, 2.0]
        advantage, _ = ADVANTAGES[name](scored(score, [0] * size + [1, 1]))
        assert advantage[:size].tolist() == [0.0] * size and advantage[size] < 0 < advantage[-1]
        assert tied(scored(score, [0] * size + [1, 1])).tolist() == [True] * size + [False] * 2


@pytest.mark.parametrize("name", ["rloo", "grpo"])
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
