"""On a GPU: every engine gives the CPU's numbers, and the processor waits as often for much work as for little."""

from __future__ import annotations

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
from concordant.core.objective import BranchOutputs, Objective, Outputs, Scaled
from concordant.core.trees import Branch, PromptTree
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, Network, PolicyNetwork, RewardNetwork
from concordant.engines.local.precision import place
from concordant.engines.protocol import Completion
from concordant.engines.reward_model import RewardModel
from concordant.kernels import last_layer
from concordant.models.scalar_head import build_critic
from tests.engines.tiny import tiny_policy
from tests.models import zoo
from tests.rehearsal import GpuTensor, Waits, counting, rehearsal

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


def learner_of(network: Network, device: str, micro_batches: int) -> LocalLearner:
    """A learner that splits the batch into so many micro-batches."""
    assert network.body is not None
    place(network.body, ModelConfig(device=device))
    size = max(PAIRS // micro_batches, 1) * TREE
    learner = LocalLearner(network.to(device), TrainConfig(micro_batch_tokens=size), row_tokens=0)
    assert len(network.batches(trees(), size, 0)) == min(micro_batches, PAIRS)
    learner.reference()
    return learner


def step(learner: LocalLearner, objective: Objective) -> dict[str, float]:
    metrics = learner.forward_backward(trees(), objective).result()
    stepped = learner.step(1e-2).result()
    return metrics | {"grad_norm": stepped.grad_norm} | stepped.motion


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_as_often_for_any_number_of_micro_batches(name: str) -> None:
    """Three waits are left: for the metrics, for the gradient's norm, and for the motion of the weights."""
    make, objective = CASES[name]
    wanted = step(learner_of(make(), "cpu", 1), objective())
    for micro_batches in (1, 2, 4):
        with rehearsal():
            learner = learner_of(make(), "cuda", micro_batches)
            with counting(Waits()) as waits:
                given = step(learner, objective())
        assert waits.total == 3, waits.table()
        assert given.keys() == wanted.keys()
        for metric, value in wanted.items():
            assert given[metric] == pytest.approx(value, rel=2e-4, abs=1e-6), metric


WANTS = {
    "policy": (policy(rank=4), Outputs(logprob=True, entropy=True)),
    "reward": (reward, Outputs(score=True)),
    "critic": (critic, Outputs(value=True)),
}


@pytest.mark.parametrize("name", WANTS)
def test_a_forward_pass_waits_once_for_each_kind_of_number(name: str) -> None:
    make, want = WANTS[name]
    wanted = learner_of(make(), "cpu", 1).forward(trees(), want).result()
    for micro_batches in (1, 4):
        with rehearsal():
            learner = learner_of(make(), "cuda", 4 * micro_batches)
            with counting(Waits()) as waits:
                given = learner.forward(trees(), want).result()
        assert waits.total == (2 if want.entropy else 1), waits.table()
        for field in BranchOutputs.__slots__:
            mine, theirs = getattr(given, field), getattr(wanted, field)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert not isinstance(mine, GpuTensor)
                torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def sampled(device: str, model: PreTrainedModel, sampling: SamplingConfig, ends: Any) -> list[Completion]:
    place(model, ModelConfig(device=device))
    engine = LocalGenerator(model, ends, tokenizer=tiny_policy().tokenizer)
    return [c for group in engine.generate(PROMPTS, sampling, seed=3).result() for c in group]


PROMPTS = [torch.randint(3, 90, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 5, 5, 9)]


def test_a_generator_waits_once_for_eight_tokens() -> None:
    """It has to learn which responses have ended, to stop, and to give their slots away."""
    with rehearsal():
        model = tiny_policy().model
        place(model, ModelConfig(device="cuda"))
        engine = LocalGenerator(model, ())

        def waits(tokens: int, **changes: Any) -> int:
            with counting(Waits()) as counted:
                engine.generate(PROMPTS, SamplingConfig(n=2, max_new_tokens=tokens, **changes), seed=3).result()
            return counted.total

        assert [waits(tokens) for tokens in (8, 16, 32)] == [1, 2, 4]
        assert [waits(tokens, slots=4) for tokens in (8, 16, 32)] == [2, 4, 8], "half of the samples come later"
        assert waits(16, repetition_penalty=1.2, min_new_tokens=9) == waits(16, top_p=0.9, top_k=20) == 2
        assert waits(16, top_p=0.9) == 2 + 16, "whether enough tokens were sorted; to sort all would take longer"


SAMPLINGS = {
    "plain": SamplingConfig(n=3, max_new_tokens=13, slots=5),
    "one slot": SamplingConfig(n=2, max_new_tokens=6, slots=1),
    "repetition": SamplingConfig(n=3, max_new_tokens=13, slots=5, repetition_penalty=1.4),
    "no early end": SamplingConfig(n=3, max_new_tokens=13, slots=5, min_new_tokens=6),
    "stop strings": SamplingConfig(n=3, max_new_tokens=13, slots=5, stop_strings=["e", "owl"]),
    "likely": SamplingConfig(n=1, max_new_tokens=12, temperature=0.0),
}


@pytest.mark.parametrize(
    ("architecture", "name"),
    [*(("Llama", name) for name in SAMPLINGS), ("GPT-2", "plain"), ("Gemma 2", "plain"), ("BLOOM", "repetition")],
)
def test_a_read_of_many_tokens_gives_the_tokens_of_reads_of_one(architecture: str, name: str) -> None:
    """The responses end at different places, many of them between two reads."""
    ends, sampling = range(3, 20), SAMPLINGS[name]
    wanted = sampled("cpu", zoo.make(architecture).eval(), sampling, ends)
    with rehearsal():
        given = sampled("cuda", zoo.make(architecture).eval(), sampling, ends)
    assert len({len(c.ids_T) for c in wanted}) > 1 or name == "likely"
    for mine, theirs in zip(given, wanted, strict=True):
        assert mine.ids_T.tolist() == theirs.ids_T.tolist() and mine.finish_reason == theirs.finish_reason
        torch.testing.assert_close(mine.logprob_T, theirs.logprob_T, atol=1e-4, rtol=1e-4)


def test_a_token_that_somebody_waits_for_is_read_at_once() -> None:
    with rehearsal():
        model = tiny_policy().model
        place(model, ModelConfig(device="cuda"))
        engine = LocalGenerator(model, ())
        with counting(Waits()) as waits:
            read = []
            engine.generate(PROMPTS[:1], SamplingConfig(max_new_tokens=6), 0, lambda *a: read.append(waits.total))
    assert read == [1, 2, 3, 4, 5, 6]
