"""The public names of the losses, ``concordant.losses``. Their formulas are in core/losses.py and core/kl.py."""

from __future__ import annotations

from concordant.core.kl import exact as exact_kl
from concordant.core.kl import k1, k2, k3
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

__all__ = [
    "PREFERENCE_LOSSES",
    "PreferenceLoss",
    "bradley_terry",
    "clip_fraction",
    "exact_kl",
    "ipo",
    "k1",
    "k2",
    "k3",
    "ppo_policy",
    "ppo_value",
    "robust_dpo",
    "sigmoid_dpo",
    "smoothed_preference",
]
