"""TRL's numbers of distillation: the loss of its GKD trainer on the logits of our case's two models."""

from __future__ import annotations

import torch
from torch import Tensor
from trl.experimental.gkd import GKDTrainer

from tests.parity import case
from tests.parity.figures import Figures


def distill() -> dict[str, Figures]:
    figures = {}
    for name, setting in case.DISTILL.items():
        student, teacher = case.language_model(), case.language_model(case.REFERENCE)
        rows = [(p.prompt, answer) for p in case.pairs() for answer in (p.chosen, p.rejected)]
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids, labels = torch.zeros(2, len(rows), longest, dtype=torch.int64)
        labels.fill_(-100)
        for i, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[i, :end] = labels[i, :end] = torch.tensor(prompt + answer)
            labels[i, : len(prompt)] = -100
        mask = torch.arange(longest) < torch.tensor([[len(p) + len(a)] for p, a in rows])

        def logits(model: torch.nn.Module, ids: Tensor = ids, mask: Tensor = mask) -> Tensor:
            return model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]

        with torch.no_grad():
            of_teacher = logits(teacher)
        loss = GKDTrainer.generalized_jsd_loss(
            logits(student), of_teacher, labels[:, 1:], beta=setting.trl_beta, temperature=setting.temperature
        )
        loss.backward()
        figures[name] = Figures(loss.item(), {}, case.gradient_of(student.named_parameters()))
    return figures
