"""What a batch shows of its masks, ends, labels and sampler, on batches small enough to count."""

import pytest
import torch

from concordant.algorithms import evidence
from concordant.algorithms.rewards import Answer
from concordant.algorithms.rollouts import Rollouts
from concordant.core.trees import Branch, PromptTree

END = 9


def tree(prompt, *branches):
    return PromptTree(torch.tensor(prompt), tuple(branches))


def branch(ids, mask=None):
    return Branch(torch.tensor(ids), torch.tensor(mask or [True] * len(ids)))


def test_masks_and_ends_are_counted_over_branches():
    trees = [
        tree([1, 2], branch([3, 4, END]), branch([5, END], [True, False])),
        tree([1, 2, 3, 4], branch([7, 8], [False, True])),
    ]
    seen = evidence.of_trees(trees, {END})
    assert (
        seen["doctor/data/starts"] == seen["doctor/data/end_learnt"] == seen["doctor/data/ends"] == pytest.approx(2 / 3)
    )
    assert (seen["doctor/data/response_share"], seen["doctor/data/prompt_tokens"]) == (5 / 7, 3.0)


def test_pairs_are_identical_by_tokens_and_ties_in_length_count_half():
    trees = [tree([1], branch([3, 4]), branch([3, 4])), tree([1], branch([3, 4, 5]), branch([6]))]
    assert evidence.of_pairs(trees) == {"doctor/data/identical": 0.5, "doctor/data/chosen_longer": 0.75}


def test_a_batch_has_one_name_in_any_order_and_others_have_others():
    a, b, c = (tree([1], branch([i])) for i in (3, 4, 5))
    name = lambda trees: evidence.examples(trees)["doctor/data/batch_id"]  # noqa: E731
    assert name([a, b]) == name([b, a]) != name([a, c])
    assert evidence.examples([a, b])["doctor/data/first_id"] != evidence.examples([b, a])["doctor/data/first_id"]
    assert evidence.examples([a, a, b, a])["doctor/data/duplicates"] == 0.5


def test_prompts_alone_name_a_batch_of_samples():
    name = lambda *ids: evidence.examples([tree([1], branch(list(ids)))], prompts_only=True)["doctor/data/batch_id"]  # noqa: E731
    assert name(3, 4) == name(5, 6, 7)


def rollouts(texts, ids, sampler):
    lengths = [len(i) for i in ids]
    return Rollouts(
        [tree([1], *(branch(i) for i in ids))], [Answer((), text, True, {}) for text in texts], torch.tensor(sampler),
        torch.tensor([True] * len(ids)), torch.tensor(lengths), torch.zeros(len(ids), dtype=torch.int64), 0, (END,),
    )  # fmt: skip


def test_answers_by_hand():
    texts = ["thank you so much", "thank you so much thank you so much", "a cat sat down", "it is red"]
    ids = [[3, END], [3, END, END, END], [3, 4], [5, 6, END]]
    made = rollouts(texts, ids, [-1.0] * 11)
    old = torch.full((11,), -1.5)
    old[0] = -0.5
    seen = evidence.of_rollouts(made, torch.tensor([2.0, 4.0, 2.0, 3.0]), old)
    assert seen["doctor/rollout/logprob_gap"] == pytest.approx(0.5)
    assert seen["doctor/rollout/logprob_bias"] == pytest.approx((10 * 0.5 - 0.5) / 11)
    assert seen["doctor/response/after_end"] == pytest.approx(2 / 11)
    assert seen["doctor/response/top_phrase"] == 0.5 and seen["doctor/response/distinct"] == 1.0
    assert seen["doctor/response/repetition"] == pytest.approx(
        0.2 / 4
    )  # one of five four-word runs, in one of four answers
    assert seen["doctor/reward/length_correlation"] == pytest.approx(1.0)


def test_correlation_of_what_does_not_vary_is_0():
    assert evidence.correlation(torch.ones(4), torch.arange(4.0)) == 0.0
    assert evidence.correlation(torch.arange(4.0), -torch.arange(4.0)) == pytest.approx(-1.0)


def test_agreement_is_the_mean_over_pairs_of_parts():
    assert evidence.agreement([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0], [0.0, -1.0, -2.0]]) == pytest.approx(-1 / 3)


def test_a_critic_that_is_off_by_a_constant_explains_everything():
    """Returns 1, 2, 6 have a variance of 14/3; errors of 3, 3, 3 have none, and errors of -1, 0, 1 have 2/3."""
    returns = torch.tensor([1.0, 2.0, 6.0])
    assert evidence.explained_variance(returns - 3, returns) == pytest.approx(1.0)
    assert evidence.explained_variance(returns + torch.tensor([1.0, 0.0, -1.0]), returns) == pytest.approx(6 / 7)
    assert evidence.explained_variance(torch.full((3,), 3.0), returns) == pytest.approx(0.0)
    assert evidence.explained_variance(returns, torch.ones(3)) == 0.0
