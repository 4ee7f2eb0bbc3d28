"""Elastic weight consolidation: the Fisher information and the penalty, by hand."""

import pytest
import torch

from concordant.engines.local.elastic import Elastic
from tests.algorithms.worlds import tree


def test_the_penalty_by_hand():
    """Two texts of 2 and 4 tokens with mean gradients 3 and 1: F = (2 · 9 + 4 · 1) / 2 = 11.

    Moved by 0.5 with strength 0.2: penalty 0.2 / 2 · 11 · 0.25 = 0.275, gradient 0.2 · 11 · 0.5 = 1.1.
    """
    p, gradients = torch.nn.Parameter(torch.tensor([1.0])), iter([3.0, 1.0])

    def learn(text):
        p.grad = torch.tensor([next(gradients)])

    elastic = Elastic([p], [tree([5, 6]), tree([5, 6, 7, 8])], 0.2, learn)
    assert elastic.fisher[0].item() == 11 and p.grad is None
    with torch.no_grad():
        p += 0.5
    p.grad = torch.tensor([2.0])
    assert elastic.pull() == pytest.approx(0.275)
    assert p.grad.item() == pytest.approx(3.1)


def test_a_weight_that_no_text_depends_on_is_free():
    p = torch.nn.Parameter(torch.zeros(3))
    elastic = Elastic([p], [tree([5])], 10.0, lambda text: None)
    with torch.no_grad():
        p += 7
    assert elastic.pull() == 0 and not p.grad.any()


def test_the_estimate_is_the_fisher_information_of_one_token():
    """Texts drawn from softmax(θ): the Fisher information's diagonal is π (1 - π), for texts of any length."""
    theta = torch.nn.Parameter(torch.tensor([0.0, 1.0, -1.0]))
    stream = torch.Generator().manual_seed(0)
    probabilities = theta.detach().softmax(0)
    texts = [
        tree(torch.multinomial(probabilities, 1 + i % 5, replacement=True, generator=stream).tolist())
        for i in range(4000)
    ]

    def learn(text):
        (-theta.log_softmax(0)[text.branches[0].ids_T].mean()).backward()

    elastic = Elastic([theta], texts, 1.0, learn)
    torch.testing.assert_close(elastic.fisher[0], probabilities * (1 - probabilities), rtol=0.06, atol=0)
