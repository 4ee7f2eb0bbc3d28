"""The losses of preference pairs and of rated answers: pure functions, one number a pair or answer, and their table.

P pairs, B answers. A loss compares numbers x of answers, in nats: x = log π(y)/π_ref(y), or x = log π(y) where the loss
needs no reference. x is a sum over the response tokens, or their mean where the table says ``length_mean``. Below, h is
x of the chosen answer less x of the rejected one, and z = β h. A margin m is subtracted from z before a loss sees h.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor

from concordant.config.names import FDivergenceName, PreferenceLossName
from concordant.core.losses import smoothed_preference

Share = Tensor | float  # of labels that are wrong: one number, or one for each pair

# -- losses of the difference h ---------------------------------------------------------------------


def sigmoid_dpo(logratio_B: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """-log σ(β·logratio), (B,).  Rafailov et al. 2023, 2305.18290 eq. 7.

    ``logratio_B``: log π(chosen)/π_ref(chosen) - log π(rejected)/π_ref(rejected), summed over response tokens, nats.
    """
    return smoothed_preference(beta * logratio_B, label_smoothing)


def length_normalised_dpo(logratio_P: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """-log σ(β h̄), (P,): h̄ has means over response tokens in place of sums.  Lambert et al. 2024, 2411.15124 eq. 6."""
    return sigmoid_dpo(logratio_P, beta, label_smoothing)


def robust_dpo(logratio_B: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """[-(1-ε) log σ(z) + ε log σ(-z)] / (1-2ε), (B,): unbiased under flips with probability ε < ½.

    Chowdhury et al. 2024, 2403.00409 eq. 12.
    """
    z_B = beta * logratio_B
    flipped_B = (1 - label_smoothing) * F.logsigmoid(z_B) - label_smoothing * F.logsigmoid(-z_B)
    return -flipped_B / (1 - 2 * label_smoothing)


def ipo(logratio_B: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """(logratio - 1/(2β))², (B,).  Azar et al. 2023, 2310.12036 eq. 17.

    ``logratio_B`` of per-token means, as the authors advise. Label smoothing: the target 1/(2β) is flipped with
    probability ε, whose expected square is given; its minimum is at (1-2ε)/(2β).
    """
    target = 1 / (2 * beta)
    return (1 - label_smoothing) * (logratio_B - target) ** 2 + label_smoothing * (logratio_B + target) ** 2


def hinge(logratio_P: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """max(0, 1 - β h), (P,): no gradient once the lead is 1/β nats.  Liu et al. 2023, 2309.06657 (RSO) eq. 10."""
    z_P = beta * logratio_P
    return (1 - label_smoothing) * F.relu(1 - z_P) + label_smoothing * F.relu(1 + z_P)


def slic(logprob_P: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """β max(0, δ - log π(chosen) + log π(rejected)) with δ = 1/β, (P,).  Zhao et al. 2023, 2305.10425 eq. 1.

    The paper adds λ times the cross-entropy of an answer to imitate, which ``lm_coefficient`` is.
    """
    return hinge(logprob_P, beta, label_smoothing)


def cpo(logprob_P: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """-log σ(β log π(chosen) - β log π(rejected)), (P,).  Xu et al. 2024, 2401.08417 eq. 4; eq. 5 adds the NLL."""
    return sigmoid_dpo(logprob_P, beta, label_smoothing)


def simpo(logprob_P: Tensor, beta: float, label_smoothing: Share = 0.0) -> Tensor:
    """-log σ(β/|chosen| log π(chosen) - β/|rejected| log π(rejected) - γ), (P,).  Meng et al. 2024, 2405.14734 eq. 6.

    ``logprob_P`` has the means over tokens. γ is the margin, so γ/β is subtracted already.
    """
    return sigmoid_dpo(logprob_P, beta, label_smoothing)


# -- losses of both sides ---------------------------------------------------------------------------


def apo_zero(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """-σ(β x_chosen) + σ(β x_rejected), plus 1, (P,): the chosen rises, the rejected falls.

    D'Oosterlinck et al. 2024, 2408.06266 eq. 7. For chosen answers that are better than the policy's own.
    """
    return torch.sigmoid(-beta * chosen_P) + torch.sigmoid(beta * rejected_P)


def apo_down(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """σ(β x_chosen) - σ(β (x_chosen - x_rejected)), plus 1, (P,): both fall, the rejected one further.

    D'Oosterlinck et al. 2024, 2408.06266 eq. 8. For chosen answers that are worse than the policy's own.
    """
    return torch.sigmoid(beta * chosen_P) + torch.sigmoid(-beta * (chosen_P - rejected_P))


def bco_pair(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """-log σ(β x_chosen) - log σ(-β x_rejected), (P,): each answer is classified by itself.

    Jung et al. 2024, 2404.04656 eq. 6 with the shift δ = 0, as TRL has it; ``bco`` estimates δ.
    """
    return -F.logsigmoid(beta * chosen_P) - F.logsigmoid(-beta * rejected_P)


NEARLY_SURE = -1e-6  # nats a token; odds grow without bound as an answer's probability nears 1


def orpo(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """-λ log σ(log odds(chosen)/odds(rejected)) with λ = β and odds = p/(1-p), (P,).

    Hong et al. 2024, 2403.07691 eq. 6 and 7, where p is the geometric mean of the tokens' probabilities: x is its log.
    The cross-entropy of the chosen answer belongs to this loss. A mean log-prob above ``NEARLY_SURE`` counts as that.
    """
    return -beta * F.logsigmoid(log_odds(chosen_P) - log_odds(rejected_P))


def log_odds(mean_B: Tensor) -> Tensor:
    """log(p/(1-p)) for p = e^mean, nats, (B,)."""
    mean_B = mean_B.clamp(max=NEARLY_SURE)
    return mean_B - torch.log(-torch.expm1(mean_B))


# -- losses of single answers that were rated good or bad -------------------------------------------


def kto(lead_B: Tensor, beta: float) -> Tensor:
    """1 - σ(β lead), (B,).  Ethayarajh et al. 2024, 2402.01306 eq. 8, with λ apart.

    ``lead_B`` is x - z0 of a good answer and z0 - x of a bad one; z0 is the estimate of KL(π‖π_ref), never below 0.
    """
    return torch.sigmoid(-beta * lead_B)


def bco(lead_B: Tensor, beta: float) -> Tensor:
    """-log σ(β lead), (B,).  Jung et al. 2024, 2404.04656 eq. 6; β times z0 is the reward shift δ of eq. 8."""
    return -F.logsigmoid(beta * lead_B)


# -- what is compared -------------------------------------------------------------------------------

_MOST = 80.0  # e^80 is the greatest power that stays finite in fp32 after it was multiplied by a small number


def _forward_kl(logratio_B: Tensor, alpha: float) -> Tensor:
    """f(u) = -log u + u - 1, so f'(u) = 1 - 1/u."""
    return 1 - torch.exp((-logratio_B).clamp(max=_MOST))


def _js(logratio_B: Tensor, alpha: float) -> Tensor:
    """f(u) = u log u - (u+1) log((u+1)/2), so f'(u) = log(2u/(u+1))."""
    return math.log(2) + F.logsigmoid(logratio_B)


def _alpha(logratio_B: Tensor, alpha: float) -> Tensor:
    """f'(u) = (u^(α-1) - 1)/(α-1): α → 1 is the reverse KL, and α = 0 the forward KL."""
    if abs(alpha - 1) < 1e-6:
        return logratio_B
    return (torch.exp(((alpha - 1) * logratio_B).clamp(max=_MOST)) - 1) / (alpha - 1)


# f'(u) of the log-ratio log u = log π/π_ref: what is compared where the policy is held near the reference by another
# f-divergence than the reverse KL.  Wang et al. 2023, 2309.16240 eq. 10.
F_DIVERGENCES: dict[FDivergenceName, Callable[[Tensor, float], Tensor]] = {
    "reverse_kl": lambda logratio_B, alpha: logratio_B,
    "forward_kl": _forward_kl,
    "js_divergence": _js,
    "alpha_divergence": _alpha,
}


# -- the table --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A loss of pairs. It has ``of``, if it is a function of the difference, or ``of_sides``."""

    of: Callable[[Tensor, float, Share], Tensor] | None = None  # (logratio_P, beta, label_smoothing) -> (P,)
    length_mean: bool = False  # True: log-ratios are means over response tokens, not sums
    needs_reference: bool = True  # False: "log-ratios" are the policy's own log-probs, no reference is asked
    of_sides: Callable[[Tensor, Tensor, float], Tensor] | None = None  # (chosen_P, rejected_P, beta) -> (P,)
    lm: float = 0.0  # weight of the chosen answers' cross-entropy a token, which belongs to the loss

    def __call__(
        self, chosen_P: Tensor, rejected_P: Tensor, beta: float, label_smoothing: Share = 0.0, margin: Share = 0.0
    ) -> Tensor:
        """The loss of each pair, (P,). A share ε of wrong labels gives (1-ε) of the loss and ε of the swapped pair's.

        ``margin``: reward units by which the chosen answer must lead; only for losses of a difference.
        """
        if self.of_sides is None:
            assert self.of is not None
            difference_P = chosen_P - rejected_P
            has_margin = isinstance(margin, Tensor) or margin != 0
            return self.of(difference_P - margin / beta if has_margin else difference_P, beta, label_smoothing)
        right_P = self.of_sides(chosen_P, rejected_P, beta)
        if not isinstance(label_smoothing, Tensor) and label_smoothing == 0:
            return right_P
        return (1 - label_smoothing) * right_P + label_smoothing * self.of_sides(rejected_P, chosen_P, beta)


@dataclass(frozen=True, slots=True)
class RatedLoss:
    """A loss of single answers, each rated good or bad."""

    of: Callable[[Tensor, float], Tensor]  # (lead_B, beta) -> (B,)
    # Where an answer leads from, estimated over the whole batch before the gradient: "kl" from answers to other
    # prompts, "mean" from the batch's own log-ratios, "none" is 0.
    anchor: Literal["kl", "mean", "none"]
    length_mean: bool = False
    needs_reference: bool = True


PREFERENCE_LOSSES: dict[PreferenceLossName, PreferenceLoss | RatedLoss] = {
    "sigmoid": PreferenceLoss(sigmoid_dpo, length_mean=False),
    "sigmoid_norm": PreferenceLoss(length_normalised_dpo, length_mean=True),
    "ipo": PreferenceLoss(ipo, length_mean=True),
    "robust": PreferenceLoss(robust_dpo, length_mean=False),
    "hinge": PreferenceLoss(hinge),
    "apo_zero": PreferenceLoss(of_sides=apo_zero),
    "apo_down": PreferenceLoss(of_sides=apo_down),
    "bco_pair": PreferenceLoss(of_sides=bco_pair),
    "simpo": PreferenceLoss(simpo, length_mean=True, needs_reference=False),
    "orpo": PreferenceLoss(of_sides=orpo, length_mean=True, needs_reference=False, lm=1.0),
    "cpo": PreferenceLoss(cpo, needs_reference=False, lm=1.0),
    "slic": PreferenceLoss(slic, needs_reference=False),
    "kto": RatedLoss(kto, anchor="kl"),
    "bco": RatedLoss(bco, anchor="mean"),
    "apo_zero_unpaired": RatedLoss(kto, anchor="none"),
}


def pair_loss(name: PreferenceLossName) -> PreferenceLoss:
    """The loss of pairs called ``name``."""
    loss = PREFERENCE_LOSSES[name]
    assert isinstance(loss, PreferenceLoss), f"{name} is a loss of single answers"
    return loss


def rated_loss(name: PreferenceLossName) -> RatedLoss:
    """The loss of rated answers called ``name``."""
    loss = PREFERENCE_LOSSES[name]
    assert isinstance(loss, RatedLoss), f"{name} is a loss of pairs"
    return loss
