"""How much better a token or a response was than expected: one table, one signature.

N response tokens of all branches one after another, B branches, G prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.config.names import AdvantageName
from concordant.core.errors import UserError
from concordant.core.masked import branch_of_token, from_rows, sum_by_branch, to_rows


@dataclass(frozen=True, slots=True)
class Returns:
    """What an estimator may look at."""

    reward_N: Tensor  # reward units: the KL penalty on every token, the score on the last
    value_N: Tensor  # critic's estimate before the token; zeros without a critic
    length_B: Tensor  # int64 tokens of each branch
    group_B: Tensor  # int64 prompt each branch answers
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # GAE's λ

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
    """Reward less the mean of the prompt's other responses, the same for every token.

    Ahmadian et al. 2024, 2402.14740. The second result is the reward to come, which no critic learns from here.
    """
    total_B = r.total_B
    size_B, sum_B = _groups(r, total_B)
    advantage_B = total_B - (sum_B - total_B) / (size_B - 1)
    return advantage_B[branch_of_token(r.length_B)], total_B[branch_of_token(r.length_B)]


def grpo(r: Returns) -> tuple[Tensor, Tensor]:
    """(reward - mean) / deviation within the prompt's responses; equal rewards give 0.

    Shao et al. 2024, 2402.03300.
    """
    total_B = r.total_B
    size_B, sum_B = _groups(r, total_B)
    centred_B = total_B - sum_B / size_B
    _, square_B = _groups(r, centred_B**2)
    deviation_B = (square_B / (size_B - 1)).sqrt()
    advantage_B = torch.where(deviation_B > 1e-6, centred_B / deviation_B.clamp_min(1e-6), 0.0)
    return advantage_B[branch_of_token(r.length_B)], total_B[branch_of_token(r.length_B)]


def _groups(r: Returns, x_B: Tensor) -> tuple[Tensor, Tensor]:
    """Size and sum of every branch's group, (B,) each."""
    size_G = torch.bincount(r.group_B)
    size_B = size_G[r.group_B].to(x_B.dtype)
    if int(size_B.min()) < 2:  # the division by size - 1 would give NaN
        raise UserError("rloo and grpo compare a prompt's responses: sampling.n must be at least 2")
    sum_G = x_B.new_zeros(len(size_G)).index_add(0, r.group_B, x_B)
    return size_B, sum_G[r.group_B]


ADVANTAGES: dict[AdvantageName, Callable[[Returns], tuple[Tensor, Tensor]]] = {"gae": gae, "rloo": rloo, "grpo": grpo}
