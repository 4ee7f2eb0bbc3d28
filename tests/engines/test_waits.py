"""On a GPU: every engine gives the CPU's numbers, and the processor waits as often for much work as for little."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.algorithms.dpo import DPOObjective
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Objective, Outputs, Scaled
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.engines.local import generator
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, Network, PolicyNetwork, RewardNetwork
from concordant.engines.local.precision import place
from concordant.engines.reward_model import RewardModel
from concordant.kernels import last_layer
from concordant.models.layout import check_layout
from concordant.models.load import Policy, make_deterministic
from concordant.models.scalar_head import build_critic
from concordant.models.traits import ModelTraits
from tests.engines.tiny import tiny_policy
from tests.models import zoo
from tests.rehearsal import Waits, rehearsal

PAIRS, ANSWER = 8, 6  # trees of a batch, tokens of an answer
TREE = 4 + 2 * ANSWER  # tokens
N = PAIRS * 2 * ANSWER  # response tokens of a batch


@pytest.fixture(autouse=True)
def always_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "WORTH", 0)


def trees() -> list[PromptTree]:
    stream = torch.Generator().manual_seed(0)

    def ids(n: int) -> Tensor:
        return torch.randint(1, 300, (n,), generator=stream)

    return [PromptTree(ids(4), (Branch.response(ids(ANSWER)), Branch.response(ids(ANSWER)))) for _ in range(PAIRS)]


def column(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def policy(rank: int = 0) -> Callable[[], Network]:
    return lambda: PolicyNetwork(tiny_policy(lora_rank=rank))


def reward() -> Network:
    return RewardNetwork(RewardModel.from_backbone(tiny_policy(), keep_lm_head=True))


def critic() -> Network:
    return CriticNetwork(build_critic(tiny_policy()))


def ppo(**changes: Any) -> PolicyObjective:
    settings: dict[str, Any] = {"clip": 0.2, "aggregation": "token-mean", "entropy_coefficient": 0.01, **changes}
    return PolicyObjective(-6 + column(N, 1), column(N, 2), -6 + column(N, 3), **settings)


CASES: dict[str, tuple[Callable[[], Network], Callable[[], Objective]]] = {
    "sft": (policy(), SFTObjective),
    "sft, adapter": (policy(rank=4), SFTObjective),
    "reward": (reward, lambda: RewardObjective(column(PAIRS, 1), centering=0.01, lm_coefficient=0.3)),
    "dpo": (policy(rank=4), lambda: DPOObjective(column(2 * PAIRS, 1), "sigmoid", 0.1)),
    "ipo": (policy(), lambda: DPOObjective(column(2 * PAIRS, 1), "ipo", 0.1)),
    "ppo": (policy(), lambda: ppo(weight_N=column(N, 4).abs())),
    "grpo": (policy(), lambda: ppo(aggregation="seq-mean-token-mean", kl_estimator="k3", kl_coefficient=0.1)),
    "exact kl": (policy(rank=4), lambda: ppo(kl_estimator="exact", kl_coefficient=0.1)),
    "critic": (critic, lambda: ValueObjective(column(N, 1), column(N, 2), 0.2, 1.0)),
    "scaled": (policy(), lambda: Scaled(ppo(), 0.5, "replay/")),
}


def moved(network: Network, on_gpu: bool) -> Network:
    body = network.body
    assert body is not None
    place(body, ModelConfig(device="cuda" if on_gpu else "cpu"))
    return network.to("cuda" if on_gpu else "cpu")


def step(network: Network, objective: Objective, micro_batches: int) -> tuple[dict[str, float], list[Tensor]]:
    """The metrics of a step in so many micro-batches, and the weights after it."""
    size = PAIRS // micro_batches * TREE
    learner = LocalLearner(network, TrainConfig(micro_batch_tokens=size, learning_rate=1e-2), row_tokens=0)
    assert len(network.batches(trees(), learner.micro_batch_tokens, 0)) == micro_batches
    learner.reference()
    metrics = learner.forward_backward(trees(), objective).result()
    stepped = learner.step(1e-2).result()
    return metrics | {"grad_norm": stepped.grad_norm} | stepped.motion, [p.detach() for p in learner.parameters]


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_as_often_for_any_number_of_micro_batches(name: str) -> None:
    """What remains: the metrics, the gradient's norm and the motion of the weights, each read once."""
    make, objective = CASES[name]
    wanted, _ = step(moved(make(), on_gpu=False), objective(), 1)
    counts = []
    for micro_batches in (1, 2, 4):
        with rehearsal():
            network = moved(make(), on_gpu=True)
            learner_waits = waits_of(lambda n=network, m=micro_batches: step(n, objective(), m))
        (given, weights), waits = learner_waits
        assert given.keys() == wanted.keys()
        for metric, value in wanted.items():
            assert given[metric] == pytest.approx(value, rel=2e-4, abs=1e-6), metric
        counts.append(waits.total)
    print(name, waits.table())
    assert len(set(counts)) == 1, waits.table()


def waits_of(work: Callable[[], Any]) -> tuple[Any, Waits]:
    from tests.rehearsal.waits import counting

    with counting(Waits()) as waits:
        out = work()
    return out, waits
