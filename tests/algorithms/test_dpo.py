import math

import pytest
import torch

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.pairs import check_pairs, ranked_right
from concordant.config.stages import DPOConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.core.pair_losses import PREFERENCE_LOSSES, PreferenceLoss
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from tests.algorithms.worlds import given, loss_of, means, tree
from tests.engines.tiny import tiny_policy

# log-ratios: chosen -3 + 4 = 1 over two tokens, rejected -3 + 2.5 = -0.5 over one.
PAIR, LOGPROBS, REFERENCE = tree([8, 9], [10]), [-1.0, -2.0, -3.0], torch.tensor([-4.0, -2.5])


@pytest.mark.parametrize(
    ("loss", "beta", "smoothing", "value"),
    [
        ("sigmoid", 0.5, 0.0, 0.38687),  # -log σ(0.5 · 1.5); per-token means would give -log σ(0.5) = 0.47408
        ("sigmoid", 0.5, 0.1, 0.46187),  # 0.9 · 0.38687 + 0.1 · 1.13687, not 0.9 · 0.38687 + 0.05
        ("robust", 0.5, 0.1, 0.29312),  # (0.9 · 0.38687 - 0.1 · 1.13687) / 0.8
        ("ipo", 0.5, 0.0, 0.0),  # per-token means: 0.5 - -0.5 is the target 1 / (2 · 0.5); sums would give 0.25
        ("ipo", 0.25, 0.0, 1.0),
    ],
)
def test_worked_numbers(loss, beta, smoothing, value):
    objective = DPOObjective(REFERENCE, loss, beta, smoothing)
    assert loss_of(objective, *given([PAIR], LOGPROBS))[loss] == pytest.approx(value, abs=1e-5)


def test_metrics_by_hand():
    """Two pairs, the second the first with its sides exchanged."""
    swapped = tree([10], [8, 9])
    out, batch = given([PAIR, swapped], [*LOGPROBS, -3.0, -1.0, -2.0])
    objective = DPOObjective(torch.tensor([-4.0, -2.5, -2.5, -4.0]), "sigmoid", 0.5)
    assert means(objective(out, batch)) == pytest.approx(
        {
            "rewards/chosen": 0.125,  # mean of 0.5 · 1 and 0.5 · -0.5
            "rewards/rejected": 0.125,
            "rewards/margins": 0.0,
            "rewards/accuracies": 0.5,
            "logps/chosen": -3.0,
            "logps/rejected": -3.0,
        }
    )


def test_a_pair_is_compared_with_its_own_reference_whatever_its_length():
    """The second pair is longer, so it is laid before the first: log-ratios 1.5 and 2 - -2, β 0.5."""
    longer = tree([8, 9, 10, 11], [12, 13])
    out, batch = given([PAIR, longer], [*LOGPROBS, -2.0, -2.0, -2.0, -2.0, -1.0, -2.0])
    assert batch.caller_B.tolist() == [2, 3, 0, 1]
    objective = DPOObjective(torch.tensor([-4.0, -2.5, -10.0, -1.0]), "sigmoid", 0.5)
    assert loss_of(objective, out, batch)["sigmoid"] == pytest.approx((0.38687 + 0.12693) / 2, abs=1e-5)
    assert means(objective(out, batch))["rewards/margins"] == pytest.approx(0.5 * (1.5 + 4) / 2)


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected():
    out, batch = given([PAIR], LOGPROBS)
    DPOObjective(REFERENCE, "sigmoid", 0.5)(out, batch).terms["sigmoid"].sum.backward()
    slope = 0.5 / (1 + math.exp(0.75))  # β σ(-z), for every token of a side alike: log-probs are summed
    gradient = torch.zeros(3).index_put((batch.token_N,), out.logprob_N.grad)
    assert torch.allclose(gradient, torch.tensor([-slope, -slope, slope]))


def pairs():
    stream = torch.Generator().manual_seed(0)
    return [tree(torch.randint(8, 300, (4,), generator=stream), torch.randint(8, 300, (3,), generator=stream))
            for _ in range(6)]  # fmt: skip


def learner():
    return LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig())


def test_the_loss_starts_at_ln_2_and_falls():
    policy, trees = learner(), pairs()
    objective = DPOObjective(reference_logprobs(policy.reference(), trees), "sigmoid", 0.1)
    first = policy.forward_backward(trees, objective).result()
    assert first["sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/accuracies"] == 0.5 and first["rewards/margins"] == 0, "ties count half"
    for _ in range(8):
        policy.step(3e-3)
        last = policy.forward_backward(trees, objective).result()
    assert last["sigmoid"] < 0.5 and last["rewards/accuracies"] == 1


def test_a_batch_takes_the_reference_of_its_own_pairs():
    policy, trees = learner(), pairs()
    reference_B = reference_logprobs(policy, trees)
    numbers = [4, 1]
    objective = DPOObjective(reference_B[branches_of(numbers)], "sigmoid", 0.1)
    assert policy.evaluate([trees[i] for i in numbers], objective).result()["sigmoid"] == pytest.approx(
        math.log(2), abs=1e-6
    )


def test_the_reference_counts_response_tokens_in_full_softmax():
    policy, (one, *_) = learner(), pairs()
    for branch, value in zip(one.branches, reference_logprobs(policy, [one]), strict=True):
        row = torch.cat([one.prompt_T, branch.ids_T])[None]
        with torch.no_grad():
            table = policy.network.model(row).logits[0].log_softmax(-1)
        by_hand = sum(table[len(one.prompt_T) - 1 + i, token] for i, token in enumerate(branch.ids_T))
        assert value == pytest.approx(float(by_hand), abs=1e-4)


def test_anything_but_two_answers_is_no_pair():
    check_pairs([PAIR])
    with pytest.raises(UserError, match="exactly two branches"):
        check_pairs([PAIR, tree([8])])


def test_ties_are_half_right():
    assert ranked_right(torch.tensor([1.0, -2.0, 0.0])) == 1.5


def test_a_loss_that_needs_no_reference_asks_none(monkeypatch):
    from importlib import import_module

    class Nobody:
        def forward(self, trees, want):
            raise AssertionError("asked")

    stage = import_module("concordant.stages.dpo")
    config = DPOConfig()
    with pytest.raises(AssertionError, match="asked"):
        stage._objective(config, Nobody(), pairs())
    assert DPOObjective(torch.zeros(2), "sigmoid", 0.1).needs_reference
    free = PreferenceLoss(lambda x_P, beta, e: -beta * x_P, length_mean=True, needs_reference=False)
    monkeypatch.setitem(PREFERENCE_LOSSES, "sigmoid", free)
    objective = stage._objective(config, None, pairs())([1])
    assert not objective.needs_reference and objective.reference_B.tolist() == [0.0, 0.0]
