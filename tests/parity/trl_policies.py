"""TRL's numbers of policy losses and group advantages: its GRPO and RLOO trainers on our case.

Only what is sampled is replaced: GRPO's by TRL's own hook ``rollout_func``, RLOO's in the place of its call of the
sampler. GRPO's log-probs of the old policy and of the reference are those of other variants of the model; RLOO computes
its own, of the variants that it is given. Rewards, advantages, masks and losses are TRL's.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer import rloo_trainer

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

    args = GRPOConfig(**_arguments(setting, scratch, common))
    return GRPOTrainer(model=case.language_model(), args=args, rollout_func=rollouts, **_given(setting))


def rloo(scratch: str, common: dict[str, Any]) -> dict[str, Figures]:
    """The sampler's log-probs and the KL from the reference are TRL's; then the trainer gets the policy's weights."""
    figures = {}
    for name, sampler in case.RLOO_SAMPLERS.items():
        args = RLOOConfig(beta=case.RLOO.beta, **_arguments(case.RLOO, scratch, common))
        # TRL would load the reference by the policy's name.
        rloo_trainer.create_model_from_path = lambda *name, **settings: case.language_model(case.REFERENCE)
        trainer = RLOOTrainer(model=case.language_model(sampler), args=args, **_given(case.RLOO))
        trainer._generate_single_turn = lambda *given: case.answers("short")
        rows = [{"prompt": case.text(case.pairs()[i // case.GROUP].prompt)} for i in range(len(case.SCORES))]
        trainer.model.train()
        batch = trainer._generate_and_score_completions(rows)
        trainer.accelerator.unwrap_model(trainer.model).load_state_dict(case.language_model().state_dict())
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        tokens = {"old_logprob": batch["old_logps"].tolist(), "advantage": batch["advantages"].tolist()}  # an answer
        gradient = case.gradient_of(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
        figures[name] = Figures(loss.item(), {}, gradient, tokens)
    return figures


def _arguments(setting: case.PolicySetting, scratch: str, common: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in common.items() if name != "max_length"},
        "per_device_train_batch_size": len(case.SCORES),
        "output_dir": scratch,
        "num_generations": case.GROUP,
        "max_completion_length": case.POLICY_LIMIT,
        "temperature": 1.0,
        **setting.trl,
    }


def _given(setting: case.PolicySetting) -> dict[str, Any]:
    def known(completions: list[str], **columns: Any) -> list[float | None]:
        return list(setting.scores)

    prompts = [{"prompt": case.text(p.prompt)} for p in case.pairs()]
    return {
        "reward_funcs": known,
        "train_dataset": Dataset.from_list(prompts),
        "processing_class": case.tokenizer(),
    }


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
