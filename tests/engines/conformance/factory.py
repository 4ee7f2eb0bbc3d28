"""What the conformance suite asks of an engine: to make its learners and generators, and to be looked into.

A new engine writes one factory and adds one line to ``ENGINES``, or to ``GENERATORS`` where it learns nothing; every
test of this folder then runs on it too.
"""

from __future__ import annotations

import atexit
import copy
import pickle
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from concordant.config.train import TrainConfig
from concordant.core.trees import Layout
from concordant.engines.group.handles import GroupGenerator, GroupLearner, GroupScorer
from concordant.engines.group.orders import Order
from concordant.engines.group.torch_team import start_here
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, PolicyNetwork, RewardNetwork
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.local.weights import LocalWeights
from concordant.engines.protocol import Generator, Learner, Scorer
from concordant.engines.ranks import Alone, among
from concordant.engines.reward_model import RewardModel
from concordant.engines.vllm.engine import VllmSettings
from concordant.engines.vllm.generator import VllmGenerator
from concordant.engines.vllm.weights import write_config
from concordant.models.backbone import positions
from concordant.models.load import Policy
from concordant.models.scalar_head import build_critic
from concordant.models.traits import ModelTraits
from tests.engines.tiny import tiny_policy


class EngineFactory(Protocol):
    head_size: int  # of the models that its generators are given
    # Models of ``test_generator.MODELS``, forms of weights and options that its generators lack, each with the reason.
    lacks: Mapping[str, str]
    rounds_more: Mapping[str, float]  # by model: nats that log-probs may be apart from plain ones, where over 1e-4

    def policy(
        self,
        policy: Policy | None = None,
        train: TrainConfig | None = None,
        layout: Layout = Layout.TREE,
        precision: torch.dtype | None = None,
        temperature: float = 1.0,
    ) -> Learner:
        """A learner of ``policy``, of the tiny one where none is given."""
        ...

    def scorer(self, policy: Policy) -> Scorer: ...

    def critic(self, train: TrainConfig | None = None, layout: Layout = Layout.TREE) -> Learner:
        """Of the tiny policy, its head's weights random and the same at every call."""
        ...

    def reward(self, train: TrainConfig | None = None, layout: Layout = Layout.TREE) -> Learner:
        """Of the tiny policy, with its language-model head."""
        ...

    def reward_scorer(self, model: RewardModel, precision: torch.dtype | None = None) -> Scorer: ...

    def generator(
        self, model: PreTrainedModel, end_ids: Any, precision: torch.dtype | None = None, tokenizer: Any = None
    ) -> Generator: ...

    def gradient(self, learner: Learner) -> Tensor:
        """All that has been gathered, in one vector."""
        ...

    def poison(self, learner: Learner) -> None:
        """Put a NaN into the gradient."""
        ...

    def weights(self, learner: Learner) -> dict[str, Tensor]:
        """A copy of the trained weights."""
        ...

    def zero(self, learner: Learner) -> None:
        """Set every weight to 0."""
        ...


class LocalFactory:
    head_size, lacks, rounds_more = 8, dict[str, str](), dict[str, float]()

    def policy(self, policy=None, train=None, layout=Layout.TREE, precision=None, temperature=1.0):
        policy = policy or tiny_policy()
        policy.traits = ModelTraits(layout)
        return LocalLearner(PolicyNetwork(policy), train or TrainConfig(), precision, temperature)

    def scorer(self, policy):
        return LocalScorer(PolicyNetwork(policy))

    def critic(self, train=None, layout=Layout.TREE):
        policy = tiny_policy()
        policy.traits = ModelTraits(layout)
        critic = build_critic(policy)
        torch.manual_seed(1)
        torch.nn.init.normal_(critic.head.output.weight)
        return LocalLearner(CriticNetwork(critic), train or TrainConfig())

    def reward(self, train=None, layout=Layout.TREE):
        model = RewardModel.from_backbone(tiny_policy(), keep_lm_head=True)
        model.traits = ModelTraits(layout)
        return LocalLearner(RewardNetwork(model), train or TrainConfig())

    def reward_scorer(self, model, precision=None):
        return LocalScorer(RewardNetwork(model), precision=precision)

    def generator(self, model, end_ids, precision=None, tokenizer=None):
        return LocalGenerator(model, end_ids, precision=precision, tokenizer=tokenizer)

    def gradient(self, learner):
        gradients = [p.grad for p in learner.network.parameters() if p.requires_grad and p.grad is not None]
        return torch.cat([whole(gradient).flatten() for gradient in gradients])

    def poison(self, learner):
        learner.parameters[0].grad[0, 0] = float("nan")

    def weights(self, learner):
        return {name: whole(p) for name, p in learner.network.named_parameters() if p.requires_grad}

    def zero(self, learner):
        with torch.no_grad():
            for p in learner.network.parameters():
                p.zero_()


def whole(tensor):
    """A copy of all elements of a tensor, also of one whose parts are on several ranks."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach().clone()


class ShardsFactory(LocalFactory):
    """One process that splits every batch into three shards."""

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        return in_shards(found) if name in MAKERS else found


def in_shards(make):
    def call(*args, **kwargs):
        with among(Alone(shards=3)):
            return make(*args, **kwargs)

    return call


MAKERS = ("policy", "scorer", "critic", "reward", "reward_scorer", "generator")  # the methods that make an engine


class TwoProcessesFactory:
    """This process and a helper, which compute two shards each of every batch."""

    head_size, lacks, rounds_more = LocalFactory.head_size, LocalFactory.lacks, LocalFactory.rounds_more
    together = {"shards": 4}

    def policy(self, *args, **kwargs):
        return self.made(GroupLearner, "policy", args, kwargs)

    def critic(self, *args, **kwargs):
        return self.made(GroupLearner, "critic", args, kwargs)

    def reward(self, *args, **kwargs):
        return self.made(GroupLearner, "reward", args, kwargs)

    def scorer(self, *args, **kwargs):
        return self.made(GroupScorer, "scorer", args, kwargs)

    def reward_scorer(self, *args, **kwargs):
        return self.made(GroupScorer, "reward_scorer", args, kwargs)

    def generator(self, *args, **kwargs):
        return self.made(GroupGenerator, "generator", args, kwargs)

    @cached_property
    def team(self):
        team = start_here(2, timedelta(seconds=60))
        atexit.register(team.close)
        team.begin(threads=1, **self.together)
        return team

    def made(self, handle, method, args, kwargs):
        try:
            return handle(self.team, self.team.make(f"{__name__}:here", method, *args, **kwargs))
        except pickle.PicklingError as problem:
            pytest.skip(f"a test's own class cannot be sent, and ranks open models themselves: {problem}")

    def on_every_rank(self, method, learner):
        """What the local factory's ``method`` does with the learner of every rank; returns this rank's result."""
        return self.team.order(Order(verb=f"{__name__}:here", arguments=[method, learner.ref])).result()

    def gradient(self, learner):
        return self.on_every_rank("gradient", learner)

    def poison(self, learner):
        self.on_every_rank("poison", learner)

    def weights(self, learner):
        return self.on_every_rank("weights", learner)

    def zero(self, learner):
        self.on_every_rank("zero", learner)


class ShardedFactory(TwoProcessesFactory):
    """This process and a helper, each of which holds half of the weights of a learner."""

    together = {"shards": 0, "sharded": True}


def here(method, *args, **kwargs):
    """What the local factory makes, as a function that every rank can find by name."""
    return getattr(LocalFactory(), method)(*args, **kwargs)


class VllmFactory(LocalFactory):
    """vLLM's generator; the learners are the local ones.

    An engine takes seconds to start. So models of one configuration share an engine and send it their weights.
    """

    head_size = 32
    rounds_more = {"bloom": 5e-3}
    lacks = {
        "mamba": "vLLM's build for CPUs has no code for models without attention heads",
        "apart": "vLLM's copy of a model takes merged weights",
        "min_p after top_p": "vLLM applies min_p first, so the two together are refused",
    }

    def __init__(self) -> None:
        self._started: dict[str, VllmGenerator] = {}

    def generator(self, model, end_ids, precision=None, tokenizer=None):
        name = f"{type(model).__name__} {precision} {model.config.to_json_string()}"
        if name not in self._started:
            settings = VllmSettings(longest=min(positions(model), 256), precision=precision)
            with tempfile.TemporaryDirectory() as folder:
                write_config(model, folder)
                self._started[name] = VllmGenerator(folder, (), settings)
        made = copy.copy(self._started[name])
        made.end_ids, made.tokenizer = frozenset(end_ids), tokenizer
        made.load_weights(LocalWeights(model, 0))
        return made


ENGINES: dict[str, EngineFactory] = {"local": LocalFactory(), "three shards": ShardsFactory()}
# Engines that have a generator alone; `make vllm` runs vLLM's.
GENERATORS: dict[str, EngineFactory] = ENGINES | ({"vllm": VllmFactory()} if find_spec("vllm") else {})
# Engines that need the process for themselves: tests/engines/group runs the suite for each of them in a process apart.
APART: dict[str, EngineFactory] = {
    "two processes": TwoProcessesFactory(),
    "two processes, sharded": ShardedFactory(),
}
