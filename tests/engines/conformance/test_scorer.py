"""The scorer's promises: its numbers are those of the plain model, in the caller's order; reward models are scorers."""

import pytest
import torch

from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective
from concordant.core.objective import Outputs
from concordant.core.trees import Layout
from concordant.engines.reward_model import RewardModel
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy


@pytest.mark.parametrize("layout", Layout)
def test_numbers_come_back_in_the_callers_order(engine, layout):
    trees = pairs()
    learner = engine.policy(layout=layout)
    together = learner.forward(trees, Outputs(logprob=True)).result().logprob_N
    alone = torch.cat([learner.forward([t], Outputs(logprob=True)).result().logprob_N for t in trees])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_log_prob_is_the_full_softmax_of_a_plain_row(engine):
    trees, temperature = pairs(3), 0.7
    learner, plain = engine.policy(temperature=temperature), tiny_policy().model
    given = learner.forward(trees, Outputs(logprob=True)).result().logprob_N
    expected = []
    for tree in trees:
        for branch in tree.branches:
            row = torch.cat([tree.prompt_T, branch.ids_T])
            with torch.no_grad():
                table = (plain(row[None]).logits[0] / temperature).log_softmax(-1)
            expected += [table[len(tree.prompt_T) + i - 1, t] for i, t in enumerate(branch.ids_T)]
    assert torch.allclose(given, torch.stack(expected), atol=1e-5)


def test_entropy_is_over_the_whole_distribution(engine):
    trees, policy = pairs(1), tiny_policy()
    learner = engine.policy(policy)
    engine.zero(learner)
    entropy = learner.forward(trees, Outputs(entropy=True)).result().entropy_N
    assert torch.allclose(entropy, torch.log(torch.tensor(float(policy.model.config.vocab_size))).expand_as(entropy))


def test_a_reward_models_scorer_gives_its_scores(engine):
    model = RewardModel.from_backbone(tiny_policy())
    scores = engine.reward_scorer(model).forward(pairs(), Outputs(score=True)).result().score_B
    torch.testing.assert_close(scores, model.score_trees(pairs()), rtol=0, atol=1e-6)  # other batches, other rounding


def test_a_reward_model_scores_in_the_precision_it_is_given(engine):
    model = RewardModel.from_backbone(tiny_policy())
    exact, rounded = (
        engine.reward_scorer(model, precision).forward(pairs(), Outputs(score=True)).result().score_B
        for precision in (None, torch.bfloat16)
    )
    assert not torch.equal(exact, rounded) and torch.allclose(exact, rounded, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("layout", Layout)
def test_a_reward_model_gives_scores_and_log_probs_of_one_pass(engine, layout):
    """Scores are those that it gives alone, log-probs those of the language model that it was made from."""
    trees = pairs(8)  # of unlike lengths, so that no order can be mistaken for another
    reward, policy = engine.reward(layout=layout), engine.policy()
    both = reward.forward(trees, Outputs(score=True, logprob=True)).result()
    alone = reward.forward(trees, Outputs(score=True)).result()
    spoken = policy.forward(trees, Outputs(logprob=True)).result()
    torch.testing.assert_close(both.score_B, alone.score_B, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.logprob_N, spoken.logprob_N, atol=1e-4, rtol=1e-4)
    assert both.score_B.std() > 0 and both.logprob_N.std() > 0
    two = [reward.forward([tree], Outputs(score=True, logprob=True)).result() for tree in trees]
    torch.testing.assert_close(both.score_B, torch.cat([out.score_B for out in two]), atol=1e-5, rtol=1e-5)


def test_the_language_model_loss_of_a_reward_model_is_the_chosen_answers_alone(engine):
    """One pair at a time, so that the answers' lengths and order show in what is added to the loss."""
    trees = pairs(5)
    reward, policy = engine.reward(), engine.policy()
    margins = torch.zeros(len(trees))
    plain = reward.evaluate(trees, RewardObjective(margins)).result()
    mixed = reward.evaluate(trees, RewardObjective(margins, lm_coefficient=0.5)).result()
    spoken = policy.forward(trees, Outputs(logprob=True)).result().logprob_N
    lengths = [b.response_length for t in trees for b in t.branches]
    chosen = torch.cat(spoken.split(lengths)[::2])
    assert mixed["loss"] - plain["loss"] == pytest.approx(-0.5 * float(chosen.mean()), rel=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_exact_kl_is_that_between_the_whole_distributions_of_policy_and_start(engine, rank):
    """After some steps and at a temperature, against the full softmax of both models on plain rows."""
    trees, temperature = pairs(3), 0.7
    learner, plain = engine.policy(tiny_policy(lora_rank=rank), temperature=temperature), tiny_policy().model
    learner.reference()
    for _ in range(3):
        learner.forward_backward(trees, SFTObjective()).result()
        learner.step(1e-2).result()
    given = learner.forward(trees, Outputs(kl=True)).result().kl_N
    plain.load_state_dict(learner.publish().tensors)
    expected = []
    for tree in trees:
        for branch in tree.branches:
            row = torch.cat([tree.prompt_T, branch.ids_T])[None]
            with torch.no_grad():
                now, start = (
                    (model(row).logits[0, len(tree.prompt_T) - 1 : -1].double() / temperature).log_softmax(-1)
                    for model in (plain, tiny_policy().model)
                )
            expected.append((now.exp() * (now - start)).sum(-1))
    torch.testing.assert_close(given.double(), torch.cat(expected), atol=1e-4, rtol=1e-3)
    assert given.mean() > 0.05
