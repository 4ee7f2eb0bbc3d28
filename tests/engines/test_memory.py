"""Memory that runs out: told apart, told with the way out, and halved away without touching the gradient."""

from __future__ import annotations

import pytest
import torch

from concordant.algorithms.sft import SFTObjective
from concordant.config.train import TrainConfig
from concordant.core.errors import RunFailed
from concordant.core.objective import Outputs
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.memory import enough_memory, is_out_of_memory
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy


class Short(PolicyNetwork):
    """Has room for so many tokens; a batch with more fails after a part of its gradient has arrived."""

    room = 10**9

    def forward(self, batch, want, temperature=1.0, reference=None):
        out = super().forward(batch, want, temperature, reference)
        if batch.ids_RL.numel() > self.room:
            if out.logprob_N.requires_grad:
                out.logprob_N.sum().backward()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return out


def learner(**settings):
    made = LocalLearner(Short(tiny_policy()), TrainConfig(micro_batch_tokens=512, **settings), row_tokens=16)
    return made


def gradient(made):
    return torch.cat([p.grad.flatten() for p in made.parameters])


def test_a_real_failure_of_the_cpu_allocator_is_recognised():
    said = "^out of memory while dreaming: sleep less$"
    with pytest.raises(RunFailed, match=said) as caught, enough_memory("dreaming", "sleep less"):
        torch.empty(2**50)
    assert is_out_of_memory(caught.value.__cause__)


def test_no_memory_for_the_code_of_a_product_is_recognised():
    """Seen with an address space of 400 MB; oneDNN says no more than this."""
    with pytest.raises(RunFailed, match="^out of memory"), enough_memory("dreaming", "sleep less"):
        raise RuntimeError("could not create a primitive")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="size of tensor"), enough_memory("x", "y"):
        torch.ones(2) + torch.ones(3)


def test_the_setting_to_lower_is_named():
    made = learner()
    made.network.room = 100
    with pytest.raises(
        RunFailed, match=r"out of memory while computing the gradient: lower train.micro_batch_tokens \(now"
    ):
        made.forward_backward(pairs(20), SFTObjective()).result()


def test_halving_gives_the_same_gradient_on_top_of_what_was_there():
    first, trees = pairs(4, seed=1), pairs(20)
    whole, halved = learner(), learner(halve_on_oom=True)
    for made in (whole, halved):
        made.forward_backward(first, SFTObjective()).result()  # an earlier term of the same step
        halved.network.room = 100
        metrics = made.forward_backward(trees, SFTObjective()).result()
    assert halved.halvings == 3 and metrics["micro_batch_tokens"] == 64
    torch.testing.assert_close(gradient(halved), gradient(whole), rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == pytest.approx(whole.evaluate(trees, SFTObjective()).result()["loss"], rel=1e-5)


def test_what_was_halved_stays_so_after_a_resume(tmp_path):
    made, resumed = learner(halve_on_oom=True), learner(halve_on_oom=True)
    made.network.room = 100
    made.forward(pairs(40), Outputs(logprob=True)).result()
    made.save(tmp_path)
    resumed.load(tmp_path)
    assert resumed.halvings == made.halvings > 0


def test_a_single_tree_that_does_not_fit_is_an_end():
    made = learner(halve_on_oom=True)
    made.network.room = 1
    with pytest.raises(RunFailed, match=r"train.micro_batch_tokens \(now 1\)"):
        made.forward_backward(pairs(2), SFTObjective()).result()
