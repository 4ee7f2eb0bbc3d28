"""TRL's numbers of policy losses and group advantages: its GRPO trainer on our case.

Only what is sampled is replaced, by TRL's own hook ``rollout_func``, and the log-probs of the old policy and of the
reference, which are those of other variants of the model. Rewards, advantages, masks and losses are TRL's.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from tests.parity import case
from tests.parity.figures import Figures


def policies(scratch: str, common: dict[str, Any]) -> dict[str, Figures]:
    return {f"policy/{name}": _one(setting, scratch, common) for name, setting in case.POLICIES.items()}


def _one(setting: case.PolicySetting, scratch: str, common: dict[str, Any]) -> Figures:
    trainer = _trainer(setting, scratch, common)
    rows = [{"prompt": case.text(case.pairs()[i // case.GROUP].prompt)} for i in range(len(case.SCORES))]
    trainer.model.train()
    batch = trainer._generate_and_score_completions(rows)
    mask = batch["completion_mask"].bool()
    whole = batch | {"completion_mask": _written(batch["completion_ids"])}
    old = _logprobs(case.language_model(case.OLD), whole)
    reference = _logprobs(case.language_model(case.REFERENCE), whole)
    trainer.beta = setting.beta
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, batch | {"old_per_token_logps": old, "ref_per_token_logps": reference})
    loss.backward()
    written = whole["completion_mask"].bool()
    tokens = {
        "old_logprob": old[written].tolist(),
        "reference_logprob": reference[written].tolist(),
        "advantage": batch["advantages"].tolist(),  # one for each answer
        "is_learnt": mask.any(1).float().tolist(),
    }
    gradient = case.gradient_of(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    return Figures(loss.item(), {}, gradient, tokens)


def _trainer(setting: case.PolicySetting, scratch: str, common: dict[str, Any]) -> GRPOTrainer:
    def rollouts(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        answers = case.answers("short")
        ids = [case.pairs()[i // case.GROUP].prompt for i in range(len(answers))]
        return {"prompt_ids": ids, "completion_ids": answers, "logprobs": None}

    def known(completions: list[str], **columns: Any) -> list[float | None]:
        return list(setting.scores)

    arguments = common | {"per_device_train_batch_size": len(case.SCORES)}
    args = GRPOConfig(
        output_dir=scratch,
        num_generations=case.GROUP,
        max_completion_length=case.POLICY_LIMIT,
        temperature=1.0,
        **setting.trl,
        **{name: value for name, value in arguments.items() if name != "max_length"},
    )
    prompts = [{"prompt": case.text(p.prompt)} for p in case.pairs()]
    return GRPOTrainer(
        model=case.language_model(),
        reward_funcs=known,
        args=args,
        train_dataset=Dataset.from_list(prompts),
        processing_class=case.tokenizer(),
        rollout_func=rollouts,
    )


def _written(ids: Tensor) -> Tensor:
    """1 where an answer has a token, also in answers that TRL masks as a whole."""
    lengths = torch.tensor([len(answer) for answer in case.answers("short")])
    return (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()


@torch.no_grad()
def _logprobs(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    kept = batch["completion_ids"].shape[1]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -kept - 1 : -1]
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None]).squeeze(-1)
