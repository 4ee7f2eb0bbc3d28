"""The learner's promises: one division over everything, nothing read where there is no token, a start that stays."""

import pytest
import torch

from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.sft import SFTObjective
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs, Term
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from tests.engines.conformance.factory import ENGINES
from tests.engines.tiny import tiny_policy


def pairs(count=6, seed=0):
    stream = torch.Generator().manual_seed(seed)

    def ids(low, high):
        n = int(torch.randint(low, high, (1,), generator=stream))
        return torch.randint(10, 300, (n,), generator=stream)

    return [PromptTree(ids(2, 12), (Branch.response(ids(1, 9)), Branch.response(ids(1, 9)))) for _ in range(count)]


def tokens_of(trees):
    return sum(b.response_length for t in trees for b in t.branches)


def random_tokens(trees, seed):
    return torch.randn(tokens_of(trees), generator=torch.Generator().manual_seed(seed))


def ppo(aggregation, estimator="", **loss):
    def of(trees):
        old, advantage, reference = (random_tokens(trees, s) for s in range(3))
        return PolicyObjective(old - 6, advantage, reference - 6, 0.2, aggregation, 0.01, estimator, 0.1, **loss)

    return of


OBJECTIVES = {
    "sft": ("policy", lambda trees: SFTObjective()),
    "dpo": ("policy", lambda trees: DPOObjective(torch.zeros(2 * len(trees)), "sigmoid", 0.1, 0.1)),
    "ipo": ("policy", lambda trees: DPOObjective(torch.zeros(2 * len(trees)), "ipo", 0.1)),
    "reward": (
        "reward",
        lambda trees: RewardObjective(torch.linspace(-1, 1, len(trees)), 0.7, 0.1, 0.01, 0.3),
    ),
    "ppo token-mean": ("policy", ppo("token-mean")),
    "ppo seq-mean-token-sum": ("policy", ppo("seq-mean-token-sum", "k2")),
    "ppo seq-mean-token-mean": ("policy", ppo("seq-mean-token-mean", "k3")),
    "ppo exact kl": ("policy", ppo("token-mean", "exact")),
    # A ratio of a whole answer and a constant length are sums too, and are divided once.
    "gspo, constant length": ("policy", ppo("seq-mean-token-sum-norm", "k3+", loss="gspo", clip_high=0.3, limit=9)),
    "cispo": ("policy", ppo("token-mean", loss="cispo", clip_high=4.0)),
    "value": (
        "critic",
        lambda trees: ValueObjective(random_tokens(trees, 1), random_tokens(trees, 2), 0.2, 0.5),
    ),
}


def made(engine, role, **settings):
    return getattr(engine, role)(**settings)


def gradient_and_metrics(engine, name, trees, max_tokens, layout):
    role, objective_of = OBJECTIVES[name]
    learner = made(engine, role, train=TrainConfig(micro_batch_tokens=max_tokens), layout=layout)
    metrics = learner.forward_backward(trees, objective_of(trees)).result()
    return engine.gradient(learner), metrics


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_and_metrics_are_equal_for_every_engine_split_and_layout(engine, name):
    """Shards, processes, micro-batch size, packing and layout cannot change a gradient."""
    trees, whole_tree = pairs(), (10**6, Layout.TREE)
    whole, metrics = gradient_and_metrics(ENGINES["local"], name, trees, *whole_tree)
    assert whole.abs().max() > 0
    for max_tokens, layout in (
        whole_tree,
        (1, Layout.TREE),
        (40, Layout.TREE),
        (10**6, Layout.FLAT),
        (50, Layout.FLAT),
    ):
        cut, same = gradient_and_metrics(engine, name, trees, max_tokens, layout)
        assert (cut - whole).norm() < 2e-5 * whole.norm(), (max_tokens, layout)
        assert same == pytest.approx(metrics, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["sft", "ppo exact kl", "value"])
def test_a_gradient_is_the_same_to_the_bit_with_two_threads(engine, name):
    """The end of a trunk predicts the first token of every branch: forty parts, added up in one order."""
    role, objective_of = OBJECTIVES[name]
    trees = [PromptTree(torch.arange(10, 15), tuple(Branch.response(torch.arange(9, 69).roll(i)) for i in range(40)))]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        learner, seen = made(engine, role), set()
        for _ in range(8):
            learner.forward_backward(trees, objective_of(trees)).result()
            seen.add(engine.gradient(learner).numpy().tobytes())
            learner.discard()
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1


def test_a_tiny_step_in_bf16_reaches_the_weights(engine):
    learner = engine.policy(precision=torch.bfloat16)
    before = engine.weights(learner)
    learner.forward_backward(pairs(), SFTObjective()).result()
    learner.step(1e-6).result()
    moved = [name for name, value in engine.weights(learner).items() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)


def same_weights(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_step_that_is_not_finite_is_skipped_and_counted(engine):
    learner = engine.policy()
    before = engine.weights(learner)
    learner.forward_backward(pairs(), SFTObjective()).result()
    engine.poison(learner)
    assert learner.step(1e-3).result().skipped and learner.version == 0
    assert same_weights(engine.weights(learner), before)
    learner.forward_backward(pairs(), SFTObjective()).result()
    assert not learner.step(1e-3).result().skipped and learner.version == 1


@pytest.mark.parametrize("rank", [0, 4])
def test_the_reference_is_the_start_and_never_moves(engine, rank):
    trees = pairs()
    learner = engine.policy(tiny_policy(lora_rank=rank))
    reference = learner.reference()
    start = reference_logprobs(reference, trees)
    assert torch.equal(start, reference_logprobs(learner, trees))
    exact = learner.forward(trees, Outputs(kl=True)).result().kl_N
    assert exact.abs().max() == 0
    for _ in range(3):
        learner.forward_backward(trees, SFTObjective()).result()
        learner.step(1e-2).result()
    assert torch.equal(start, reference_logprobs(reference, trees))
    assert not torch.allclose(start, reference_logprobs(learner, trees), atol=1e-2)
    assert learner.forward(trees, Outputs(kl=True)).result().kl_N.sum() > 0.01


def test_state_comes_back_to_the_same_next_step(engine, tmp_path):
    trees = pairs()
    one, two = engine.policy(), engine.policy()
    for learner in (one, two):
        learner.forward_backward(trees, SFTObjective()).result()
        learner.step(1e-3).result()
    resumed = engine.policy()
    two.save(tmp_path)
    resumed.load(tmp_path)
    for learner in (one, resumed):
        learner.forward_backward(trees[::-1], SFTObjective()).result()
        learner.step(1e-3).result()
    assert same_weights(engine.weights(one), engine.weights(resumed))


class NotANumber(SFTObjective):
    """A loss that is not finite beside a gradient that is."""

    def __call__(self, out, batch):
        evaluated = super().__call__(out, batch)
        evaluated.terms["constant"] = Term(torch.tensor(float("nan")))
        return evaluated

    def weights(self, batch):
        return {**super().weights(batch), "constant": 1.0}


def test_a_loss_that_is_not_finite_leaves_the_weights_alone_once(engine):
    trees = pairs()
    learner = engine.policy()
    before = engine.weights(learner)
    learner.forward_backward(trees, NotANumber()).result()
    assert learner.step(1e-3).result().skipped and same_weights(engine.weights(learner), before)
    learner.forward_backward(trees, SFTObjective()).result()
    assert not learner.step(1e-3).result().skipped and not same_weights(engine.weights(learner), before)


def test_kept_weights_come_back_through_a_checkpoint(engine, tmp_path):
    learner, resumed = engine.policy(), engine.policy()
    with pytest.raises(ValueError, match="no weights were kept"):
        learner.restore()
    best = engine.weights(learner)
    learner.keep()
    learner.forward_backward(pairs(), SFTObjective()).result()
    learner.step(1e-2).result()
    last = engine.weights(learner)
    learner.save(tmp_path)
    resumed.load(tmp_path)
    assert same_weights(engine.weights(resumed), last)
    for one in (learner, resumed):
        one.restore()
        assert same_weights(engine.weights(one), best) and not same_weights(best, last)
        one.forget()
        with pytest.raises(ValueError, match="no weights were kept"):
            one.restore()


def test_a_checkpoint_is_as_large_as_was_said_and_holds_no_pickle(engine, tmp_path):
    learner = engine.policy(tiny_policy(hidden_size=128))
    learner.forward_backward(pairs(), SFTObjective()).result()
    learner.step(1e-3).result()
    for keeps in (False, True):
        if keeps:
            learner.keep()
        learner.save(tmp_path)
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert learner.checkpoint_bytes(keeps) == pytest.approx(size, rel=0.05)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}


def test_a_discarded_gradient_is_gone(engine):
    once, twice = engine.policy(), engine.policy()
    twice.forward_backward(pairs(seed=5), NotANumber()).result()
    twice.discard()
    for learner in (once, twice):
        learner.forward_backward(pairs(), SFTObjective()).result()
    assert torch.equal(engine.gradient(once), engine.gradient(twice))
    assert not twice.step(1e-3).result().skipped


def test_pieces_of_a_step_add_up(engine):
    first, second = pairs(seed=1), pairs(seed=2)
    gradients = []
    for given in ([first], [second], [first, second]):
        learner = engine.policy()
        for trees in given:
            learner.forward_backward(trees, SFTObjective()).result()
        gradients.append(engine.gradient(learner))
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2], rtol=1e-4, atol=1e-6)


def test_what_is_evaluated_is_what_is_learnt_from(engine):
    learner = engine.policy()
    evaluated = learner.evaluate(pairs(), SFTObjective()).result()
    assert evaluated == pytest.approx(learner.forward_backward(pairs(), SFTObjective()).result(), rel=1e-5)
    assert engine.scorer(tiny_policy()).evaluate(pairs(), SFTObjective()).result() == pytest.approx(evaluated, rel=1e-5)


def test_a_description_counts_what_is_trained(engine):
    whole, adapted = engine.policy().describe(), engine.policy(tiny_policy(lora_rank=4)).describe()
    assert whole.trained == whole.weights == sum(p.numel() for p in tiny_policy().model.parameters())
    assert 0 < adapted.trained == adapted.weights - whole.weights
    assert engine.scorer(tiny_policy()).describe().trained == 0


def test_a_gradient_is_reported_where_it_arrived(engine):
    learner = engine.policy(tiny_policy(lora_rank=4))
    assert not any(row.came for row in learner.reached())
    learner.forward_backward(pairs(), SFTObjective()).result()
    rows = learner.reached()
    assert all(row.came == row.is_trained == ("lora_" in row.name) for row in rows)
    assert all(row.is_finite for row in rows)
    # An adapter's B starts at 0, so at first no gradient gets past B to A.
    assert [row.is_zero for row in rows if row.came] == ["lora_A" in row.name for row in rows if row.came]


def test_a_rehearsal_leaves_no_trace(engine):
    learner, other = engine.policy(), engine.policy()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with learner.rehearsal():
        learner.forward_backward(pairs(seed=7), NotANumber()).result()
        torch.rand(9)
    assert torch.equal(torch.rand(4), expected)
    assert same_weights(engine.weights(learner), engine.weights(other)) and learner.version == 0
    for one in (learner, other):
        one.forward_backward(pairs(), SFTObjective()).result()
        assert not one.step(1e-3).result().skipped
    assert same_weights(engine.weights(learner), engine.weights(other))


def test_a_resumed_learner_goes_on_counting_its_steps(engine, tmp_path):
    """The version stamps what is sampled: a rollout of step 3 is not of step 0."""
    learner, resumed = engine.policy(), engine.policy()
    for _ in range(3):
        learner.forward_backward(pairs(), SFTObjective()).result()
        learner.step(1e-3).result()
    (tmp_path / "policy").mkdir()
    learner.save(tmp_path / "policy")
    resumed.load(tmp_path / "policy")
    assert (resumed.version, resumed.publish().version) == (3, 3)
    resumed.forward_backward(pairs(), SFTObjective()).result()
    resumed.step(1e-3).result()
    assert (resumed.version, resumed.publish().version) == (4, 4)


def test_held_weights_pull_alike_on_every_engine(engine):
    """The penalty after one step away, by one process: the texts are read by every rank and counted once."""
    trees = pairs(4)
    mine, local = engine.policy(train=TrainConfig()), LocalLearner(PolicyNetwork(tiny_policy()), TrainConfig())
    held = []
    for learner in (mine, local):
        learner.hold(trees, SFTObjective(), 3.0)
        for _ in range(2):
            learner.forward_backward(pairs(3, seed=1), SFTObjective())
            metrics = learner.step(1e-3).result()
        held.append(metrics.held)
    assert held[0] == pytest.approx(held[1], rel=1e-3) and held[0] > 0
