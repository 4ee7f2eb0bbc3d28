"""The networks that a learner trains: a model with its heads, behind one call that takes a ``TreeBatch``."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.core import kl, logprobs
from concordant.core.objective import BranchOutputs, Outputs
from concordant.core.trees import ROW_TOKENS, Layout, PromptTree, TreeBatch, micro_batches
from concordant.engines.reward_model import RewardModel
from concordant.engines.tensor.layers import logits_in_parts
from concordant.engines.tensor.vocabulary import PartOfDistribution
from concordant.kernels.reader import reader_of
from concordant.models import peft_files
from concordant.models.head import lm_logits
from concordant.models.load import Policy, save_policy, save_policy_adapter
from concordant.models.lora import active_adapter, adapter_names, copy_adapter
from concordant.models.reward_heads import heads_of
from concordant.models.scalar_head import Critic
from concordant.models.tree_attention import Reader

COMPUTES_ON = "concordant_computes_on"  # attribute of a model whose weights may wait elsewhere: the device of its work
REFERENCE = "reference"  # name of the adapter that keeps the policy's start, on the backbone that both share


def computing_device(model: nn.Module) -> torch.device:
    """The device on which ``model`` computes. Its weights may wait in the processor's memory until then."""
    return vars(model).get(COMPUTES_ON) or next(model.parameters()).device


class Network(nn.Module, ABC):
    """A policy, a critic or a reward model."""

    layout: Layout
    own_adapter = ""  # the network's adapter, where networks share a backbone; "": no other network has one there

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As PyTorch's, without the adapters that other networks have on the same backbone.

        So no learner trains, measures or writes the adapter of another. The network's own adapter is called ``default``
        here, as on a backbone of its own, so a checkpoint does not depend on whether the backbone is shared.
        """
        own, usual = f".adapters.{self.own_adapter}.", ".adapters.default."
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if not self.own_adapter or ".adapters." not in name or own in name:
                yield name.replace(own, usual), parameter

    @property
    def device(self) -> torch.device:
        return computing_device(self.body or self)

    @property
    def body(self) -> PreTrainedModel | None:
        """The model that reads trees, or None if the network has no transformers model."""
        return None

    @property
    def reader(self) -> Reader:
        """The reader of trees, which depends on the kernels that were put on the model."""
        if self.body is None:
            raise TypeError(f"{type(self).__name__} has no transformers model to read trees")
        return reader_of(self.body, self.layout)

    def batches(self, trees: Sequence[PromptTree], max_tokens: int, row_tokens: int = ROW_TOKENS) -> list[TreeBatch]:
        """Split ``trees`` into batches of at most ``max_tokens``, padding included; a batch has at least one tree."""
        if self.body is None:
            return micro_batches(trees, self.layout, max_tokens, row_tokens)
        return self.reader.batches(trees, max_tokens, row_tokens)

    @property
    def sampled(self) -> nn.Module:
        """The model a generator samples from."""
        raise TypeError(f"{type(self).__name__} generates nothing")

    @abstractmethod
    def forward(
        self, batch: TreeBatch, want: Outputs, temperature: float = 1.0, reference: Network | None = None
    ) -> BranchOutputs: ...

    def carry(self, batch: TreeBatch, want: Outputs, reference: Network | None = None) -> Tensor:
        """The passes of ``forward`` on a stage of a pipeline that has no head.

        The result has no meaning, but its backward pass is the stage's.
        """
        return self.reader.hidden_at(batch, batch.source_N)

    def frozen(self) -> Network:
        """A copy of the network as it is now, which never changes."""
        return copy.deepcopy(self).requires_grad_(False)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} has no folder layout of its own")

    @property
    def adapter_base(self) -> str:
        """The folder or hub id of the base under the trained adapter; "" without an adapter or such a base."""
        return ""

    def save_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the trained adapter in PEFT's layout. Without a card: only its weights and its config."""
        raise TypeError(f"{type(self).__name__} has no adapter of its own")


class PolicyNetwork(Network):
    """A causal language model. ``adapter`` is the name of the LoRA adapter to use; None uses the base alone."""

    def __init__(self, policy: Policy, adapter: str | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.model = policy.model
        self.layout = policy.traits.layout
        self.adapter = adapter
        self.has_adapters = bool(adapter_names(policy.model))
        self.own_adapter = (adapter or "default") if self.has_adapters else ""

    def forward(
        self, batch: TreeBatch, want: Outputs, temperature: float = 1.0, reference: Network | None = None
    ) -> BranchOutputs:
        other, parts = None, PartOfDistribution.of(self.model, self.policy.traits.head)
        if want.compares:
            assert isinstance(reference, PolicyNetwork)
            theirs = PartOfDistribution.of(reference.model, reference.policy.traits.head)
            if theirs is None or reference.vocabulary != self.vocabulary:
                parts = None
            with torch.no_grad():
                other = (reference.predicting(batch), partial(reference.logits, in_parts=parts is not None))
        return logprobs.of_tokens(
            self.predicting(batch),
            batch.target_N,
            partial(self.logits, in_parts=parts is not None),
            self.vocabulary,
            want,
            temperature,
            other,
            parts.distribution if parts else self.reader.distribution,
            parts.exact_kl if parts else kl.exact,
            parts.cut.axis if parts else None,
        )

    def carry(self, batch: TreeBatch, want: Outputs, reference: Network | None = None) -> Tensor:
        if want.compares:
            assert isinstance(reference, PolicyNetwork)
            with torch.no_grad():
                reference.predicting(batch)
        return self.predicting(batch)

    def predicting(self, batch: TreeBatch) -> Tensor:
        """Hidden states that predict the response tokens, (N, H)."""
        if not self.has_adapters:
            return self.reader.hidden_at(batch, batch.source_N)
        with active_adapter(self.model, self.own_adapter):
            return self.reader.hidden_at(batch, batch.source_N)

    def logits(self, hidden_CH: Tensor, in_parts: bool = False) -> Tensor:
        """Next-token logits (C, V), or this process's part of the vocabulary."""
        with logits_in_parts() if in_parts else nullcontext():
            return lm_logits(self.model, hidden_CH, self.policy.traits.head)

    @property
    def body(self) -> PreTrainedModel:
        return self.model

    @property
    def sampled(self) -> nn.Module:
        return self.model

    @property
    def vocabulary(self) -> int:
        return self.model.config.get_text_config().vocab_size

    def frozen(self) -> Network:
        """With LoRA the copy shares the backbone: only the adapter is copied, and no second model is needed."""
        if not self.has_adapters:
            return super().frozen()
        copy_adapter(self.model, "default", REFERENCE)
        return PolicyNetwork(self.policy, REFERENCE)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        save_policy(self.policy, folder, dict(card))

    @property
    def adapter_base(self) -> str:
        return self.policy.adapter_base

    def save_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        if card is None:
            peft_files.save_adapter(self.model, folder, self.adapter_base)
        else:
            save_policy_adapter(self.policy, folder, card)


class CriticNetwork(Network):
    """A backbone and a head that predicts, before every response token, the reward still to come.

    The backbone is the critic's own, or a policy's on which the critic has an adapter.
    """

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.own_adapter = critic.adapter
        self.backbone, self.head, self.layout = critic.backbone, critic.head, critic.layout

    @property
    def body(self) -> PreTrainedModel:
        return self.backbone

    def forward(
        self, batch: TreeBatch, want: Outputs, temperature: float = 1.0, reference: Network | None = None
    ) -> BranchOutputs:
        with active_adapter(self.backbone, self.own_adapter) if self.own_adapter else nullcontext():
            hidden_NH = self.reader.hidden_at(batch, batch.source_N)
        return BranchOutputs(value_N=self.head(hidden_NH).squeeze(-1).float())


class RewardNetwork(Network):
    """A reward model. If it was built with ``keep_lm_head``, it also gives log-probs, for a language-model loss."""

    def __init__(self, reward_model: RewardModel) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.model = reward_model.model
        self.layout = reward_model.layout

    @property
    def body(self) -> PreTrainedModel:
        return self.model

    def forward(
        self, batch: TreeBatch, want: Outputs, temperature: float = 1.0, reference: Network | None = None
    ) -> BranchOutputs:
        if not want.logprob:
            return _scored(BranchOutputs(), self.reward_model.head_scores(batch), want)
        at = torch.cat([batch.source_N, batch.last_B])
        predicting_NH, last_BH = self.reward_model.hidden_at(batch, at).split([len(batch.source_N), batch.branches])
        parts = PartOfDistribution.of(self.model, self.reward_model.traits.head)
        vocabulary = self.model.config.get_text_config().vocab_size
        distribution = parts.distribution if parts else self.reader.distribution

        def head(hidden_CH: Tensor) -> Tensor:
            with logits_in_parts() if parts else nullcontext():
                return self.reward_model.lm_logits(hidden_CH)

        out = logprobs.of_tokens(
            predicting_NH, batch.target_N, head, vocabulary, want, temperature, distribution=distribution
        )
        return _scored(out, self.reward_model.heads_of(last_BH), want)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        self.reward_model.save(folder, card)

    @property
    def adapter_base(self) -> str:
        return self.reward_model.adapter_base

    def save_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        if card is None:
            head, heads = peft_files.head_of(self.model), heads_of(self.model)
            if heads is not None:
                head |= heads.mean
                folder.mkdir(parents=True, exist_ok=True)
                heads.write(folder)
            peft_files.save_adapter(self.model, folder, self.adapter_base, "SEQ_CLS", head=head)
        else:
            self.reward_model.save_adapter(folder, card)


def _scored(out: BranchOutputs, head_BK: Tensor, want: Outputs) -> BranchOutputs:
    """``out`` with the score of every branch, and with the score of every head if it is wanted."""
    out.score_B = head_BK.mean(1)
    out.head_BK = head_BK if want.heads else None
    return out
