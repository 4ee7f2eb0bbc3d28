"""What is true of the learner of this process alone."""

import pytest
import torch

from concordant.algorithms.sft import SFTObjective
from concordant.config.train import TrainConfig
from concordant.core.alive import heard_by
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from concordant.core.trees import Layout, lay_out
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork, RewardNetwork
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.reward_model import RewardModel
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy


def test_with_lora_the_reference_shares_the_backbone():
    learner = LocalLearner(PolicyNetwork(tiny_policy(lora_rank=4)), TrainConfig())
    assert learner.reference().network.model is learner.network.model


def test_a_scorer_has_no_optimizer_and_a_learner_without_weights_is_refused():
    frozen = PolicyNetwork(tiny_policy()).frozen()
    assert not hasattr(LocalScorer(frozen), "optimizer")
    with pytest.raises(ValueError, match="no weight of this network is trainable"):
        LocalLearner(frozen, TrainConfig())


def test_publishing_copies_nothing():
    policy = tiny_policy()
    weights = LocalLearner(PolicyNetwork(policy), TrainConfig()).publish()
    assert weights.model is policy.model
    assert weights.tensors["lm_head.weight"].data_ptr() == policy.model.lm_head.weight.data_ptr()


def test_padding_is_never_read():
    """Poison: whatever stands where there is no token, the numbers stay."""
    learner = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig())
    learner.network.layout = Layout.FLAT
    batch = lay_out(pairs(), Layout.FLAT)
    assert not batch.is_token_RL.all()
    clean = learner.network(batch, Outputs(logprob=True)).logprob_N
    batch.ids_RL[~batch.is_token_RL] = 7
    assert torch.equal(learner.network(batch, Outputs(logprob=True)).logprob_N, clean)


def test_weight_decay_shrinks_matrices_and_leaves_vectors_alone():
    """Without a gradient a step at rate 0.1 with decay 0.5 takes a twentieth of every matrix."""
    learner = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig(weight_decay=0.5))
    before = [p.detach().clone() for p in learner.parameters]
    for p in learner.parameters:
        p.grad = torch.zeros_like(p)
    learner.step(0.1).result()
    assert {p.ndim for p in learner.parameters} == {1, 2}
    for p, old in zip(learner.parameters, before, strict=True):
        torch.testing.assert_close(p.detach(), old if p.ndim == 1 else 0.95 * old)


def test_the_norm_that_is_logged_is_that_before_clipping():
    norms = []
    for limit in (0.0, 1e-3):
        learner = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig(max_grad_norm=limit))
        learner.forward_backward(pairs(), SFTObjective()).result()
        norms.append(learner.step(1e-3).result().grad_norm)
    assert norms[0] == norms[1] > 1e-3


def test_every_micro_batch_gives_a_sign_of_life():
    signs = []
    learner = LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig(micro_batch_tokens=32))
    with heard_by(lambda *sign: signs.append(sign)):
        learner.forward_backward(pairs(), SFTObjective()).result()
        assert len(signs) > 1 and signs == [("micro-batches", i, len(signs)) for i in range(len(signs))]
        signs.clear()
        learner.forward(pairs(), Outputs(logprob=True)).result()
    assert signs and {counted for counted, _, _ in signs} == {"forward passes"}


def test_a_checkpoint_of_another_model_is_refused_by_the_name_of_a_weight(tmp_path):
    two, three = (
        LocalLearner(RewardNetwork(RewardModel.from_backbone(tiny_policy(), heads=k)), TrainConfig()) for k in (2, 3)
    )
    two.save(tmp_path)
    with pytest.raises(UserError, match=r"score.weight has the shape \(2, 32\) there, and the shape \(3, 32\) here"):
        three.load(tmp_path)
