"""One model used by several threads at once gives every thread the numbers that it gets alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from concordant.algorithms.sft import SFTObjective
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs
from concordant.core.trees import Branch, PromptTree
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.reward_model import RewardModel
from concordant.kernels.put_on import put_on
from concordant.models.load import checkpoint_activations
from tests.engines.tiny import tiny_policy
from tests.models import zoo

CALLS = 200  # of each thread
TREES = [PromptTree(torch.arange(3, 9), (Branch.response([9, 8, 7]), Branch.response([5, 4]))) for _ in range(2)]


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Threads change places as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def differing(calls: list[Callable[[], Any]], times: int = CALLS) -> list[int]:
    """How many of its calls, each made in a thread of its own beside the others, gave another result than alone."""
    alone = [call() for call in calls]

    def repeat(number: int) -> int:
        return sum(calls[number]() != alone[number] for _ in range(times))

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(repeat, range(len(calls))))


@pytest.mark.parametrize(
    "kernels, recompute, times", [("fast", False, CALLS), ("plain", False, 30), ("fast", True, 30)]
)
def test_training_scoring_sampling_and_chatting_on_one_backbone(kernels: str, recompute: bool, times: int) -> None:
    policy = tiny_policy(lora_rank=2)
    for name, weight in policy.model.named_parameters():
        if name.endswith("lora_B"):  # 0 at the start: which adapter is used would not show
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    if recompute:
        checkpoint_activations(policy.model)
    if kernels == "fast":
        put_on(policy.model)
    learner = LocalLearner(PolicyNetwork(policy), TrainConfig())
    reference = learner.reference()
    for parameter in learner.parameters:
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    generator, chat = (LocalGenerator(policy.model, [2]) for _ in range(2))

    def train() -> Any:
        metrics = learner.forward_backward(TREES, SFTObjective()).result()
        gradient = [p.grad.tolist() for p in learner.parameters if p.grad is not None]
        learner.discard()
        return metrics, gradient

    def score() -> Any:
        logprob_N = reference.forward(TREES, Outputs(logprob=True)).result().logprob_N
        return None if logprob_N is None else logprob_N.tolist()

    def sample() -> Any:
        (answers,) = generator.generate([torch.arange(3, 7)], SamplingConfig(n=3, max_new_tokens=3), seed=1).result()
        return [(c.ids_T.tolist(), c.logprob_T.tolist()) for c in answers]

    def stream() -> Any:
        heard: list[int] = []
        chat.generate([torch.arange(5, 8)], SamplingConfig(max_new_tokens=3), 2, lambda *token: heard.append(token[2]))
        return heard

    assert differing([train, score, sample, stream], times) == [0, 0, 0, 0]


def test_a_reward_model_scores_from_four_threads() -> None:
    model = RewardModel.from_backbone(zoo.policy("Llama"))
    put_on(model.model)
    texts = [["the owl is brown", "water the plant"], ["by day"], ["it sleeps in the old oak", "kind"], ["the plant"]]
    assert differing([lambda row=row: model.score(row) for row in texts]) == [0, 0, 0, 0]


def test_a_head_that_runs_the_models_own_code_is_no_call_on_the_model() -> None:
    from concordant.models.head import Head, lm_logits

    model = zoo.make("Granite").requires_grad_(False)
    hidden = torch.randn(4, 5, 32, generator=torch.Generator().manual_seed(0))

    def logits(number: int) -> Any:
        return lm_logits(model, hidden[number], Head(own_code=True)).tolist()

    def whole() -> Any:
        return model(input_ids=zoo.tokens(7, 3)[None]).logits.tolist()

    assert differing([lambda: logits(0), lambda: logits(1), lambda: logits(2), whole]) == [0, 0, 0, 0]
