"""A reward model that is an adapter and a head over the frozen base of a policy, so that the base is in memory once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from concordant.core.trees import TreeBatch
from concordant.engines.reward_model import RewardModel
from concordant.kernels.put_on import put_on_adapters
from concordant.models.load import Policy, define_end, load_tokenizer, take_template
from concordant.models.locate import locate
from concordant.models.lora import active_adapter
from concordant.models.same_base import add_reward_adapter


@dataclass(kw_only=True)
class AdapterRewardModel(RewardModel):
    """A causal reward model that only reads. ``model`` is the policy's own model, with its language-model head."""

    adapter: str  # its name on the policy's model
    head: nn.Linear  # H → K, without bias

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        """The final hidden states at ``at_N`` of the flattened rows, (N, H), with the reward model's adapter."""
        with active_adapter(self.model, self.adapter):
            return super().hidden_at(batch, at_N)

    @property
    def heads(self) -> int:
        return self.head.out_features

    def heads_of(self, last_BH: Tensor) -> Tensor:
        """As in a reward model of its own."""
        with torch.autocast(last_BH.device.type, enabled=False):
            return self.head(last_BH.float())


def adapter_reward_model(policy: Policy, name: str, trust_remote_code: bool = False) -> AdapterRewardModel:
    """The saved reward model ``name``, its adapter put on the model of ``policy``, which must stand on its device.

    The tokenizer is that of the reward model's base. A pad token that the reward model added has no row in the policy's
    embedding, so it is left out; no score depends on it.

    Raises:
        UserError: the reward model is not an adapter over the policy's base.
    """
    adapter, weight_KH, folder = add_reward_adapter(policy, name)
    put_on_adapters(policy.model)
    head = nn.Linear(weight_KH.shape[1], len(weight_KH), bias=False).requires_grad_(False)
    head.weight.copy_(weight_KH)
    return AdapterRewardModel(
        model=policy.model,
        tokenizer=_tokenizer(policy, folder, trust_remote_code),
        traits=policy.traits,
        is_encoder=False,
        name=str(folder),
        adapter=adapter,
        head=head.to(policy.model.device),
    )


def _tokenizer(policy: Policy, folder: Path, trust: bool) -> PreTrainedTokenizerBase:
    """The base's tokenizer with the chat template that lies beside the adapter."""
    base = policy.adapter_base
    tokenizer = load_tokenizer(locate(base), trust)
    define_end(policy.model, tokenizer, base)
    take_template(tokenizer, folder)
    return tokenizer
