"""Advantages: how much better each token or response was than expected. One table, one signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.config.names import AdvantageName
from concordant.core.errors import UserError
from concordant.core.masked import LEAST_DEVIATION, branch_of_token, from_rows, sum_by_branch, to_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """The numbers from which an estimator computes advantages."""

    score_B: Tensor  # reward units: the shaped reward of each response, which stands on its last token
    penalty_N: Tensor  # reward units: what every token pays or earns beside the score, such as -β · KL
    value_N: Tensor  # reward units: the critic's estimate before the token; zeros without a critic
    length_B: Tensor  # int64 tokens of each branch
    group_B: Tensor  # int64 number of the prompt that each branch answers
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # GAE's λ

    @property
    def reward_N(self) -> Tensor:
        """The reward of every token: the penalty, and on the last token, EOS or not, the score."""
        reward_N = self.penalty_N.clone()
        reward_N[self.length_B.cumsum(0) - 1] += self.score_B
        return reward_N

    @property
    def total_B(self) -> Tensor:
        """Undiscounted reward of each branch."""
        return sum_by_branch(self.reward_N, self.length_B)


def gae(r: Returns) -> tuple[Tensor, Tensor]:
    """(advantage_N, return_N): A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} - V_t, V past the end 0.

    Schulman et al. 2015, 1506.02438 eq. 16; return_t = A_t + V_t is the critic's target.
    """
    reward_BT, value_BT = to_rows(r.reward_N, r.length_B), to_rows(r.value_N, r.length_B)
    advantage_BT = torch.zeros_like(reward_BT)
    following_B = reward_BT.new_zeros(len(reward_BT))
    next_value_B = reward_BT.new_zeros(len(reward_BT))
    for t in reversed(range(reward_BT.shape[1])):
        # Past a branch's end reward, value and so everything carried back into it are 0.
        delta_B = reward_BT[:, t] + r.gamma * next_value_B - value_BT[:, t]
        following_B = delta_B + r.gamma * r.lam * following_B
        advantage_BT[:, t] = following_B
        next_value_B = value_BT[:, t]
    advantage_N = from_rows(advantage_BT, r.length_B)
    return advantage_N, advantage_N + r.value_N


def rloo(r: Returns) -> tuple[Tensor, Tensor]:
    """Total reward less the mean total of the prompt's other responses, the same for every token.

    Ahmadian et al. 2024, 2402.14740. Nothing divides the penalty. A group of equal scores gets exactly nothing from its
    scores. The second result is the reward to come, which no critic learns from here.
    """
    total_B = r.total_B
    penalty_B = sum_by_branch(r.penalty_N, r.length_B)
    compared_B = torch.where(tied(r), penalty_B, total_B)
    advantage_B = _above_the_others(r, compared_B)
    return advantage_B[branch_of_token(r.length_B)], total_B[branch_of_token(r.length_B)]


def grpo(r: Returns) -> tuple[Tensor, Tensor]:
    """(score - mean) / deviation within the prompt's responses; a group of equal scores gives exactly 0.

    Shao et al. 2024, 2402.03300. Only scores are divided. A penalty in the reward is compared with the group's other
    penalties and added as it is. Scores that differ by no more than rounding count as equal.
    """
    size_B, sum_B = _groups(r, r.score_B)
    centred_B = r.score_B - sum_B / size_B
    _, square_B = _groups(r, centred_B**2)
    deviation_B = (square_B / (size_B - 1)).sqrt()
    least_B, greatest_B = _extremes(r)
    is_rounding_B = deviation_B <= LEAST_DEVIATION * torch.maximum(least_B.abs(), greatest_B.abs())
    advantage_B = torch.where(is_rounding_B | tied(r), 0.0, centred_B / deviation_B)
    advantage_B = advantage_B + _above_the_others(r, sum_by_branch(r.penalty_N, r.length_B))
    return advantage_B[branch_of_token(r.length_B)], r.total_B[branch_of_token(r.length_B)]


def tied(r: Returns) -> Tensor:
    """True for the responses of a prompt whose responses all have the same score, bool (B,).

    Asked of the scores themselves: their mean rounds, so a difference from it is not exactly 0 for equal scores.
    """
    least_B, greatest_B = _extremes(r)
    return least_B == greatest_B


def _extremes(r: Returns) -> tuple[Tensor, Tensor]:
    """The least and the greatest score of every branch's group, (B,) each."""
    groups = len(torch.bincount(r.group_B))
    least_G = r.score_B.new_full((groups,), torch.inf).scatter_reduce(0, r.group_B, r.score_B, "amin")
    greatest_G = r.score_B.new_full((groups,), -torch.inf).scatter_reduce(0, r.group_B, r.score_B, "amax")
    return least_G[r.group_B], greatest_G[r.group_B]


def _above_the_others(r: Returns, x_B: Tensor) -> Tensor:
    size_B, sum_B = _groups(r, x_B)
    return x_B - (sum_B - x_B) / (size_B - 1)


def _groups(r: Returns, x_B: Tensor) -> tuple[Tensor, Tensor]:
    """Size and sum of every branch's group, (B,) each."""
    size_G = torch.bincount(r.group_B)
    size_B = size_G[r.group_B].to(x_B.dtype)
    if int(size_B.min()) < 2:  # the division by size - 1 would give NaN
        raise UserError("rloo and grpo compare a prompt's responses: sampling.n must be at least 2")
    sum_G = x_B.new_zeros(len(size_G)).index_add(0, r.group_B, x_B)
    return size_B, sum_G[r.group_B]


ADVANTAGES: dict[AdvantageName, Callable[[Returns], tuple[Tensor, Tensor]]] = {"gae": gae, "rloo": rloo, "grpo": grpo}
