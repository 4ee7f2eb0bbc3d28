"""SimPO, ORPO, APO and KTO in the world of test_exact: 8 tokens, 3 steps, 512 responses, known rewards r.

docs/dpo.md derives each optimum. Those without a closed form are computed here in double precision, by another way than
training: by bisection on the condition of Lagrange, or by Newton's method over the 512 log-probs.
"""

import pytest
import torch
from torch import nn

from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.kto import KTOObjective, kl_estimate
from concordant.engines.local.learner import LocalLearner
from tests.algorithms.tabular import RESPONSES, TablePolicy, tree_of
from tests.algorithms.test_exact import ALL, REWARD, TRAIN, decayed

COUNT = len(RESPONSES)
# For losses whose optimum one matching of the answers settles: each answer is compared with one other, always the same.
MATCHED = torch.randperm(COUNT, generator=torch.Generator().manual_seed(5)).view(-1, 2)


def apart(target, policy):
    """KL(target‖policy), nats, both as log-probs of the 512 responses."""
    return float((target.exp() * (target - policy)).sum())


def start():
    policy = LocalLearner(TablePolicy(), TRAIN)
    return policy, reference_logprobs(policy, ALL)


def share_of_people(pair_P2):
    """Of the people, who prefer the second answer of each pair."""
    return torch.sigmoid(REWARD[pair_P2[:, 1]] - REWARD[pair_P2[:, 0]])


def trained_on_pairs(steps, rate, matched=None, **settings):
    """The policy after training on pairs with soft labels: ``matched`` ones, or all answers matched anew each step."""
    policy, reference = start()
    stream = torch.Generator().manual_seed(0)
    for step in range(steps):
        pair_P2 = torch.randperm(COUNT, generator=stream).view(-1, 2) if matched is None else matched
        objective = DPOObjective(reference[pair_P2.flatten()], label_smoothing=share_of_people(pair_P2), **settings)
        policy.forward_backward([tree_of(RESPONSES[pair]) for pair in pair_P2], objective).result()
        policy.step(decayed(rate, step, steps))
    return reference_logprobs(policy, ALL).double(), reference.double()


def on_the_concave_side(gain, reference, beta, z0=0.0):
    """The π that maximises Σ gain σ(β (log π/π_ref - z0)), as log-probs; gain (512,), 0 < β < 1.

    Where the gain is not above 0, π is 0. Elsewhere gain β s (1 - s) = λ π, whose left side over π falls in π, so that
    bisection finds π for each λ, and λ for Σ π = 1.
    """

    def share_of(multiplier):
        low, high = torch.full((COUNT,), -60.0).double(), torch.full((COUNT,), 5.0).double()
        for _ in range(45):
            middle = (low + high) / 2
            s = torch.sigmoid(beta * (middle - reference - z0))
            rises = gain * beta * s * (1 - s) > multiplier * middle.exp()
            low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
        return torch.where(gain > 0, low, torch.tensor(-60.0).double())

    small, large = 1e-9, 1e3
    for _ in range(45):
        multiplier = (small * large) ** 0.5
        small, large = (multiplier, large) if share_of(multiplier).exp().sum() > 1 else (small, multiplier)
    return share_of(large).log_softmax(0)


def test_simpo_reaches_its_optimum():
    """Without a margin π* ∝ exp(|y| r / β), whatever the reference is; every response here has three tokens."""
    policy, _ = trained_on_pairs(80, 0.2, loss="simpo", beta=2.0)
    assert apart((3 * REWARD.double() / 2.0).log_softmax(0), policy) < 0.01


def test_orpo_reaches_its_optimum():
    """The minimum of the loss over all 512 probabilities: half of the answers are imitated, and odds follow people."""
    beta = 1.0
    policy, _ = trained_on_pairs(60, 0.15, MATCHED, loss="orpo", beta=beta)
    other_way = share_of_people(MATCHED).double()
    logits = nn.Parameter(torch.zeros(COUNT, dtype=torch.float64))
    newton = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss():
        newton.zero_grad()
        mean = logits.log_softmax(0) / 3
        odds = mean - (1 - mean.exp()).log()
        lead = odds[MATCHED[:, 0]] - odds[MATCHED[:, 1]]
        ordered = (1 - other_way) * nn.functional.logsigmoid(lead) + other_way * nn.functional.logsigmoid(-lead)
        value = -mean[MATCHED[:, 0]].mean() - beta * ordered.mean()
        value.backward()
        return value

    newton.step(loss)
    assert apart(logits.detach().log_softmax(0), policy) < 0.01


def test_apo_zero_reaches_its_optimum():
    """An answer that more people like than not keeps a share that follows from its lead, and the others vanish."""
    beta = 0.5
    policy, reference = trained_on_pairs(80, 0.4, MATCHED, loss="apo_zero", beta=beta)
    lead = 1 - 2 * share_of_people(MATCHED)  # how many more people chose the first than rejected it
    gain = torch.zeros(COUNT).double().index_add(0, MATCHED.flatten(), torch.stack([lead, -lead], 1).flatten().double())
    assert apart(on_the_concave_side(gain, reference, beta), policy) < 0.01


def test_apo_down_nears_its_lower_bound_while_both_answers_vanish():
    """It has no optimum: the loss of a pair falls to 0 as both answers lose all probability, the rejected one first."""
    policy, reference = start()
    pair_P2 = MATCHED[:32]
    trees = [tree_of(RESPONSES[pair]) for pair in pair_P2]
    objective = DPOObjective(reference[pair_P2.flatten()], "apo_down", beta=1.0)
    for _ in range(12):
        loss = policy.forward_backward(trees, objective).result()["loss"]
        policy.step(0.5)
    logprob = reference_logprobs(policy, ALL)
    chosen, rejected = (logprob - reference)[pair_P2].unbind(1)
    assert 0 < loss < 0.01
    assert (rejected < chosen - 2).all() and (chosen < -2).all()
    assert reference[pair_P2.flatten()].exp().sum() > 0.05 > 1e-3 > logprob[pair_P2.flatten()].exp().sum()


def test_kto_reaches_its_optimum():
    """Answers of a better policy μ, each with the share of people who call it good; z0 is the mean of log π/π_ref."""
    beta, steps = 0.5, 70
    policy, reference = start()
    mu = (reference + 1.5 * REWARD).softmax(0)
    good = torch.sigmoid(REWARD + 3)
    answers = [tree_of(torch.cat([RESPONSES, RESPONSES]))]
    weight_B = torch.cat([mu * good, mu * (1 - good)]) * COUNT
    for step in range(steps):
        logratio = reference_logprobs(policy, ALL) - reference
        z0 = max(0.0, float((mu * logratio).sum()))
        objective = KTOObjective(
            reference_B=torch.cat([reference, reference]),
            is_good_B=torch.arange(2 * COUNT) < COUNT,
            anchor=z0,
            loss="kto",
            beta=beta,
            good_weight=weight_B,
            bad_weight=weight_B,
        )
        policy.forward_backward(answers, objective).result()
        policy.step(decayed(0.1, step, steps))
    gain, reference, mu = (mu * (2 * good - 1)).double(), reference.double(), mu.double()
    optimum, z0 = reference, 0.0
    for _ in range(12):
        optimum = on_the_concave_side(gain, reference, beta, z0)
        z0 = max(0.0, float((mu * (optimum - reference)).sum()))
    assert z0 > 0.05, "the anchor plays a part"
    assert apart(optimum, reference_logprobs(policy, ALL).double()) < 0.01


def test_the_kl_estimate_is_never_below_0():
    policy, reference = start()
    assert kl_estimate(policy, reference + 1, ALL) == 0.0
    assert kl_estimate(policy, reference - 1, ALL) == pytest.approx(1.0, abs=1e-5)
