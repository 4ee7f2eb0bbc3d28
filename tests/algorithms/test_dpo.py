import math

import pytest
import torch

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.pairs import check_pairs, ranked_right
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
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


def test_a_reference_is_needed_if_any_of_the_losses_needs_one():
    free = DPOObjective(torch.zeros(2), "simpo", 2.0)
    assert not free.needs_reference and DPOObjective(torch.zeros(2), "sigmoid", 0.1).needs_reference
    assert DPOObjective(torch.zeros(2), "simpo", 2.0, plus=(("hinge", 0.5),)).needs_reference


def test_losses_without_a_reference_compare_log_probs():
    """PAIR's log-probs are -3 over two tokens and -3 over one: means of -1.5 and -3, β 0.5 and a margin of 0.25."""
    objective = DPOObjective(torch.tensor([7.0, -7.0]), "simpo", 0.5, margin=0.25)
    assert loss_of(objective, *given([PAIR], LOGPROBS))["simpo"] == pytest.approx(math.log1p(math.exp(-0.5)), abs=1e-6)
    objective = DPOObjective(torch.tensor([7.0, -7.0]), "slic", 0.5)
    assert loss_of(objective, *given([PAIR], LOGPROBS))["slic"] == 1.0


def test_a_mix_adds_weighted_losses_and_the_cross_entropy_a_token():
    """sigmoid 0.38687 as above; bco_pair -log σ(0.5) - log σ(0.25) = 1.05002; cross-entropy 3 nats over 2 tokens."""
    objective = DPOObjective(REFERENCE, "sigmoid", 0.5, plus=(("bco_pair", 0.2),), lm_coefficient=0.7)
    out, batch = given([PAIR], LOGPROBS)
    assert loss_of(objective, out, batch) == pytest.approx(
        {"sigmoid": 0.38687, "bco_pair": 1.05002, "lm": 1.5}, abs=1e-5
    )
    terms = objective(out, batch).terms
    assert {name: term.coefficient for name, term in terms.items()} == {"sigmoid": 1.0, "bco_pair": 0.2, "lm": 0.7}
    assert objective.weights(batch) == {"sigmoid": 1, "bco_pair": 1, "lm": 2}
    assert DPOObjective(REFERENCE, "orpo", 0.5).weights(batch)["lm"] == 2, "ORPO brings its own"


@pytest.mark.parametrize("tokens", [1, 10**6])
def test_labels_and_margins_of_pairs_stay_with_their_pairs_however_a_batch_is_cut(tokens):
    """Six pairs of other lengths, each with a share of wrong labels and a margin of its own."""
    stream = torch.Generator().manual_seed(3)
    trees = [
        tree(
            torch.randint(8, 300, (3 + i % 4,), generator=stream), torch.randint(8, 300, (2 + i % 3,), generator=stream)
        )
        for i in range(6)
    ]
    policy = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig(micro_batch_tokens=tokens))
    reference_B = reference_logprobs(policy, trees) + torch.linspace(-2, 2, 12)
    wrong, margin = torch.linspace(0, 0.5, 6), torch.linspace(0, 2, 6)
    objective = DPOObjective(reference_B, "sigmoid", 0.5, wrong, margin=margin, plus=(("apo_zero", 1.0),))
    found = policy.forward_backward(trees, objective).result()
    x_P2 = -torch.linspace(-2, 2, 12).view(6, 2)
    z_P = 0.5 * (x_P2[:, 0] - x_P2[:, 1]) - margin
    by_hand = (1 - wrong) * torch.log1p(torch.exp(-z_P)) + wrong * torch.log1p(torch.exp(z_P))
    assert found["sigmoid"] == pytest.approx(float(by_hand.mean()), abs=1e-4)


def test_a_divergence_changes_what_is_compared_and_the_logged_rewards():
    """Log-ratios 1 and -0.5: 1 - 1/e and 1 - √e differ by 1.28084."""
    objective = DPOObjective(REFERENCE, "sigmoid", 0.5, f_divergence="forward_kl")
    out, batch = given([PAIR], LOGPROBS)
    assert loss_of(objective, out, batch)["sigmoid"] == pytest.approx(math.log1p(math.exp(-0.5 * 1.28084)), abs=1e-5)
    assert means(objective(out, batch))["rewards/margins"] == pytest.approx(0.64042, abs=1e-5)
