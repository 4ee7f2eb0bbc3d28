"""Faults planted in learners, references and samplers; a healthy start says nothing and stays as it was."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softplus

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective
from concordant.algorithms.supervised import Course, Examples, Supervised
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.core.pair_losses import PREFERENCE_LOSSES, PreferenceLoss
from concordant.doctor import preflight_model
from concordant.doctor.preflight_model import check_ppo, check_supervised, gradients, longest
from concordant.doctor.preflight_start import untrained_start
from concordant.engines.local import learner as local_learner
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork, RewardNetwork
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.reward_model import RewardModel
from concordant.models.lora import lora_layers
from tests.algorithms.worlds import make_ppo, tree
from tests.engines.tiny import tiny_policy

PAIRS = [tree([8 + i, 9, 10], [11, 12 + i], prompt=(5, 6 + i)) for i in range(40)]
TRAIN = TrainConfig(batch_size=8)


def learner_of(lora_rank=0, **settings):
    return LocalLearner(PolicyNetwork(tiny_policy(0, lora_rank)), replace(TRAIN, **settings))


def supervised(learner, objective_of, trees=PAIRS):
    course = Course(config=learner.config, seed=0)
    return Supervised(learner, Examples(trees, objective_of), Examples([], objective_of), course)


def sft(learner, trees=PAIRS):
    return supervised(learner, lambda _: SFTObjective(), trees)


def dpo(learner, reference_B=None, loss="sigmoid"):
    reference_B = reference_logprobs(learner.reference(), PAIRS) if reference_B is None else reference_B
    return supervised(learner, lambda numbers: DPOObjective(reference_B[branches_of(numbers)], loss, 0.5))


def reward(learner, flip=1.0):
    class Flipped(RewardObjective):
        def __call__(self, out, batch):
            out.score_B = flip * out.score_B
            return super().__call__(out, batch)

    return supervised(learner, lambda numbers: Flipped(torch.zeros(len(numbers))))


def only(findings):
    (finding,) = findings
    return finding


# -- healthy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("loss", ["sigmoid", "robust", "ipo"])
def test_a_healthy_dpo_says_nothing(lora_rank, loss):
    assert check_supervised(dpo(learner_of(lora_rank), loss=loss), has_own_reference=False) == []


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_healthy_ppo_says_nothing(advantage, lora_rank):
    assert check_ppo(make_ppo(lora_rank=lora_rank, advantage=advantage), has_own_reference=False) == []


def test_another_temperature_is_healthy_when_both_have_it():
    assert check_ppo(make_ppo(sampling={"temperature": 0.7}), has_own_reference=False) == []


def test_nothing_of_the_learner_moves():
    learner = learner_of(4)
    algorithm = dpo(learner)
    for layer in lora_layers(learner.network).values():
        layer.adapter("default").dropout.p = 0.5  # draws from the global stream
    learner.network.policy.model.model.layers[0].eval()
    before = {name: p.clone() for name, p in learner.network.named_parameters()}
    modes = [m.training for m in learner.network.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_supervised(algorithm, has_own_reference=False)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in learner.network.named_parameters())
    assert [m.training for m in learner.network.modules()] == modes and learner.version == 0


# -- the longest batch ----------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "batch_size", "count"), [(100, 10, 3), (100, 2, 2), (10, 10, 1), (10**6, 50, 30)])
def test_the_trial_step_is_on_the_longest_trees(limit, batch_size, count):
    """They fill a micro-batch, and no more of them than a batch has are taken."""
    trees = [tree(list(range(5, 6 + i)), [7]) for i in range(30)]
    learner = learner_of(micro_batch_tokens=limit)
    tried = longest(trees, learner, batch_size)
    assert sorted(tried, reverse=True) == list(range(29, 29 - count, -1))
    batches = learner.network.batches([trees[i] for i in tried], limit, learner.row_tokens)
    whole = learner.network.batches(trees, limit, learner.row_tokens)
    assert batch_size < 3 or batches[0].ids_RL.shape == whole[0].ids_RL.shape


@pytest.mark.parametrize("problem", [torch.OutOfMemoryError("CUDA"), RuntimeError("[...] can't allocate memory: 9")])
@pytest.mark.parametrize(("halve", "tokens"), [(False, 768), (True, 7)])  # halved down to the longest tree
def test_a_batch_that_does_not_fit(monkeypatch, problem, halve, tokens):
    def no_room(self, batch, want):
        raise problem

    monkeypatch.setattr(LocalLearner, "_outputs", no_room)
    learner = learner_of(halve_on_oom=halve)
    finding = only(check_supervised(sft(learner), has_own_reference=False))
    assert learner.halvings == 0
    assert (finding.rule, finding.severity) == ("memory", "error")
    assert f"--train.micro_batch_tokens {tokens} " in finding.cure


def test_another_error_is_not_taken_for_memory(monkeypatch):
    def broken(self, trees, objective):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(LocalLearner, "forward_backward", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        check_supervised(sft(learner_of()), has_own_reference=False)


def test_the_optimizers_memory_is_still_to_come(monkeypatch):
    learner = learner_of()
    moments = 8 * sum(p.numel() for p in learner.parameters)
    monkeypatch.setattr(local_learner, "peak_of_process", lambda: 10**6)
    monkeypatch.setattr(local_learner, "total_memory", lambda: int((10**6 + moments) / 0.9) - 9)
    finding = only(check_supervised(sft(learner), has_own_reference=False))
    assert (finding.rule, finding.severity, finding.numbers["moments"]) == ("memory", "warning", moments)
    monkeypatch.setattr(local_learner, "total_memory", lambda: int((10**6 + moments) / 0.9) + 9)
    assert check_supervised(sft(learner), has_own_reference=False) == []


# -- whom the gradient reaches --------------------------------------------------------------------


def test_a_trained_tensor_that_no_gradient_reaches():
    learner = learner_of()
    learner.network.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    learner.trained["unused"] = learner.network.unused
    finding = only(check_supervised(sft(learner), has_own_reference=False))
    assert (finding.rule, finding.severity) == ("gradient_missing", "warning") and "unused" in finding.seen


def test_a_head_that_was_detached():
    learner = learner_of()
    predicting = learner.network.predicting
    learner.network.predicting = lambda batch: predicting(batch).detach()
    finding = only(check_supervised(sft(learner), has_own_reference=False))
    assert finding.rule == "gradient_missing" and "model.layers.0" in finding.seen


def test_a_loss_that_is_constant():
    learner = learner_of()
    for p in learner.parameters:
        p.grad = torch.zeros_like(p)
    finding = only(gradients(learner))
    assert (finding.rule, finding.severity) == ("gradient_missing", "error") and "0 everywhere" in finding.seen


def test_a_frozen_tensor_that_receives_a_gradient():
    learner = learner_of(lora_rank=4)
    norm = learner.network.policy.model.model.norm.weight.requires_grad_()
    finding = only(check_supervised(sft(learner), has_own_reference=False))
    assert (finding.rule, finding.numbers["tensors"]) == ("gradient_frozen", 1) and "norm.weight" in finding.seen
    assert norm.grad is None, "it is cleared, though no optimizer would have"


def test_a_gradient_that_is_no_number():
    learner = learner_of()
    with torch.no_grad():
        learner.network.policy.model.model.norm.weight[0] = math.nan
    assert only(check_supervised(sft(learner), has_own_reference=False)).rule == "not_finite"


# -- what holds before the first step -------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo_with_a_reference_that_is_not_the_start(loss):
    learner = learner_of()
    other = LocalScorer(PolicyNetwork(tiny_policy(1)))
    algorithm = dpo(learner, reference_logprobs(other, PAIRS), loss)
    finding = only(check_supervised(algorithm, has_own_reference=False))
    assert (finding.rule, finding.severity) == ("reference_not_start", "error")
    assert check_supervised(algorithm, has_own_reference=True) == []


def test_dpo_with_errors_that_cancel_in_the_mean():
    """Chosen a nat too high, rejected a nat too low, by turns: only branch by branch it shows."""
    learner = learner_of()
    wrong_B = reference_logprobs(learner.reference(), PAIRS) + torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(20)
    assert only(check_supervised(dpo(learner, wrong_B, "ipo"), has_own_reference=False)).rule == "reference_not_start"


def test_dpo_with_a_loss_that_is_not_ln_2_for_equal_policies(monkeypatch):
    """Label smoothing as (1-ε)·loss + ε/2, as a tutorial has it: the loss starts at 0.9·0.6931 + 0.05."""
    wrong = PreferenceLoss(lambda x_P, beta, e: (1 - e) * softplus(-beta * x_P) + e * 0.5, length_mean=False)
    monkeypatch.setitem(PREFERENCE_LOSSES, "sigmoid", wrong)
    learner = learner_of()
    reference_B = reference_logprobs(learner.reference(), PAIRS)
    smoothed = supervised(learner, lambda numbers: DPOObjective(reference_B[branches_of(numbers)], "sigmoid", 0.5, 0.1))
    finding = only(check_supervised(smoothed, has_own_reference=False))
    assert "0.6738" in finding.seen and "loss itself" in finding.cause


def test_ppo_with_a_reference_that_is_not_the_start():
    ppo = make_ppo()
    ppo.reference = LocalScorer(PolicyNetwork(tiny_policy(2)))
    assert only(check_ppo(ppo, has_own_reference=False)).rule == "reference_not_start"
    assert check_ppo(ppo, has_own_reference=True) == []


def test_ppo_with_dropout_that_is_on_while_learning():
    ppo = make_ppo(lora_rank=4)
    for layer in lora_layers(ppo.actor.network).values():
        adapter = layer.adapter("default")
        adapter.dropout.p = 0.5
        torch.nn.init.normal_(adapter.lora_B)
    ppo.reference = ppo.actor  # the adapter has moved, and so has what it is compared with
    assert only(check_ppo(ppo, has_own_reference=False)).rule == "dropout_on"


@pytest.mark.parametrize("fault", ["temperature", "weights"])
def test_a_sampler_that_is_not_the_learner(fault):
    ppo = make_ppo(sampling={"temperature": 0.6, "max_new_tokens": 16})
    if fault == "temperature":
        ppo.actor.temperature = ppo.reference.temperature = 1.0
    else:
        stale = ppo.sampler.generator.model = tiny_policy(5).model
        ppo.sampler.generator.load_weights = lambda weights: None
        assert stale is not ppo.actor.network.sampled
    finding = only(check_ppo(ppo, has_own_reference=False))
    assert (finding.rule, finding.severity) == ("sampler_differs", "error")


def test_a_truncated_sampler_that_was_accepted_by_name():
    ppo = make_ppo(sampling={"top_k": 5, "max_new_tokens": 16}, allow_truncated_sampling=True)
    finding = only(check_ppo(ppo, has_own_reference=False))
    assert (finding.rule, finding.severity) == ("sampler_differs", "warning")


def test_a_reward_model_that_knows_the_opposite():
    learner = LocalLearner(RewardNetwork(RewardModel.from_backbone(tiny_policy())), TRAIN)
    for _ in range(30):
        learner.forward_backward(PAIRS, RewardObjective(torch.zeros(len(PAIRS)))).result()
        learner.step(1e-3).result()
    assert check_supervised(reward(learner), has_own_reference=False) == []
    finding = only(check_supervised(reward(learner, flip=-1.0), has_own_reference=False))
    assert (finding.rule, finding.severity) == ("labels_swapped", "warning") and finding.numbers["accuracy"] < 0.25
    assert check_supervised(reward(learner, flip=-0.01), has_own_reference=False) == [], "a new head is sure of nothing"


def test_what_the_run_would_refuse_is_refused():
    """A prompt that leaves no room for an answer is the user's to mend, and no finding."""
    ppo = make_ppo(sampling={"max_new_tokens": 16})
    ppo.sampler.generator.model.config.max_position_embeddings = 1
    with pytest.raises(UserError, match="positions"), ppo.actor.rehearsal():
        preflight_model.sample(ppo)


def test_a_start_that_guesses_and_a_start_that_knows_other_text():
    guess = math.log(1000)
    assert untrained_start(guess - 1, 1000) == []
    assert "untrained" in untrained_start(guess, 1000)[0].cause
    assert untrained_start(guess + 1, 1000) == [], "who is wrong more often than a guess has learnt other text"
