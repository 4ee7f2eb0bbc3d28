"""The losses of a policy that learns from advantages: one table, one signature, a number a response token.

N response tokens, B branches. Where the policy is still the one that sampled, every loss here has the gradient
-A · ∇ log π of its tokens (a response's mean of it with gspo). So all of them have the same fixed point, and they
differ in what bounds a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.config.names import PolicyLossName
from concordant.core.losses import clipped_surrogate, is_clipped, probability_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The tokens that the policy took, and what a policy loss may look at."""

    logprob_N: Tensor  # nats, under the policy that learns; it has a gradient
    old_logprob_N: Tensor  # nats, under the policy that sampled
    advantage_N: Tensor  # reward units
    branch_N: Tensor  # int64 number of the branch that each token belongs to
    length_B: Tensor  # int64 response tokens of each branch
    low: float  # a ratio counts as 1 - low at least
    high: float  # and as 1 + high at most
    dual: float  # dual clip: a ratio counts as this at most where the advantage is negative

    @property
    def ratio_N(self) -> Tensor:
        """π/π_old of every token."""
        return probability_ratio(self.logprob_N, self.old_logprob_N)


PolicyLoss = Callable[[Taken], tuple[Tensor, Tensor]]  # loss_N, and 1 where a bound acts on the token, else 0, (N,)


def ppo(t: Taken) -> tuple[Tensor, Tensor]:
    """-min(ρA, clip(ρ, 1-ε, 1+ε')A): ``core/losses.py::ppo_policy``."""
    ratio_N = t.ratio_N
    loss_N = clipped_surrogate(ratio_N, t.advantage_N, t.low, t.high)
    return loss_N, is_clipped(ratio_N.detach(), t.advantage_N, t.low, t.high)


def dual_clip(t: Taken) -> tuple[Tensor, Tensor]:
    """PPO's loss, but at most -cA where A < 0.  Ye et al. 2020, 1912.09729 eq. 5.

    PPO bounds ρ from above only where A > 0. A token of a bad answer that became much likelier would have a loss
    without bound.
    """
    loss_N, clipped_N = ppo(t)
    is_bad_N = t.advantage_N < 0
    loss_N = torch.where(is_bad_N, torch.minimum(loss_N, -t.dual * t.advantage_N), loss_N)
    return loss_N, torch.maximum(clipped_N, (is_bad_N & (t.ratio_N.detach() > t.dual)).float())


def gspo(t: Taken) -> tuple[Tensor, Tensor]:
    """PPO's loss with one ratio for a response: s = exp(mean over its tokens of log ρ).  Zheng et al. 2025, 2507.18071.

    Every token of a response has the same ratio and is clipped with it (eqs. 5 to 7). s has the scale of a token's
    ratio for every length, but differs much less from 1, so the bounds are a thousandth of PPO's.
    """
    log_ratio_N = t.logprob_N - t.old_logprob_N
    sum_B = log_ratio_N.new_zeros(len(t.length_B)).index_add(0, t.branch_N, log_ratio_N)
    mean_B = sum_B / t.length_B.clamp(min=1)
    ratio_N = probability_ratio(mean_B, torch.zeros_like(mean_B))[t.branch_N]
    loss_N = clipped_surrogate(ratio_N, t.advantage_N, t.low, t.high)
    return loss_N, is_clipped(ratio_N.detach(), t.advantage_N, t.low, t.high)


def cispo(t: Taken) -> tuple[Tensor, Tensor]:
    """-sg(min(ρ, 1+ε'))·A·log π: the bound is on a token's weight.  MiniMax 2025, 2506.13585 eqs. 4 and 5.

    sg stops the gradient. So no token loses its gradient, however far its ratio is. The second result is 1 where the
    weight is at its bound.
    """
    weight_N = t.ratio_N.detach()
    return -weight_N.clamp(max=1 + t.high) * t.advantage_N * t.logprob_N, (weight_N > 1 + t.high).float()


POLICY_LOSSES: dict[PolicyLossName, PolicyLoss] = {"ppo": ppo, "dual-clip": dual_clip, "gspo": gspo, "cispo": cispo}
