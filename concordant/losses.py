"""The public names of the losses, ``concordant.losses``. Their formulas are in core/ (losses, policy_losses, kl)."""

from __future__ import annotations

from concordant.core.kl import exact as exact_kl
from concordant.core.kl import k1, k2, k3, k3_plus
from concordant.core.losses import (
    PREFERENCE_LOSSES,
    PreferenceLoss,
    bradley_terry,
    clip_fraction,
    ipo,
    ppo_policy,
    ppo_value,
    robust_dpo,
    sigmoid_dpo,
    smoothed_preference,
)
from concordant.core.policy_losses import POLICY_LOSSES, Taken

__all__ = [
    "POLICY_LOSSES",
    "PREFERENCE_LOSSES",
    "PreferenceLoss",
    "Taken",
    "bradley_terry",
    "clip_fraction",
    "exact_kl",
    "ipo",
    "k1",
    "k2",
    "k3",
    "k3_plus",
    "ppo_policy",
    "ppo_value",
    "robust_dpo",
    "sigmoid_dpo",
    "smoothed_preference",
]
