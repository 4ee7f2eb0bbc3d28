import math

import pytest
import torch

from concordant.algorithms.reward import RewardObjective
from concordant.config.train import TrainConfig
from concordant.core.objective import BranchOutputs
from concordant.core.trees import Layout, lay_out, micro_batches
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import RewardNetwork
from concordant.engines.reward_model import RewardModel
from tests.algorithms.worlds import given, loss_of, means, tree
from tests.engines.tiny import tiny_policy

NO_MARGIN = torch.zeros(1)
PAIR = tree([8, 9], [10])


def objective(pairs, **settings):
    return RewardObjective(torch.zeros(pairs), **settings)


def test_the_tutorials_number():
    """Rewards 0.73 and 0.21: P = 0.627, loss 0.467."""
    loss = loss_of(objective(1), *given([PAIR], scores=[0.73, 0.21]))["bradley_terry"]
    assert loss == pytest.approx(0.467, abs=5e-4) and math.exp(-loss) == pytest.approx(0.627, abs=5e-4)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"temperature": 2.0}, 0.37110),  # scores 2 and 0.4: -log σ(1.6 / 2)
        ({"label_smoothing": 0.1}, 0.34390),  # 0.9 · 0.18390 + 0.1 · 1.78390
    ],
)
def test_worked_numbers(settings, value):
    assert loss_of(objective(1, **settings), *given([PAIR], scores=[2.0, 0.4]))["bradley_terry"] == pytest.approx(
        value, abs=1e-5
    )


def test_a_margin_asks_for_a_greater_lead_of_its_own_pair():
    """Leads of 1.6 and 1; margins 0.6 and 0: both are judged as a lead of 1."""
    trees = [PAIR, tree([11], [12, 13, 14, 15])]
    out, batch = given(trees, scores=[2.0, 0.4, 0.5, -0.5])
    loss = loss_of(RewardObjective(torch.tensor([0.6, 0.0])), out, batch)["bradley_terry"]
    assert loss == pytest.approx(0.31326, abs=1e-5)
    apart = micro_batches(trees, Layout.TREE, max_tokens=1)  # the second pair is longer, so its batch is the first
    assert [part.tree_B.tolist() for part in apart] == [[1, 1], [0, 0]]
    for part in apart:
        scores = torch.tensor([2.0, 0.4, 0.5, -0.5])[part.caller_B]
        own = loss_of(RewardObjective(torch.tensor([0.6, 0.0])), BranchOutputs(score_B=scores), part)
        assert own["bradley_terry"] == pytest.approx(0.31326, abs=1e-5)
    halved = loss_of(RewardObjective(torch.tensor([0.6, 0.0]), temperature=2.0), out, batch)["bradley_terry"]
    assert halved == pytest.approx(0.47408, abs=1e-5), "-log σ(0.5): a margin is in the units of the scores"


def test_centring_by_hand_and_its_gradient():
    out, batch = given([PAIR], scores=[1.0, 0.5])
    evaluated = objective(1, centering=0.01)(out, batch)
    term = evaluated.terms["centering"]
    assert float(term.sum) == 2.25 and term.coefficient == 0.01
    term.sum.backward()
    assert torch.equal(out.score_B.grad, torch.tensor([3.0, 3.0])), "both scores fall alike: the lead stays"


def test_the_language_model_loss_reads_the_chosen_alone():
    with_lm = objective(1, lm_coefficient=0.3)
    assert with_lm.want.logprob and not objective(1).want.logprob
    out, batch = given([PAIR], [-1.0, -2.0, -30.0], [0.0, 0.0])
    assert loss_of(with_lm, out, batch)["lm"] == 1.5
    with_lm(out, batch).terms["lm"].sum.backward()
    assert torch.zeros(3).index_put((batch.token_N,), out.logprob_N.grad).tolist() == [-1, -1, 0]


def test_metrics_by_hand():
    out, batch = given([PAIR, tree([11], [12])], scores=[2.0, 0.4, 1.0, 1.0])
    assert means(objective(2)(out, batch)) == pytest.approx(
        {"accuracy": 0.75, "margin": 0.8, "reward/chosen": 1.5, "reward/rejected": 0.7}
    )


# -- heads ----------------------------------------------------------------------------------------

HEAD_BK = torch.tensor([[2.0, 1.0], [0.4, 1.0], [0.5, 0.0], [-0.5, 1.0]])  # chosen, rejected, chosen, rejected
TWO = [PAIR, tree([11], [12, 13, 14, 15])]


def of_heads(batch, weight_PK, **settings):
    head_BK = HEAD_BK[batch.caller_B].requires_grad_()
    out = BranchOutputs(score_B=head_BK.mean(1), head_BK=head_BK)
    return out, objective(2, weight_PK=torch.tensor(weight_PK), **settings)


def test_two_heads_by_hand():
    """Leads: the first head 1.6 and 1, the second 0 and -1; their losses 0.18390, 0.31326, 0.69315, 1.31326."""
    batch = lay_out(TWO)
    out, made = of_heads(batch, [[1.0, 1.0], [1.0, 1.0]])
    assert loss_of(made, out, batch)["bradley_terry"] == pytest.approx(0.62589, abs=1e-5)
    metrics = means(made(out, batch))
    assert metrics["accuracy"] == 0.75, "of the mean, whose leads are 0.8 and 0"
    assert metrics["reward/disagreement"] == pytest.approx((0.5 + 0.3 + 0.25 + 0.75) / 4)
    out, made = of_heads(batch, [[2.0, 0.0], [0.0, 1.0]], centering=0.1)
    assert loss_of(made, out, batch)["bradley_terry"] == pytest.approx((2 * 0.18390 + 1.31326) / 4, abs=1e-5)
    assert float(made(out, batch).terms["centering"].sum) == pytest.approx((2 * 2.4**2 + 1.0) / 2)


def test_a_pair_that_a_head_did_not_draw_moves_only_the_other_heads():
    batch = lay_out(TWO)
    out, made = of_heads(batch, [[0.0, 1.0], [1.0, 1.0]])
    made(out, batch).terms["bradley_terry"].sum.backward()
    gradient_BK = torch.zeros(4, 2).index_put((batch.caller_B,), out.head_BK.grad)
    assert gradient_BK[:2, 0].tolist() == [0.0, 0.0]
    assert (gradient_BK[[0, 2], 1] < 0).all() and (gradient_BK[[1, 3], 1] > 0).all(), "a chosen answer rises"
    out, made = of_heads(batch, [[0.0, 0.0], [0.0, 0.0]])
    assert loss_of(made, out, batch) == {"bradley_terry": 0.0}, "a batch that no head drew has no loss"


def test_the_split_of_a_batch_does_not_change_the_loss_of_heads():
    weights = [[2.0, 0.0], [1.0, 3.0]]
    whole = lay_out(TWO)
    out, made = of_heads(whole, weights)
    together = float(made(out, whole).terms["bradley_terry"].sum.detach())
    apart = 0.0
    for part in micro_batches(TWO, Layout.TREE, max_tokens=1):
        out, made = of_heads(part, weights)
        apart += float(made(out, part).terms["bradley_terry"].sum.detach())
    assert apart == pytest.approx(together, abs=1e-6)


# -- learning -------------------------------------------------------------------------------------


def pairs(seed, count=24):
    """Token 20 in an answer is what people like; everything else is noise."""
    stream = torch.Generator().manual_seed(seed)

    def answer(liked):
        ids = torch.randint(30, 300, (5,), generator=stream)
        ids[int(torch.randint(0, 4, (1,), generator=stream))] = 20 if liked else 21
        return ids

    return [tree(answer(True), answer(False), prompt=torch.randint(30, 300, (4,), generator=stream).tolist())
            for _ in range(count)]  # fmt: skip


def learner():
    return LocalLearner(RewardNetwork(RewardModel.from_backbone(tiny_policy())), TrainConfig())


def test_gradient_reaches_head_and_backbone():
    reward = learner()
    reward.forward_backward(pairs(0), objective(24)).result()
    gradients = {name: p.grad for name, p in reward.network.named_parameters()}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    assert any(name.endswith("score.weight") for name in gradients)


def test_the_loss_falls_and_held_out_accuracy_rises():
    reward, train, heldout = learner(), pairs(0), pairs(1, 40)
    before = reward.evaluate(heldout, objective(40)).result()
    losses = []
    for _ in range(15):
        losses.append(reward.forward_backward(train, objective(24)).result()["bradley_terry"])
        reward.step(3e-3)
    after = reward.evaluate(heldout, objective(40)).result()
    assert losses[-1] < 0.3 < 0.5 < losses[0]
    assert after["accuracy"] > 0.9 > before["accuracy"] + 0.1
    assert after["bradley_terry"] < before["bradley_terry"]


def test_centring_keeps_scores_around_zero():
    def spread(centering):
        reward, train = learner(), pairs(0)
        model = reward.network.reward_model
        with torch.no_grad():  # a head that likes everything: scores far from 0
            hidden_BH = model.hidden_at(lay_out(train), lay_out(train).last_B)
            model.model.get_submodule("score").weight.copy_(2 * torch.nn.functional.normalize(hidden_BH.mean(0), dim=0))
        for _ in range(15):
            metrics = reward.forward_backward(train, objective(24, centering=centering)).result()
            reward.step(3e-3)
        return abs(metrics["reward/chosen"] + metrics["reward/rejected"]), metrics["accuracy"]

    free, _ = spread(0.0)
    held, accuracy = spread(1.0)
    assert held < 0.2 * free and accuracy > 0.9
