"""Exercises 2 and 3: the reward head and the Bradley–Terry loss."""

from __future__ import annotations

from types import ModuleType

import torch

from concordant.core.seeding import torch_stream
from concordant.course.exercise import Exercise, Mistake, Observed


def observe_head(module: ModuleType) -> Observed:
    stream = torch_stream(0, "course/head")
    head = module.RewardHead(4)
    seen: Observed = {"the parameters": sorted((n, list(p.shape)) for n, p in head.named_parameters())}
    for weight in head.parameters():
        weight.data = torch.randn(weight.shape, generator=stream)
    hidden = torch.randn(3, 5, 4, generator=stream)
    right = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    seen["scores with padding on the right"] = head(hidden, right).tolist()
    seen["scores with padding on the left"] = head(hidden, right.flip(1)).tolist()
    return seen


HEAD = Exercise(
    number=2,
    phase="Phase 3: reward model",
    name="reward_head",
    title="The reward head",
    hint="Multiply the mask by 0 … T-1: the largest product of a row stands at its last token.",
    observe=observe_head,
    mistakes=(
        Mistake(
            name="the last position",
            old="(is_token_BT * positions_T).argmax(dim=1)",
            new="torch.full((len(hidden_BTH),), hidden_BTH.shape[1] - 1)",
            says="The score is read at the last position of the row. With padding on the right it is a padding token.",
        ),
        Mistake(
            name="the number of tokens",
            old="(is_token_BT * positions_T).argmax(dim=1)",
            new="is_token_BT.sum(1) - 1",
            says="The last token is taken to be at the number of tokens less 1. With padding on the left it is not.",
        ),
        Mistake(
            name="the first token",
            old="(is_token_BT * positions_T).argmax(dim=1)",
            new="is_token_BT.long().argmax(dim=1)",
            says="The score is read at the first token, which has seen nothing of the answer.",
        ),
        Mistake(
            name="the mean of all positions",
            old="hidden_BTH[torch.arange(len(hidden_BTH)), last_B]",
            new="hidden_BTH.mean(1)",
            says="The score is read from the mean of all positions, padding included, so it depends on the padding.",
        ),
        Mistake(
            name="a bias",
            old="nn.Linear(hidden_size, 1, bias=False)",
            new="nn.Linear(hidden_size, 1)",
            says="The head has a bias. The loss sees differences of scores alone, so a bias is never learnt.",
        ),
    ),
)


def observe_loss(module: ModuleType) -> Observed:
    chosen = torch.tensor([2.0, 1.5, -0.3, 0.7], requires_grad=True)
    rejected = torch.tensor([0.5, 0.3, 0.4, 0.7])
    loss, accuracy = module.compute_preference_loss(chosen, rejected)
    loss.backward()
    far, _ = module.compute_preference_loss(torch.tensor([-200.0]), torch.tensor([200.0]))
    assert chosen.grad is not None
    return {
        "the loss of four pairs": float(loss.detach()),
        "the gradient of the chosen scores": chosen.grad.tolist(),
        "the accuracy, with one wrong and one equal pair": float(accuracy),
        "the loss of the scores -200 and 200": float(far),
    }


LOSS = Exercise(
    number=3,
    phase="Phase 3: reward model",
    name="bradley_terry",
    title="The Bradley–Terry loss",
    hint="torch.nn.functional.logsigmoid is exact where the logarithm of the sigmoid would be -inf.",
    observe=observe_loss,
    mistakes=(
        Mistake(
            name="the sign",
            old="-F.logsigmoid(chosen_P - rejected_P)",
            new="F.logsigmoid(chosen_P - rejected_P)",
            says="The sign of the loss is missing, so that training makes the rejected answer better.",
        ),
        Mistake(
            name="chosen and rejected are swapped",
            old="-F.logsigmoid(chosen_P - rejected_P)",
            new="-F.logsigmoid(rejected_P - chosen_P)",
            says="Chosen and rejected are swapped in the loss, so that the model learns to prefer the rejected answer.",
        ),
        Mistake(
            name="log of sigmoid",
            old="-F.logsigmoid(chosen_P - rejected_P)",
            new="-(chosen_P - rejected_P).sigmoid().log()",
            says="log(sigmoid(x)) is -inf for a very wrong pair. logsigmoid(x) is finite.",
        ),
        Mistake(
            name="the sum and not the mean",
            old="(chosen_P - rejected_P).mean()",
            new="(chosen_P - rejected_P).sum()",
            says="The losses are added and not averaged, so the size of the gradient depends on the batch.",
        ),
        Mistake(
            name="no logarithm",
            old="-F.logsigmoid(chosen_P - rejected_P)",
            new="-(chosen_P - rejected_P).sigmoid()",
            says="The logarithm is missing, so a very wrong pair has almost no gradient.",
        ),
        Mistake(
            name="an equal pair counts as wrong",
            old="right + 0.5 * equal",
            new="right",
            says="A pair with equal scores counts 0 for the accuracy. A model that gives every text one score would "
            "have the accuracy 0; it knows nothing, and 0.5 says so.",
        ),
        Mistake(
            name="an equal pair counts as right",
            old="right + 0.5 * equal",
            new="right + equal",
            says="A pair with equal scores counts 1 for the accuracy. A model that gives every text one score would be "
            "called perfect.",
        ),
    ),
)
