"""The learner's promises: one division over everything, nothing read where there is no token, a start that stays."""

import hashlib

import pytest
import torch

from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs, Term
from concordant.core.trees import Branch, Layout, PromptTree, lay_out
from concordant.engines.networks import CriticNetwork, PolicyNetwork, RewardNetwork
from concordant.engines.reward_model import RewardModel
from concordant.engines.torch_learner import TorchLearner
from concordant.models.scalar_head import build_critic
from tests.engines.tiny import tiny_policy


def pairs(count=6, seed=0):
    stream = torch.Generator().manual_seed(seed)

    def ids(low, high):
        n = int(torch.randint(low, high, (1,), generator=stream))
        return torch.randint(10, 300, (n,), generator=stream)

    return [PromptTree(ids(2, 12), (Branch.response(ids(1, 9)), Branch.response(ids(1, 9)))) for _ in range(count)]


def tokens_of(trees):
    return sum(b.response_length for t in trees for b in t.branches)


def policy_learner(trees):
    return TorchLearner(PolicyNetwork(tiny_policy()), TrainConfig())


def critic_learner(trees):
    learner = TorchLearner(CriticNetwork(build_critic(tiny_policy())), TrainConfig())
    torch.nn.init.normal_(learner.network.head.output.weight)
    return learner


def reward_learner(trees):
    return TorchLearner(RewardNetwork(RewardModel.from_backbone(tiny_policy(), keep_lm_head=True)), TrainConfig())


def random_tokens(trees, seed):
    return torch.randn(tokens_of(trees), generator=torch.Generator().manual_seed(seed))


def ppo(aggregation, estimator=""):
    def of(trees):
        old, advantage, reference = (random_tokens(trees, s) for s in range(3))
        return PolicyObjective(old - 6, advantage, reference - 6, 0.2, aggregation, 0.01, estimator, 0.1)

    return of


OBJECTIVES = {
    "sft": (policy_learner, lambda trees: SFTObjective()),
    "dpo": (policy_learner, lambda trees: DPOObjective(torch.zeros(2 * len(trees)), "sigmoid", 0.1, 0.1)),
    "ipo": (policy_learner, lambda trees: DPOObjective(torch.zeros(2 * len(trees)), "ipo", 0.1)),
    "reward": (
        reward_learner,
        lambda trees: RewardObjective(torch.linspace(-1, 1, len(trees)), 0.7, 0.1, 0.01, 0.3),
    ),
    "ppo token-mean": (policy_learner, ppo("token-mean")),
    "ppo seq-mean-token-sum": (policy_learner, ppo("seq-mean-token-sum", "k2")),
    "ppo seq-mean-token-mean": (policy_learner, ppo("seq-mean-token-mean", "k3")),
    "ppo exact kl": (policy_learner, ppo("token-mean", "exact")),
    "value": (
        critic_learner,
        lambda trees: ValueObjective(random_tokens(trees, 1), random_tokens(trees, 2), 0.2, 0.5),
    ),
}


def gradient_and_metrics(make_learner, make_objective, trees, max_tokens, layout):
    learner = make_learner(trees)
    learner.config.micro_batch_tokens = max_tokens
    learner.network.layout = layout
    metrics = learner.forward_backward(trees, make_objective(trees))
    return torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None]), metrics


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_and_metrics_are_equal_for_every_split_and_layout(name):
    """Micro-batch size, packing and layout cannot change a gradient."""
    trees = pairs()
    whole, metrics = gradient_and_metrics(*OBJECTIVES[name], trees, 10**6, Layout.TREE)
    assert whole.abs().max() > 0
    for max_tokens, layout in ((1, Layout.TREE), (40, Layout.TREE), (10**6, Layout.FLAT), (50, Layout.FLAT)):
        cut, same = gradient_and_metrics(*OBJECTIVES[name], trees, max_tokens, layout)
        assert (cut - whole).norm() < 2e-5 * whole.norm(), (max_tokens, layout)
        assert same == pytest.approx(metrics, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["sft", "ppo exact kl", "value"])
def test_a_gradient_is_the_same_to_the_bit_with_two_threads(name):
    """The end of a trunk predicts the first token of every branch: forty parts, added up in one order."""
    make_learner, make_objective = OBJECTIVES[name]
    trees = [PromptTree(torch.arange(10, 15), tuple(Branch.response(torch.arange(9, 69).roll(i)) for i in range(40)))]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        learner, seen = make_learner(trees), set()
        for _ in range(8):
            learner.forward_backward(trees, make_objective(trees))
            seen.add(b"".join(p.grad.numpy().tobytes() for p in learner.parameters if p.grad is not None))
            learner.discard()
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1


@pytest.mark.parametrize("layout", Layout)
def test_numbers_come_back_in_the_callers_order(layout):
    trees = pairs()
    learner = policy_learner(trees)
    learner.network.layout = layout
    together = learner.forward(trees, Outputs(logprob=True)).logprob_N
    alone = torch.cat([learner.forward([t], Outputs(logprob=True)).logprob_N for t in trees])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_log_prob_is_the_full_softmax_of_a_plain_row():
    trees, temperature = pairs(3), 0.7
    policy = tiny_policy()
    learner = TorchLearner(PolicyNetwork(policy), TrainConfig(), temperature=temperature)
    given = learner.forward(trees, Outputs(logprob=True)).logprob_N
    expected = []
    for tree in trees:
        for branch in tree.branches:
            row = torch.cat([tree.prompt_P, branch.ids_T])
            with torch.no_grad():
                table = (policy.model(row[None]).logits[0] / temperature).log_softmax(-1)
            expected += [table[len(tree.prompt_P) + i - 1, t] for i, t in enumerate(branch.ids_T)]
    assert torch.allclose(given, torch.stack(expected), atol=1e-5)


def test_entropy_is_over_the_whole_distribution():
    trees = pairs(1)
    learner = policy_learner(trees)
    with torch.no_grad():
        for p in learner.network.parameters():
            p.zero_()
    entropy = learner.forward(trees, Outputs(entropy=True)).entropy_N
    assert torch.allclose(entropy, torch.log(torch.tensor(float(learner.network.vocabulary))).expand_as(entropy))


def test_a_tiny_step_in_bf16_reaches_the_weights():
    learner = TorchLearner(PolicyNetwork(tiny_policy()), TrainConfig(), precision=torch.bfloat16)
    before = learner.snapshot()
    learner.forward_backward(pairs(), SFTObjective())
    learner.step(1e-6)
    moved = [name for name, value in learner.snapshot().items() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    learner = policy_learner(pairs())
    before = learner.snapshot()
    learner.forward_backward(pairs(), SFTObjective())
    learner.parameters[0].grad[0, 0] = float("nan")
    assert learner.step(1e-3).skipped and learner.version == 0
    assert all(torch.equal(value, before[name]) for name, value in learner.snapshot().items())
    learner.forward_backward(pairs(), SFTObjective())
    assert not learner.step(1e-3).skipped and learner.version == 1


def fingerprint(learner):
    state = learner.network.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


@pytest.mark.parametrize("rank", [0, 4])
def test_the_reference_is_the_start_and_never_moves(rank):
    trees = pairs()
    learner = TorchLearner(PolicyNetwork(tiny_policy(lora_rank=rank)), TrainConfig())
    reference = learner.reference()
    start = reference_logprobs(reference, trees)
    assert torch.equal(start, reference_logprobs(learner, trees))
    exact = learner.forward(trees, Outputs(kl=True)).kl_N
    assert exact.abs().max() == 0
    for _ in range(3):
        learner.forward_backward(trees, SFTObjective())
        learner.step(1e-2)
    assert torch.equal(start, reference_logprobs(reference, trees))
    assert not torch.allclose(start, reference_logprobs(learner, trees), atol=1e-2)
    assert learner.forward(trees, Outputs(kl=True)).kl_N.sum() > 0.01


def test_with_lora_the_reference_shares_the_backbone():
    learner = TorchLearner(PolicyNetwork(tiny_policy(lora_rank=4)), TrainConfig())
    assert learner.reference().network.model is learner.network.model


def test_state_comes_back_to_the_same_next_step():
    trees = pairs()
    one, two = policy_learner(trees), policy_learner(trees)
    for learner in (one, two):
        learner.forward_backward(trees, SFTObjective())
        learner.step(1e-3)
    resumed = policy_learner(trees)
    resumed.load_state_dict(two.state_dict())
    for learner in (one, resumed):
        learner.forward_backward(trees[::-1], SFTObjective())
        learner.step(1e-3)
    assert fingerprint(one) == fingerprint(resumed)


class NotANumber(SFTObjective):
    """A loss that is not finite beside a gradient that is."""

    def __call__(self, out, batch):
        evaluated = super().__call__(out, batch)
        evaluated.terms["constant"] = Term(torch.tensor(float("nan")))
        return evaluated

    def weights(self, batch):
        return {**super().weights(batch), "constant": 1.0}


def test_a_loss_that_is_not_finite_leaves_the_weights_alone_once():
    trees = pairs()
    learner = policy_learner(trees)
    before = fingerprint(learner)
    learner.forward_backward(trees, NotANumber())
    assert learner.step(1e-3).skipped and fingerprint(learner) == before
    learner.forward_backward(trees, SFTObjective())
    assert not learner.step(1e-3).skipped and fingerprint(learner) != before


def test_padding_is_never_read():
    """Poison: whatever stands where there is no token, the numbers stay."""
    learner = policy_learner(pairs())
    learner.network.layout = Layout.FLAT
    batch = lay_out(pairs(), Layout.FLAT)
    assert not batch.is_token_RL.all()
    clean = learner.network(batch, Outputs(logprob=True)).logprob_N
    batch.ids_RL[~batch.is_token_RL] = 7
    assert torch.equal(learner.network(batch, Outputs(logprob=True)).logprob_N, clean)
