"""The public names of the losses, ``concordant.losses``. Formulas: core/kl.py, core/losses.py and its *_losses.py."""

from __future__ import annotations

from concordant.core.kl import exact as exact_kl
from concordant.core.kl import k1, k2, k3, k3_plus
from concordant.core.losses import bradley_terry, clip_fraction, ppo_policy, ppo_value, smoothed_preference
from concordant.core.pair_losses import (
    F_DIVERGENCES,
    PREFERENCE_LOSSES,
    PreferenceLoss,
    RatedLoss,
    apo_down,
    apo_zero,
    bco,
    bco_pair,
    cpo,
    hinge,
    ipo,
    kto,
    length_normalised_dpo,
    orpo,
    robust_dpo,
    sigmoid_dpo,
    simpo,
    slic,
)
from concordant.core.policy_losses import POLICY_LOSSES, Taken

__all__ = [
    "F_DIVERGENCES",
    "POLICY_LOSSES",
    "PREFERENCE_LOSSES",
    "PreferenceLoss",
    "RatedLoss",
    "Taken",
    "apo_down",
    "apo_zero",
    "bco",
    "bco_pair",
    "bradley_terry",
    "clip_fraction",
    "cpo",
    "exact_kl",
    "hinge",
    "ipo",
    "k1",
    "k2",
    "k3",
    "k3_plus",
    "kto",
    "length_normalised_dpo",
    "orpo",
    "ppo_policy",
    "ppo_value",
    "robust_dpo",
    "sigmoid_dpo",
    "simpo",
    "slic",
    "smoothed_preference",
]
