"""Critics: where they start, what of the policy or the reward model they take, and what they leave alone."""

from __future__ import annotations

import pytest
import torch

from concordant.core.trees import lay_out
from concordant.engines.reward_model import RewardModel
from concordant.models.lora import adapter_names, apply_lora_to_model, copy_adapter
from concordant.models.scalar_head import VALUE_HEADS, build_critic
from tests.models import zoo


@pytest.mark.parametrize("kind", VALUE_HEADS)
def test_a_critic_starts_at_zero_and_shares_nothing(kind: str) -> None:
    policy = zoo.policy("OPT")
    critic = build_critic(policy, kind)
    batch = lay_out(zoo.trees(), critic.layout)
    hidden = critic.backbone(batch.ids_RL).last_hidden_state
    assert torch.equal(critic.head(hidden), torch.zeros(*batch.ids_RL.shape, 1))
    ours = {p.data_ptr() for p in critic.backbone.parameters()}
    assert not ours & {p.data_ptr() for p in policy.model.parameters()}
    assert all(p.requires_grad for p in critic.backbone.parameters())


def test_a_critic_from_a_frozen_reward_model_trains() -> None:
    made = RewardModel.from_backbone(zoo.policy("Llama"))
    made.model.requires_grad_(False)
    critic = build_critic(made)
    assert all(p.requires_grad for p in (*critic.backbone.parameters(), *critic.head.parameters()))
    assert not any(p.requires_grad for p in made.model.parameters())


def test_a_critic_takes_the_active_adapter_and_not_the_references() -> None:
    policy = zoo.policy("Llama")
    apply_lora_to_model(policy.model, r=2)
    copy_adapter(policy.model, "default", "reference")
    body = build_critic(policy).backbone
    assert adapter_names(body) == ["default"] and adapter_names(policy.model) == ["default", "reference"]
    assert all(p.requires_grad == ("lora_" in name) for name, p in body.named_parameters())
