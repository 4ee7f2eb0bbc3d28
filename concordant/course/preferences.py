"""Exercises 4 and 5: the log-probs of responses, and the DPO loss."""

from __future__ import annotations

from types import ModuleType

import torch

from concordant.core.seeding import torch_stream
from concordant.course.exercise import Exercise, Mistake, Observed


def observe_logprobs(module: ModuleType) -> Observed:
    stream = torch_stream(0, "course/logprobs")
    logits = 2 * torch.randn(2, 6, 5, generator=stream)
    ids = torch.tensor([[1, 2, 3, 4, 2, 1], [3, 1, 2, 0, 0, 0]])  # 0 is padding
    response = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]).bool()
    return {"the log-probs of two responses": module.compute_log_probs(logits, ids, response).tolist()}


LOGPROBS = Exercise(
    number=4,
    phase="Phase 4: DPO",
    name="dpo_logprobs",
    title="The log-probs of a response",
    hint="logits[:, :-1] predict ids[:, 1:]. gather(2, ids[:, 1:, None]) picks the log-prob of each token.",
    observe=observe_logprobs,
    mistakes=(
        Mistake(
            name="no shift",
            old="    logprob_BTV = logits_BTV[:, :-1].log_softmax(-1)\n"
            "    logprob_BT = logprob_BTV.gather(2, ids_BT[:, 1:, None]).squeeze(2)\n"
            "    return (logprob_BT * is_response_BT[:, 1:]).sum(1)",
            new="    logprob_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, :, None]).squeeze(2)\n"
            "    return (logprob_BT * is_response_BT).sum(1)",
            says="The logits at t are compared with the token at t. They predict the token at t + 1.",
        ),
        Mistake(
            name="the mask is not shifted",
            old="is_response_BT[:, 1:]",
            new="is_response_BT[:, :-1]",
            says="The mask is not shifted with the tokens: the first response token is left out, and the token after "
            "the response counts.",
        ),
        Mistake(
            name="the prompt counts",
            old="(logprob_BT * is_response_BT[:, 1:]).sum(1)",
            new="logprob_BT.sum(1)",
            says="The tokens of the prompt and the padding count too. Only the response tokens do.",
        ),
        Mistake(
            name="the mean and not the sum",
            old="(logprob_BT * is_response_BT[:, 1:]).sum(1)",
            new="(logprob_BT * is_response_BT[:, 1:]).sum(1) / is_response_BT.sum(1)",
            says="The log-prob is divided by the length. The probability of a response is the product over its tokens, "
            "so its logarithm is the sum.",
        ),
        Mistake(
            name="logits without softmax",
            old="logits_BTV[:, :-1].log_softmax(-1)",
            new="logits_BTV[:, :-1]",
            says="The raw logits are added. Without log_softmax they are no log-probs.",
        ),
    ),
)


def observe_dpo(module: ModuleType) -> Observed:
    stream = torch_stream(0, "course/dpo")
    numbers = [4 * torch.randn(3, generator=stream) - 10 for _ in range(4)]
    numbers[0].requires_grad_(True)
    loss = module.dpo_loss(*numbers, beta=0.3)
    loss.backward()
    same = torch.tensor([-5.0, -9.0])
    assert numbers[0].grad is not None
    return {
        "the loss of three pairs": float(loss.detach()),
        "the gradient of the chosen log-probs": numbers[0].grad.tolist(),
        "the loss where policy and reference are equal": float(module.dpo_loss(same, same - 1, same, same - 1)),
    }


DPO = Exercise(
    number=5,
    phase="Phase 4: DPO",
    name="dpo_loss",
    title="The DPO loss",
    hint="Where policy and reference are equal, both log-ratios are 0, and the loss is log 2 = 0.693.",
    observe=observe_dpo,
    mistakes=(
        Mistake(
            name="no reference",
            old="chosen_P = policy_chosen_P - reference_chosen_P\n"
            "    rejected_P = policy_rejected_P - reference_rejected_P",
            new="chosen_P = policy_chosen_P\n    rejected_P = policy_rejected_P",
            says="The reference is not subtracted, so a response that is likely anyway counts as preferred.",
        ),
        Mistake(
            name="beta is missing",
            old="beta * (chosen_P - rejected_P)",
            new="(chosen_P - rejected_P)",
            says="β does not act, so nothing says how far the policy may leave the reference.",
        ),
        Mistake(
            name="beta outside of the sigmoid",
            old="-F.logsigmoid(beta * (chosen_P - rejected_P)).mean()",
            new="-beta * F.logsigmoid(chosen_P - rejected_P).mean()",
            says="β multiplies the loss and stands outside of the sigmoid. There it only changes the learning rate.",
        ),
        Mistake(
            name="chosen and rejected are swapped",
            old="beta * (chosen_P - rejected_P)",
            new="beta * (rejected_P - chosen_P)",
            says="Chosen and rejected are swapped, so the policy learns the rejected answers.",
        ),
        Mistake(
            name="the ratio of the reference has the wrong sign",
            old="policy_rejected_P - reference_rejected_P",
            new="policy_rejected_P + reference_rejected_P",
            says="The reference's log-prob of the rejected response is added. A log-ratio is a difference.",
        ),
    ),
)
