"""Weights for others: what a learner publishes loads into plain transformers and into PEFT."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from concordant.algorithms.sft import SFTObjective
from concordant.core.objective import Outputs
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.local.scorer import LocalScorer
from concordant.models.lora import lora_layers
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy


def learnt(engine, rank=0):
    policy = tiny_policy(lora_rank=rank)
    learner = engine.policy(policy)
    for _ in range(3):
        learner.forward_backward(pairs(), SFTObjective()).result()
        learner.step(1e-2).result()
    return policy, learner


def logprobs_of(model):
    """By a scorer of this process."""
    scorer = LocalScorer(PolicyNetwork(replace(tiny_policy(), model=model)))
    return scorer.forward(pairs(), Outputs(logprob=True)).result().logprob_N


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 40)[None]).logits


@pytest.mark.parametrize("rank", [0, 4])
def test_published_weights_load_into_plain_transformers(engine, rank):
    policy, learner = learnt(engine, rank)
    weights = learner.publish()
    assert (weights.version, weights.adapters) == (3, "merged")
    plain = LlamaForCausalLM(policy.model.config)
    plain.load_state_dict(weights.tensors)
    own = learner.forward(pairs(), Outputs(logprob=True)).result().logprob_N
    torch.testing.assert_close(logprobs_of(plain), own, rtol=1e-4, atol=1e-5)


def test_an_adapter_published_apart_loads_into_peft(engine):
    peft = pytest.importorskip("peft")
    policy, learner = learnt(engine, rank=4)
    weights = learner.publish("apart")
    layer = next(iter(lora_layers(policy.model).values()))
    adapter = layer.adapter("default")
    targets = sorted({path.rpartition(".")[2] for path in lora_layers(policy.model)})
    config = peft.LoraConfig(r=adapter.r, lora_alpha=adapter.alpha, target_modules=targets, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny_policy().model, config)
    left = peft.set_peft_model_state_dict(theirs, dict(weights.tensors))
    assert not left.unexpected_keys and not [name for name in left.missing_keys if "lora_" in name]
    torch.testing.assert_close(logits_of(theirs.eval()), logits_of(policy.model), rtol=1e-4, atol=1e-5)


def test_without_an_adapter_there_is_nothing_to_publish_apart(engine):
    with pytest.raises(ValueError, match="no active adapter"):
        dict(engine.policy().publish("apart").tensors)
