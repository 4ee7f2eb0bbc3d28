import pytest
import torch

from concordant.core.advantages import ADVANTAGES, Returns, gae, grpo, rloo
from concordant.core.errors import UserError


def returns(reward, value, lengths, groups=None, gamma=1.0, lam=0.95):
    lengths = torch.tensor(lengths)
    groups = torch.arange(len(lengths)) if groups is None else torch.tensor(groups)
    return Returns(torch.tensor(reward), torch.tensor(value), lengths, groups, gamma, lam)


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


def test_rloo_by_hand():
    # Totals 3, 0, 6 of one prompt: 3 - 3, 0 - 4.5, 6 - 1.5
    advantage, _ = rloo(returns([1.0, 2.0, 0.0, 6.0], [0.0] * 4, [2, 1, 1], [0, 0, 0]))
    assert advantage.tolist() == pytest.approx([0.0, 0.0, -4.5, 4.5])


def test_grpo_by_hand_and_a_group_of_equal_rewards():
    advantage, _ = grpo(returns([1.0, 3.0, 5.0, 5.0], [0.0] * 4, [1, 1, 1, 1], [0, 0, 1, 1]))
    half = 0.5**0.5
    assert advantage.tolist() == pytest.approx([-half, half, 0.0, 0.0])


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_groups_of_one_are_refused(name):
    with pytest.raises(UserError, match="sampling.n must be at least 2"):
        ADVANTAGES[name](returns([1.0], [0.0], [1]))


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_constant_added_to_a_prompts_rewards_changes_nothing(name):
    reward = torch.tensor([0.3, -1.0, 2.0, 0.7])
    lengths, groups = torch.tensor([1, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    one = ADVANTAGES[name](Returns(reward, torch.zeros(4), lengths, groups))[0]
    shifted = reward + torch.tensor([5.0, 5.0, -3.0, -3.0])
    two = ADVANTAGES[name](Returns(shifted, torch.zeros(4), lengths, groups))[0]
    assert torch.allclose(one, two, atol=1e-5)
