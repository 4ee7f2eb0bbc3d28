import math

import pytest
import torch

from concordant.algorithms.dpo import reference_logprobs
from concordant.algorithms.kto import KTOObjective, finish, middle, mismatched
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.models.lora_layer import still
from tests.algorithms.worlds import given, loss_of, means, tree
from tests.engines.tiny import tiny_policy

# Three answers with log-ratios 1, -0.5 and 2: the first prompt has a good and a bad one, the second a good one.
TREES, LOGPROBS = [tree([8, 9], [10]), tree([11], prompt=(5, 7))], [-1.0, -2.0, -3.0, -1.0]
REFERENCE, GOOD = torch.tensor([-4.0, -2.5, -3.0]), torch.tensor([True, False, True])


def objective(**changes):
    usual = {"reference_B": REFERENCE, "is_good_B": GOOD, "anchor": 0.5, "loss": "kto", "beta": 0.5}
    return KTOObjective(**(usual | changes))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_worked_numbers():
    """Leads 0.5, 1 and 1.5 nats from an anchor of 0.5; the weights are 2 of good answers and 3 of bad ones."""
    leads = [sigmoid(-0.25), sigmoid(-0.5), sigmoid(-0.75)]
    assert loss_of(objective(), *given(TREES, LOGPROBS))["kto"] == pytest.approx(sum(leads) / 3, abs=1e-6)
    weighted = objective(good_weight=2.0, bad_weight=3.0)
    expected = (2 * leads[0] + 3 * leads[1] + 2 * leads[2]) / 3
    assert loss_of(weighted, *given(TREES, LOGPROBS))["kto"] == pytest.approx(expected, abs=1e-6)
    logistic = sum(math.log1p(math.exp(-x)) for x in (0.25, 0.5, 0.75)) / 3
    assert loss_of(objective(loss="bco"), *given(TREES, LOGPROBS))["bco"] == pytest.approx(logistic, abs=1e-6)


def test_metrics_are_means_of_each_side():
    found = finish(means(objective()(*given(TREES, LOGPROBS))) | {"count/chosen": 2.0, "count/rejected": 1.0})
    assert found["rewards/chosen"] == pytest.approx(0.75) and found["rewards/rejected"] == pytest.approx(-0.25)
    assert found["rewards/margins"] == pytest.approx(1.0) and found["rewards/anchor"] == 0.5
    alone = finish(found | {"count/rejected": 0.0})
    assert "rewards/rejected" not in alone and "logps/rejected" not in alone and "rewards/chosen" in alone


def test_the_gradient_raises_good_answers_and_lowers_bad_ones():
    out, batch = given(TREES, LOGPROBS)
    objective()(out, batch).terms["kto"].sum.backward()
    by_token = torch.zeros(4).index_put((batch.token_N,), out.logprob_N.grad)
    assert (by_token[[0, 1, 3]] < 0).all() and by_token[2] > 0


@pytest.mark.parametrize("loss", ["kto", "bco", "apo_zero_unpaired"])
def test_gradients_do_not_depend_on_micro_batches_or_on_who_shares_a_prompt(loss):
    stream = torch.Generator().manual_seed(1)

    def some():
        return torch.randint(8, 300, (int(torch.randint(1, 6, (1,), generator=stream)),), generator=stream)

    answers, prompts = [some() for _ in range(8)], [(5, 6, 7 + i // 2) for i in range(8)]
    apart = [tree(a, prompt=p) for a, p in zip(answers, prompts, strict=True)]
    shared = [tree(*answers[i : i + 2], prompt=prompts[i]) for i in range(0, 8, 2)]
    good, found = torch.tensor([True, False, True, True, False, False, True, False]), []
    for trees, tokens in ((apart, 10**6), (apart, 1), (shared, 20)):
        policy = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig(micro_batch_tokens=tokens))
        reference_B = reference_logprobs(policy, trees) + torch.linspace(-1, 1, 8)
        anchor = middle(policy, reference_B, good, trees)
        chosen = objective(reference_B=reference_B, is_good_B=good, anchor=anchor, loss=loss)
        policy.forward_backward(trees, chosen).result()
        found.append(torch.cat([p.grad.flatten() for p in policy.parameters]))
    for other in found[1:]:
        assert (found[0] - other).norm() < 1e-5 * found[0].norm()


def test_bcos_shift_is_in_the_middle_of_both_sides():
    """Good answers lead by 1 and 3 nats, the bad one by -4: their means are 2 and -4."""
    policy, trees = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig()), [tree([8], [9, 10]), tree([11])]
    with still():
        reference_B = reference_logprobs(policy, trees) - torch.tensor([1.0, -4.0, 3.0])
    assert middle(policy, reference_B, torch.tensor([True, False, True]), trees) == pytest.approx(-1.0, abs=1e-4)
    assert middle(policy, reference_B, torch.tensor([True, True, True]), trees) == pytest.approx(0.0, abs=1e-4)


def test_a_mismatched_answer_belongs_to_another_prompt():
    trees = [tree([8], prompt=(5,)), tree([9], prompt=(5,)), tree([10, 11], prompt=(6,)), tree([12], prompt=(7, 7, 7))]
    made = mismatched(trees, trees)
    assert [t.prompt_T.tolist() for t in made] == [[5], [5], [6], [7, 7, 7]]
    assert [t.branches[0].ids_T.tolist() for t in made] == [[10, 11], [10, 11], [12], [8]]
    cut = mismatched(trees[3:], trees, longest=3)
    assert cut[0].prompt_T.tolist() == [7, 7] and cut[0].branches[0].ids_T.tolist() == [9], (
        "a trunk is cut at its start"
    )
    with pytest.raises(UserError, match="one prompt alone"):
        mismatched(trees[:2], trees[:2])
