"""The objectives of reward models and PPO: pure functions, a number an example or token, never a mean.

``compute_preference_loss`` alone gives a mean, for people who write their own loop.

The losses of DPO and its variants are in pair_losses.py.

B pairs, N response tokens. ``log sigma(z)`` is always ``logsigmoid``, finite at any z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor


def bradley_terry(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | float = 0.0) -> Tensor:
    """-log σ(chosen - rejected - margin), nats, (B,).  Bradley & Terry 1952; margin: Llama 2, 2307.09288 eq. 2.

    Invariant to a shift of both scores, not to their scale.
    """
    return -F.logsigmoid(chosen_B - rejected_B - margin_B)


def compute_preference_loss(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, temperature: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """The mean over pairs of -log σ((chosen - rejected - margin) / temperature), in nats, and metrics to log.

    ``chosen`` and ``rejected`` are scores, (P,). Scores and margin are in reward units. A pair with equal scores counts
    half for the accuracy.
    """
    loss = bradley_terry(chosen / temperature, rejected / temperature, margin / temperature).mean()
    difference = (chosen - rejected).detach()
    metrics = {
        "accuracy": float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean()),
        "margin": float(difference.mean()),
        "reward/chosen": float(chosen.detach().mean()),
        "reward/rejected": float(rejected.detach().mean()),
    }
    return loss, metrics


def smoothed_preference(z_B: Tensor, label_smoothing: Tensor | float = 0.0) -> Tensor:
    """-(1-ε) log σ(z) - ε log σ(-z), nats, (B,): a share ε of the labels is believed flipped.  Mitchell 2023 (cDPO)."""
    return -(1 - label_smoothing) * F.logsigmoid(z_B) - label_smoothing * F.logsigmoid(-z_B)


LOG_RATIO = 20.0  # nats; e^20 is far beyond every clip range


def ppo_policy(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, clip: float, clip_high: float | None = None
) -> Tensor:
    """-min(ratio·A, clip(ratio, 1-ε, 1+ε')·A), (N,), with ratio π/π_old a token.  Schulman et al. 2017, 1707.06347.

    ``clip_high`` is ε', and None stands for ε. With ε' above ε rare tokens may become likelier faster: clip-higher of
    DAPO, Yu et al. 2025, 2503.14476 eq. 8.
    """
    return clipped_surrogate(probability_ratio(logprob_N, old_logprob_N), advantage_N, clip, clip_high)


def clipped_surrogate(ratio_N: Tensor, advantage_N: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """The loss of ``ppo_policy`` for ratios that are known, (N,)."""
    kept_N = ratio_N.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return torch.maximum(-advantage_N * ratio_N, -advantage_N * kept_N)


def probability_ratio(logprob_N: Tensor, old_logprob_N: Tensor) -> Tensor:
    """π/π_old of every token, (N,).

    Log-ratios beyond ±``LOG_RATIO`` count as that much and have no gradient. In fp32 exp is infinite from 88 on, so the
    gradient of a clipped ratio would be 0 · ∞.
    """
    return torch.exp((logprob_N - old_logprob_N).clamp(-LOG_RATIO, LOG_RATIO))


SAMPLER_WEIGHT = 2.0  # the most that a token counts; without a limit, rare tokens would decide the gradient


def sampler_weight(logprob_N: Tensor, sampler_logprob_N: Tensor, cap: float = SAMPLER_WEIGHT) -> Tensor:
    """min(π/μ, cap), (N,): how much a token counts that was sampled from μ and not from the policy π.

    π is the policy before the step's updates, as the learner computes its log-probs; μ is what the sampler drew from:
    the same policy in other arithmetic, with other settings, or of some steps ago.  Where μ gives every token some
    probability, the mean over weighted tokens is the mean under π, up to the limit.  Tokens to which μ gives none are
    missing from this mean.  Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
    (truncated importance sampling); for old samples: Fu et al. 2025, 2505.24298 (AReaL).
    """
    return probability_ratio(logprob_N, sampler_logprob_N).clamp(max=cap)


def ppo_value(value_N: Tensor, old_value_N: Tensor, return_N: Tensor, clip: float = 0.0) -> Tensor:
    """max((V-R)², (V_clip-R)²), (N,), V_clip within ±clip of the old value; clip 0 leaves the square alone.

    The worse of the two, so that clipping only ever withholds an improvement.  Schulman et al. 2017 (baselines' PPO2).
    """
    loss_N = (value_N - return_N) ** 2
    if clip == 0:
        return loss_N
    clipped_N = old_value_N + (value_N - old_value_N).clamp(-clip, clip)
    return torch.maximum(loss_N, (clipped_N - return_N) ** 2)


def value_clip_fraction(value_N: Tensor, old_value_N: Tensor, return_N: Tensor, clip: float) -> Tensor:
    """1 where ``ppo_value`` takes the clipped square, so that the token has no gradient, else 0, (N,)."""
    if clip == 0:
        return torch.zeros_like(value_N)
    clipped_N = old_value_N + (value_N - old_value_N).clamp(-clip, clip)
    return ((clipped_N - return_N) ** 2 > (value_N - return_N) ** 2).float()


def clip_fraction(
    logprob_N: Tensor, old_logprob_N: Tensor, advantage_N: Tensor, clip: float, clip_high: float | None = None
) -> Tensor:
    """1 where the clipped branch is the one that counts (no gradient), else 0, (N,)."""
    return is_clipped(probability_ratio(logprob_N, old_logprob_N), advantage_N, clip, clip_high)


def is_clipped(ratio_N: Tensor, advantage_N: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """The same for ratios that are known, (N,)."""
    above_N = (ratio_N > 1 + (clip if clip_high is None else clip_high)) & (advantage_N > 0)
    below_N = (ratio_N < 1 - clip) & (advantage_N < 0)
    return (above_N | below_N).float()
