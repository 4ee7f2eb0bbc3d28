"""What a server has opened: a policy with adapters under the names of models, and reward models."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from concordant.config.serving import ServeConfig
from concordant.config.specs import named
from concordant.core.ensembles import disagreement, mean
from concordant.core.errors import UserError
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message
from concordant.data.stop_strings import before_stop
from concordant.data.template import prints_today, set_arguments
from concordant.data.tokens import ids_of, text_of
from concordant.engines import roles
from concordant.engines.reward_model import Dialogue, RewardModel
from concordant.engines.samples import Batch
from concordant.models.backbone import positions
from concordant.models.card import short
from concordant.models.load import Policy
from concordant.models.locate import locate
from concordant.models.lora import adapter_names
from concordant.models.peft_base import replaced_weights
from concordant.models.peft_files import load_adapter


@dataclass(frozen=True, slots=True)
class Score:
    """A reward model's score of one text; of several models their mean."""

    score: float
    members: list[float]
    disagreement: float  # standard deviation over the members; 0 for one model


class Served:
    """A policy with its adapters. Encoding is done by one thread at a time, because a tokenizer keeps settings."""

    def __init__(self, config: ServeConfig, policy: Policy, adapters: dict[str, str | None]) -> None:
        self.config, self.policy = config, policy
        self.adapters = adapters  # by the name of the model that requests ask for
        self.encoder = ChatEncoder(policy.tokenizer)
        self.tokenizer = policy.tokenizer
        self.context = min(config.context, positions(policy.model))
        self.vocabulary = cast(torch.nn.Embedding, policy.model.get_input_embeddings()).num_embeddings
        self._encoding = threading.Lock()
        self._shown: dict[int, str] = {}

    @property
    def models(self) -> list[str]:
        return list(self.adapters)

    def batch(self) -> Batch:
        """An empty batch of the size that the config asks for."""
        names = adapter_names(self.policy.model)
        several = names if len(self.adapters) > 1 else ()
        ends = self.encoder.end_ids
        return roles.running_batch(self.policy, ends, self.config.model, self.config.slots, self.context, several)

    def dialogue(self, messages: Sequence[Message]) -> torch.Tensor:
        """The ids of a dialogue with the assistant's turn opened. Raises UserError if the template refuses it."""
        with self._encoding:
            return self.encoder.prompts([messages])[0]

    def plain(self, text: str) -> torch.Tensor:
        """The ids of a plain text, with the tokens that the tokenizer puts around a text, but without an end."""
        with self._encoding:
            (ids,) = ids_of(self.tokenizer, [text], special=True)
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.token(ids[-1])):
            ids = ids[:-1]
        return torch.tensor(ids, dtype=torch.int64)

    def spoken(self, ids: Sequence[int], stops: Sequence[str], begun: bool) -> str:
        """The text of an answer in a dialogue."""
        return self.encoder.text(ids, stops, begun)

    def continued(self, ids: Sequence[int], stops: Sequence[str], begun: bool) -> str:
        """The text that continues a plain text. White space stays."""
        if ids and ids[-1] in self.encoder.end_ids:
            ids = ids[:-1]
        whole, rest = before_stop(self.tokenizer, ids, stops, begun)
        return text_of(self.tokenizer, whole, skip_special_tokens=True) + rest

    def token(self, number: int) -> str:
        """The text of one token."""
        if number not in self._shown:
            self._shown[number] = text_of(self.tokenizer, [number])
        return self._shown[number]


class Scorers:
    """The reward models of a server, used by one thread at a time."""

    def __init__(self, models: Sequence[RewardModel]) -> None:
        self.models = models
        self._scoring = threading.Lock()

    def score(self, texts: Sequence[str | Dialogue]) -> list[Score]:
        """The score of each text or dialogue. Raises UserError if one of them cannot be scored."""
        with self._scoring:
            score_KB = torch.cat([model.by_head(texts).T for model in self.models]).double()
        means, spread = mean(score_KB, 0.0).tolist(), disagreement(score_KB).tolist()
        columns = score_KB.T.tolist()
        return [Score(*row) for row in zip(means, columns, spread, strict=True)]


def open_served(config: ServeConfig) -> Served:
    """Open the policy and its adapters.

    Raises:
        UserError: two models have one name; an adapter belongs to another base, or brings weights that would change the
            other models.
    """
    policy = roles.open_policy(config.model, [])
    if prints_today(policy.tokenizer):  # a server is no run to repeat: here a template's today is today
        set_arguments(policy.tokenizer, [f"date={datetime.date.today()}"])
    own = "default" if adapter_names(policy.model) else None
    served: dict[str, str | None] = {config.name or short(config.model.name): own}
    for i, (name, folder) in enumerate(named(config.adapters).items()):
        if name in served:
            raise UserError(f'--adapters: "{name}" is the name of the model itself; give another, or set --name')
        found = locate(folder)
        if not isinstance(found, Path):
            raise UserError(f"--adapters {name}={folder}: no such folder")
        if replaced_weights(policy.model):
            raise UserError("--adapters: the first adapter brought an embedding or an output layer; serve it alone")
        inside = f"served-{i}"
        if load_adapter(policy.model, found, inside, trainable=False):
            raise UserError(f"--adapters {name}={folder} is the adapter of a reward model; expected a policy's")
        if replaced_weights(policy.model):
            raise UserError(
                f"--adapters {name}={folder} brings an embedding or an output layer, which would change the other "
                "models; merge the adapter by `concordant merge`, and serve the merged model alone"
            )
        served[name] = inside
    return Served(config, policy, served)


def open_scorers(config: ServeConfig) -> Scorers | None:
    """Open the reward models; None if the config names none."""
    models = [roles.open_reward_model(name, config.model) for name in config.reward]
    return Scorers(models) if models else None
