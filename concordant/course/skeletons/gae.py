"""Exercise 6: GAE. Then run: concordant course check 6 exercise_6.py"""

from __future__ import annotations

from torch import Tensor


def compute_advantages(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one response of T tokens, (T,) each.

    δ_t = r_t + γ V_{t+1} - V_t;  A_t = δ_t + γ λ A_{t+1};  return_t = A_t + V_t.
    After the last token both V and A are 0.
    """
    raise NotImplementedError("go from the last token to the first")
