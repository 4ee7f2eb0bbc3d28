"""KL divergence from the reference: estimators from samples, the exact value, and the controllers of its weight.

N response tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.config.names import KLEstimator
from concordant.core.errors import UserError
from concordant.core.losses import LOG_RATIO


def k1(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """log π - log π_ref, nats, (N,). Unbiased for KL(π‖π_ref); its expected gradient is 0, so never a loss."""
    return logprob_N - reference_N


def k2(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """½ (log π - log π_ref)², nats, (N,). Biased in value; its expected gradient is that of KL(π‖π_ref)."""
    return 0.5 * (logprob_N - reference_N) ** 2


def k3(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """π_ref/π - 1 - log π_ref/π, nats, (N,). Unbiased, never negative; its gradient is that of KL(π_ref‖π).

    Schulman 2020, "Approximating KL divergence". Beyond ``LOG_RATIO`` the exponential goes on as a straight line, so
    that a token to which the policy gives almost nothing has a finite value, and a gradient that still raises it.
    """
    log_ratio_N = reference_N - logprob_N
    beyond_N = torch.relu(log_ratio_N - LOG_RATIO)
    return torch.expm1(log_ratio_N.clamp(max=LOG_RATIO)) + math.exp(LOG_RATIO) * beyond_N - log_ratio_N


def exact(logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """KL(π‖π_ref) of the next-token distributions, nats, (N,)."""
    logp_NV = torch.log_softmax(logits_NV, -1)
    return (logp_NV.exp() * (logp_NV - torch.log_softmax(reference_logits_NV, -1))).sum(-1)


def k3_plus(logprob_N: Tensor, reference_N: Tensor) -> Tensor:
    """The value of k3 and the gradient of k2, nats, (N,): what is logged and what is learnt both are of KL(π‖π_ref)."""
    learnt_N = k2(logprob_N, reference_N)
    return learnt_N + (k3(logprob_N, reference_N) - learnt_N).detach()


ESTIMATORS: dict[KLEstimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3, "k3+": k3_plus}
# The estimator "exact" needs whole distributions, so it comes from the forward pass.


@dataclass
class FixedKLController:
    """A weight that stays."""

    kl_coef: float  # reward units per nat

    def update(self, current_kl: float, n_steps: int) -> float:
        return self.kl_coef


@dataclass
class AdaptiveKLController:
    """Raises the weight while KL is above its target, lowers it while below.  Ziegler et al. 2019, 1909.08593 §2.2.

    ``update``: coefficient ·= 1 + clip(KL/target - 1, ±0.2) · min(n/horizon, 1). Without the bound on n/horizon a
    horizon below a fifth of the responses of a step would make the coefficient negative. Raises UserError for a target
    or a horizon that is not above 0.
    """

    kl_coef: float = 0.1  # reward units per nat
    target_kl: float = 6.0  # nats a response
    horizon: int = 10_000  # responses

    def __post_init__(self) -> None:
        if not self.target_kl > 0 or not self.horizon > 0:
            raise UserError(f"kl.target {self.target_kl:g} and kl.horizon {self.horizon:g}: expected numbers above 0")

    def update(self, current_kl: float, n_steps: int) -> float:
        error = min(max(current_kl / self.target_kl - 1, -0.2), 0.2)
        self.kl_coef *= 1 + error * min(n_steps / self.horizon, 1.0)
        return self.kl_coef
