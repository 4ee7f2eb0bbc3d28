"""Advantages: how much better each token or response was than expected. One table, one signature.

An answer that no reward could score is in no mean and no deviation here, and its own advantage is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from concordant.config.names import COMPARES_SAMPLES, AdvantageName
from concordant.core.errors import UserError
from concordant.core.masked import LEAST_DEVIATION, branch_of_token, from_rows, sum_by_branch, to_rows


@dataclass(frozen=True, slots=True)
class Steps:
    """Rewards of the steps of some responses. S counts steps."""

    reward_S: Tensor  # reward units; a step may be worth 0
    token_S: Tensor  # int64 number of the step's last token among the N

    def on_tokens(self, count: int) -> Tensor:
        """What each of ``count`` tokens gets, (N,)."""
        return self.reward_S.new_zeros(count).index_add(0, self.token_S, self.reward_S)


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
    steps: Steps | None = None  # the parts of the score that stand on earlier tokens; None: there are none
    scored_B: Tensor | None = None  # bool, False where no reward could score the response; None: all have a score
    greedy_B: Tensor | None = None  # reward units: the shaped reward of the prompt's most likely answer

    @property
    def reward_N(self) -> Tensor:
        """The reward of every token: the penalty, the steps, and on the last token, EOS or not, the rest of the score.

        So the steps move a reward to an earlier token, and the sum over a response is its score as it always is.
        """
        reward_N = self.penalty_N.clone() if self.steps is None else self.penalty_N + self.step_N
        reward_N[self.length_B.cumsum(0) - 1] += self.outcome_B
        return reward_N

    @property
    def outcome_B(self) -> Tensor:
        """The part of the score that no step has, (B,): the whole score if there are no steps."""
        return self.score_B if self.steps is None else self.score_B - sum_by_branch(self.step_N, self.length_B)

    @property
    def step_N(self) -> Tensor:  # noqa: N802 (the field's notation)
        """What every token gets from the step that ends at it; 0 elsewhere."""
        return torch.zeros_like(self.penalty_N) if self.steps is None else self.steps.on_tokens(len(self.penalty_N))

    @property
    def is_scored_B(self) -> Tensor:
        return torch.ones_like(self.group_B, dtype=torch.bool) if self.scored_B is None else self.scored_B

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
    is_scored_N = r.is_scored_B[branch_of_token(r.length_B)]
    return torch.where(is_scored_N, advantage_N, 0.0), advantage_N + r.value_N


def reinforce_plus_plus(r: Returns) -> tuple[Tensor, Tensor]:
    """The discounted reward to come, A_t = Σ_k γ^k r_{t+k}, without a critic.  Hu 2025, 2501.03262 eq. 8.

    The step's whitening (``whiten step``) is its baseline and its scale.
    """
    reward_BT = to_rows(r.reward_N, r.length_B)
    to_come_BT, following_B = torch.zeros_like(reward_BT), reward_BT.new_zeros(len(reward_BT))
    for t in reversed(range(reward_BT.shape[1])):
        following_B = reward_BT[:, t] + r.gamma * following_B
        to_come_BT[:, t] = following_B
    to_come_N = from_rows(to_come_BT, r.length_B)
    return torch.where(r.is_scored_B[branch_of_token(r.length_B)], to_come_N, 0.0), to_come_N


def remax(r: Returns) -> tuple[Tensor, Tensor]:
    """The reward to come less the reward of the prompt's most likely answer.  Li et al. 2023, 2310.10505 eq. 7.

    Nothing is divided, and no other sample of the prompt is needed: the baseline depends on the prompt alone.
    """
    if r.greedy_B is None:
        raise ValueError("remax needs the reward of every prompt's most likely answer")
    to_come_N = reinforce_plus_plus(replace(r, gamma=1.0))[1]
    token = branch_of_token(r.length_B)
    return torch.where(r.is_scored_B[token], to_come_N - r.greedy_B[token], 0.0), to_come_N


def rloo(r: Returns) -> tuple[Tensor, Tensor]:
    """Total reward less the mean total of the prompt's other responses, the same for every token.

    Ahmadian et al. 2024, 2402.14740. Nothing divides the penalty. A group of equal scores gets exactly nothing from its
    scores. The second result is the reward to come, which no critic learns from here.
    """
    total_B = r.total_B
    return _for_tokens(r, _above_the_others(r, _without_ties(r, total_B)), total_B)


def dr_grpo(r: Returns) -> tuple[Tensor, Tensor]:
    """Total reward less the mean total of the prompt's responses, the same for every token; nothing is divided.

    Liu et al. 2025, 2503.20783. This is (n-1)/n of RLOO's advantage, for a prompt of n responses. A penalty in the
    reward has the same factor, so β keeps its meaning.
    """
    total_B = r.total_B
    return _for_tokens(r, _above_the_mean(r, _without_ties(r, total_B)), total_B)


def reinforce_plus_plus_baseline(r: Returns) -> tuple[Tensor, Tensor]:
    """As ``dr_grpo``; the step's whitening then divides by one deviation for all prompts.  Hu 2025, 2501.03262."""
    return dr_grpo(r)


def grpo(r: Returns) -> tuple[Tensor, Tensor]:
    """(score - mean) / deviation within the prompt's responses; a group of equal scores gives exactly 0.

    Shao et al. 2024, 2402.03300. Only scores are divided. A penalty in the reward is compared with the group's other
    penalties and added as it is. Scores that differ by no more than rounding count as equal. Where a reward gave steps,
    every step's reward is normalised by mean and deviation of all steps of the group, and a token gets the sum of those
    that end at it or later (§4.1.3, process supervision).
    """
    outcome_B, largest_B = r.outcome_B, _largest(r)
    advantage_B = _standardised(r, outcome_B, tied(r, outcome_B), largest_B)
    advantage_B = advantage_B + _above_the_others(r, sum_by_branch(r.penalty_N, r.length_B))
    advantage_N, total_N = _for_tokens(r, advantage_B, r.total_B)
    return advantage_N if r.steps is None else advantage_N + _steps_to_come(r, r.steps), total_N


def tied(r: Returns, score_B: Tensor | None = None) -> Tensor:
    """True for the responses of a prompt whose responses all have the same score, bool (B,).

    Asked of the scores themselves: their mean rounds, so a difference from it is not exactly 0 for equal scores.
    """
    least_B, greatest_B = _extremes(r, r.score_B if score_B is None else score_B)
    return least_B >= greatest_B


def _for_tokens(r: Returns, advantage_B: Tensor, total_B: Tensor) -> tuple[Tensor, Tensor]:
    token = branch_of_token(r.length_B)
    return torch.where(r.is_scored_B, advantage_B, 0.0)[token], total_B[token]


def _without_ties(r: Returns, total_B: Tensor) -> Tensor:
    """The totals; the penalties alone where a prompt's scores are all equal, (B,)."""
    return torch.where(tied(r), sum_by_branch(r.penalty_N, r.length_B), total_B)


def _standardised(r: Returns, x_B: Tensor, tied_B: Tensor, largest_B: Tensor) -> Tensor:
    size_B, sum_B = _groups(r, x_B)
    centred_B = x_B - sum_B / size_B
    _, square_B = _groups(r, centred_B**2)
    deviation_B = (square_B / (size_B - 1)).sqrt()
    is_rounding_B = deviation_B <= LEAST_DEVIATION * largest_B
    return torch.where(is_rounding_B | tied_B | (size_B < 2), 0.0, centred_B / deviation_B)


def _largest(r: Returns) -> Tensor:
    """The greatest size of a score, or of an answer's steps together, in every branch's group, (B,)."""
    least_B, greatest_B = _extremes(r, r.score_B)
    largest_B = torch.maximum(least_B.abs(), greatest_B.abs())
    if r.steps is None:
        return largest_B
    return torch.maximum(largest_B, _extremes(r, sum_by_branch(r.step_N.abs(), r.length_B))[1])


def _steps_to_come(r: Returns, steps: Steps) -> Tensor:
    """The sum of the normalised step rewards at each token and after it; 0 where a group's steps are equal, (N,)."""
    branch_N = branch_of_token(r.length_B)
    counts_S = r.is_scored_B[branch_N[steps.token_S]].to(steps.reward_S.dtype)
    group_S, groups = r.group_B[branch_N[steps.token_S]], len(torch.bincount(r.group_B))

    def of_groups(x_S: Tensor) -> Tensor:
        return x_S.new_zeros(groups).index_add(0, group_S, x_S * counts_S)[group_S]

    size_S = of_groups(torch.ones_like(counts_S))
    centred_S = steps.reward_S - of_groups(steps.reward_S) / size_S
    deviation_S = (of_groups(centred_S**2) / (size_S - 1)).sqrt()
    is_rounding_S = deviation_S <= LEAST_DEVIATION * _largest(r)[branch_N[steps.token_S]]
    normal_S = torch.where(is_rounding_S | (size_S < 2) | (counts_S == 0), 0.0, centred_S / deviation_S)
    normal_N = Steps(normal_S, steps.token_S).on_tokens(len(branch_N))
    return from_rows(to_rows(normal_N, r.length_B).flip(1).cumsum(1).flip(1), r.length_B)


def _extremes(r: Returns, x_B: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest number of every branch's group, of the scored branches, (B,) each."""
    groups, scored_B = len(torch.bincount(r.group_B)), r.is_scored_B
    low_B, high_B = torch.where(scored_B, x_B, torch.inf), torch.where(scored_B, x_B, -torch.inf)
    least_G = x_B.new_full((groups,), torch.inf).scatter_reduce(0, r.group_B, low_B, "amin")
    greatest_G = x_B.new_full((groups,), -torch.inf).scatter_reduce(0, r.group_B, high_B, "amax")
    return least_G[r.group_B], greatest_G[r.group_B]


def _above_the_others(r: Returns, x_B: Tensor) -> Tensor:
    size_B, sum_B = _groups(r, x_B)
    return torch.where(size_B < 2, 0.0, x_B - (sum_B - x_B) / (size_B - 1))


def _above_the_mean(r: Returns, x_B: Tensor) -> Tensor:
    size_B, sum_B = _groups(r, x_B)
    return x_B - sum_B / size_B


def _groups(r: Returns, x_B: Tensor) -> tuple[Tensor, Tensor]:
    """Number and sum of the scored branches of every branch's group, (B,) each."""
    size_G = torch.bincount(r.group_B)
    if int(size_G[r.group_B].min()) < 2:  # there is nothing to compare with
        names = ", ".join(sorted(COMPARES_SAMPLES))
        raise UserError(f"{names} compare a prompt's responses: sampling.n must be at least 2")
    scored_B = r.is_scored_B.to(x_B.dtype)
    counted_G = x_B.new_zeros(len(size_G)).index_add(0, r.group_B, scored_B)
    sum_G = x_B.new_zeros(len(size_G)).index_add(0, r.group_B, torch.where(r.is_scored_B, x_B, 0.0))
    return counted_G[r.group_B], sum_G[r.group_B]


ADVANTAGES: dict[AdvantageName, Callable[[Returns], tuple[Tensor, Tensor]]] = {
    "gae": gae,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "reinforce++": reinforce_plus_plus,
    "reinforce++-baseline": reinforce_plus_plus_baseline,
    "remax": remax,
}
