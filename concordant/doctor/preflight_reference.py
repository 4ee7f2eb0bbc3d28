"""Checks before the first step that the reference is the policy's start, where it should be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from concordant.algorithms.dpo import DPOObjective
from concordant.algorithms.kto import KTOObjective
from concordant.core.masked import sum_by_branch
from concordant.core.trees import PromptTree
from concordant.doctor.finding import Finding
from concordant.doctor.preflight_records import percent
from concordant.doctor.preflight_start import logprobs
from concordant.doctor.quantities import FREEZE_THE_START
from concordant.engines.protocol import Learner, Scorer

# Difference by rounding, in nats a token: in fp32, and in bf16, whose logits have only three digits.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def in_fp32(tolerance: float) -> str:
    """The end of a cure where rounding may be at fault; '' where ``tolerance`` is already that of fp32."""
    return "" if tolerance <= ROUNDING[torch.float32] else "; set --model.precision fp32 to rule out rounding"


def rounding(learner: Learner) -> float:
    """The largest difference of two passes over the same tokens that rounding explains, in nats a token."""
    return ROUNDING[learner.describe().precision]


def start_of_dpo(
    learner: Learner, trees: Sequence[PromptTree], objective: DPOObjective | KTOObjective
) -> list[Finding]:
    """Check DPO's start: policy and reference are equal, so every log-ratio is 0 and the sigmoid loss is ln 2."""
    length_B = torch.tensor([b.response_length for t in trees for b in t.branches])
    logratio_B = sum_by_branch(logprobs(learner, trees), length_B) - objective.reference_B
    off = float((logratio_B.abs() / length_B).max())
    metrics = learner.evaluate(trees, objective).result()
    loss, accuracy = metrics["loss"], metrics.get("rewards/accuracies", 0.5)
    slack = 1e-4 + objective.beta * rounding(learner) * float(length_B.max())  # effect of rounding on a margin
    is_ln2 = not _starts_at_ln2(objective) or abs(loss - math.log(2)) <= slack
    if off <= rounding(learner) and is_ln2:
        return []
    seen = (
        f"before the first step the {objective.loss} loss is {loss:.4f} (of sigmoid and robust ln 2 = 0.6931), reward "
        f"accuracy {percent(accuracy)}, and policy and reference differ by up to {off:.2g} nats a token"
    )
    if off <= rounding(learner):
        return [_reference_is_not_the_start(seen, off, f"the {objective.loss} loss itself: equal policies give ln 2")]
    return [_reference_is_not_the_start(seen, off)]


def _starts_at_ln2(objective: DPOObjective | KTOObjective) -> bool:
    """Whether equal policies give the loss ln 2: a logistic loss of the difference alone."""
    if isinstance(objective, KTOObjective) or objective.loss not in ("sigmoid", "sigmoid_norm", "robust"):
        return False
    has_margin = isinstance(objective.margin, torch.Tensor) or objective.margin > 0
    return not (objective.plus or objective.lm_coefficient or has_margin)


def start_kl(trees: Sequence[PromptTree], actor: Learner, reference: Scorer) -> list[Finding]:
    """Check PPO's start: the reference is the policy's start, so their KL is 0."""
    off = float((logprobs(actor, trees) - logprobs(reference, trees)).abs().max())
    if off <= rounding(actor):
        return []
    seen = f"before the first step policy and reference differ by up to {off:.2g} nats a token; expected 0"
    return [_reference_is_not_the_start(seen, off)]


def _reference_is_not_the_start(
    seen: str,
    off: float,
    cause: str = "another model stands as reference, its log-probs were computed for other tokens, or dropout was on",
) -> Finding:
    return Finding(
        "reference_not_start",
        "error",
        seen,
        cause,
        FREEZE_THE_START,
        numbers={"nats_per_token": off},
        weight=0.95,
    )
