"""Ways to make a run sick: each a context manager that breaks one of our own objects for as long as it is open."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench.doctor_plant_data import Plant
from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.ppo import PPO
from concordant.core.objective import Evaluated, Term
from concordant.engines import roles
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.weights import LocalWeights
from concordant.stages import common, preferences
from concordant.stages.rewarding import ModelReward

# -- weights --------------------------------------------------------------------------------------


def frozen(is_frozen: Callable[[str], bool], only: str = "", of: str = "optimizer") -> Plant:
    """Weights whose name ``is_frozen`` do not learn, of networks whose class is ``only``: they are not in the
    optimizer, or their ``requires_grad`` is off."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = LocalLearner.__init__

        def make(self: LocalLearner, network: nn.Module, *args: Any, **kwargs: Any) -> None:
            mine = not only or type(network).__name__ == only
            chosen = [p for n, p in network.named_parameters() if mine and p.requires_grad and is_frozen(n)]
            if of == "requires_grad":
                for p in chosen:
                    p.requires_grad = False
            real(self, network, *args, **kwargs)
            held = set(map(id, chosen))
            for group in self.optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in held]

        with patch.object(LocalLearner, "__init__", make):
            yield

    return plant


def loss_is(change: Callable[[Tensor, int], Tensor]) -> Plant:
    """The loss's sums are ``change(sum, number of the call of forward_backward)``."""

    @contextmanager
    def plant() -> Iterator[None]:
        real, calls = LocalLearner.forward_backward, [0]

        def broken(self: LocalLearner, trees: Any, objective: Any) -> Any:
            calls[0] += 1

            class Broken:
                want = objective.want
                weights = staticmethod(objective.weights)

                def __call__(self, out: Any, batch: Any) -> Evaluated:
                    made = objective(out, batch)
                    terms = {n: Term(change(t.sum, calls[0]), t.coefficient) for n, t in made.terms.items()}
                    return Evaluated(terms, made.metrics)

            return real(self, trees, Broken())

        with patch.object(LocalLearner, "forward_backward", broken):
            yield

    return plant


def dropout(rate: float, always: bool) -> Plant:
    """Dropout behind every layer of the policy; ``always``: when it measures too, not in learning alone."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = common.open_policy

        def opened(*args: Any, **kwargs: Any) -> Any:
            policy = real(*args, **kwargs)
            for layer in policy.model.model.layers:
                layer.register_forward_hook(
                    lambda module, inputs, out: nn.functional.dropout(out, rate, always or module.training)
                )
            return policy

        with patch.object(common, "open_policy", opened):
            yield

    return plant


# -- references -----------------------------------------------------------------------------------


@contextmanager
def dpo_reference_is_policy() -> Iterator[None]:
    def objective(config: Any, reference: Any, side: Any) -> Any:
        def of(numbers: Sequence[int]) -> DPOObjective:
            now_B = reference_logprobs(reference, [side.trees[i] for i in numbers])
            return DPOObjective(now_B, config.loss, config.beta, config.label_smoothing)

        return of

    own = patch.object(roles, "reference", lambda own, *_: own)
    with patch.object(preferences, "objective_of_pairs", objective), own:
        yield


def wrong_reference(noise: float) -> Plant:
    """The reference's weights are not the policy's: noise of this share of each tensor's deviation."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = roles.reference

        def reference_of(*args: Any, **kwargs: Any) -> Any:
            reference: Any = real(*args, **kwargs)
            stream = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for p in reference.network.parameters():
                    if p.ndim > 1:
                        p += noise * p.std() * torch.randn(p.shape, generator=stream)
            return reference

        with patch.object(roles, "reference", reference_of):
            yield

    return plant


def shuffled_reference() -> Any:
    """DPO's reference log-probs belong to other branches."""
    return patch.object(
        preferences, "branches_of", lambda numbers: [*branches_of(numbers)[2:], *branches_of(numbers)[:2]]
    )


def moving_reference(speed: float) -> Plant:
    """After every optimizer step the reference goes ``speed`` of the way to the policy."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = LocalLearner.step

        def step(self: LocalLearner, learning_rate: float) -> Any:
            done = real(self, learning_rate)
            if self._reference is not None:
                pairs = zip(self._reference.network.parameters(), self.network.parameters(), strict=True)
                with torch.no_grad():
                    for theirs, ours in pairs:
                        theirs.lerp_(ours, speed)
            return done

        with patch.object(LocalLearner, "step", step):
            yield

    return plant


# -- sampling -------------------------------------------------------------------------------------


def learner_temperature(temperature: float) -> Plant:
    """The learner measures at this temperature whatever the sampler uses."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = roles.policy_learner

        def learner_of(policy: Any, model: Any, train: Any, told: float = 1.0, **kwargs: Any) -> Any:
            return real(policy, model, train, temperature, **kwargs)

        with patch.object(roles, "policy_learner", learner_of):
            yield

    return plant


def stale(every: int) -> Plant:
    """The generator samples from a copy of the policy that is refreshed every so many loads; 0: never."""

    @contextmanager
    def plant() -> Iterator[None]:
        loads = [0]

        def load(self: LocalGenerator, weights: LocalWeights) -> None:
            if loads[0] == 0 or (every and loads[0] % every == 0):
                self.model = copy.deepcopy(weights.model)
            loads[0] += 1
            self.version = weights.version

        with patch.object(LocalGenerator, "load_weights", load):
            yield

    return plant


def after_end(count: int, repeat: bool = True) -> Plant:
    """Completions go on for ``count`` tokens behind their end: end tokens again, or token 0 (padding)."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = LocalGenerator._completion

        def completion(self: LocalGenerator, s: Any) -> Any:
            made = real(self, s)
            if made.finish_reason != "stop":
                return made
            extra = torch.full((count,), int(made.ids_T[-1]) if repeat else 0)
            return replace(made, ids_T=torch.cat([made.ids_T, extra]),
                           logprob_T=torch.cat([made.logprob_T, torch.zeros(count)]))  # fmt: skip

        with patch.object(LocalGenerator, "_completion", completion):
            yield

    return plant


@contextmanager
def never_taught_to_end() -> Iterator[None]:
    """The policy's start finds its end token impossible, as one that never saw it does."""
    real = common.open_policy

    def opened(*args: Any, **kwargs: Any) -> Any:
        policy = real(*args, **kwargs)
        weight = policy.model.get_input_embeddings().weight
        with torch.no_grad():
            weight[policy.tokenizer.eos_token_id] *= -1
        return policy

    with patch.object(common, "open_policy", opened):
        yield


# -- PPO's arithmetic -----------------------------------------------------------------------------


def advantages(change: Callable[[Tensor], Tensor]) -> Plant:
    @contextmanager
    def plant() -> Iterator[None]:
        real = PPO.make_experience

        def make_experience(self: PPO, rollouts: Any) -> Any:
            made = real(self, rollouts)
            return replace(made, advantage_N=change(made.advantage_N))

        with patch.object(PPO, "make_experience", make_experience):
            yield

    return plant


def values(change: Callable[[Tensor], Tensor]) -> Plant:
    """The critic is taught returns that are ``change(returns)``."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = PPO.value_objective

        def objective(self: PPO, experience: Any, tokens_N: Tensor) -> Any:
            made = real(self, experience, tokens_N)
            return replace(made, return_N=change(made.return_N))

        with patch.object(PPO, "value_objective", objective):
            yield

    return plant


def reward_reads(change: Callable[[Any], Any]) -> Plant:
    """The reward model is given other answers than were sampled: ``change(answer)``."""

    @contextmanager
    def plant() -> Iterator[None]:
        real = ModelReward.__call__
        with patch.object(ModelReward, "__call__", lambda self, answers: real(self, [change(a) for a in answers])):
            yield

    return plant
