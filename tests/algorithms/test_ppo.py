"""PPO's step: what an advantage is, when ratios are 1, and what stays as it was."""

import json
import math

import pytest
import torch

from concordant.algorithms.ppo_objectives import PolicyObjective
from concordant.algorithms.rewards import Reward
from concordant.config.stages import KLConfig
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from tests.algorithms.steps import ENDED_AND_CUT, NO_KL, scores
from tests.algorithms.worlds import make_ppo, moved, tree, weights_of, written

# -- advantages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_advantages_are_whitened_over_the_tokens_of_the_whole_step(advantage):
    """Mean 0 and deviation 1 over all response tokens; a minibatch takes its part and whitens nothing again."""
    ppo = make_ppo(scores(1.0, 4.0, 2.0, 0.0), advantage=advantage, whiten="step", kl=NO_KL)
    e = ppo.make_experience(written(ENDED_AND_CUT, [([13], True), ([14, 15, 16, 17], True)]))
    assert float(e.advantage_N.mean()) == pytest.approx(0, abs=1e-6)
    assert float(e.advantage_N.std(correction=0)) == pytest.approx(1, abs=1e-5)
    trees, tokens = e.part([1])
    assert tokens.tolist() == [5, 6, 7, 8, 9] and trees[0] is e.rollouts.trees[1]
    objective = ppo.policy_objective(e, tokens)
    assert torch.equal(objective.advantage_N, e.advantage_N[5:])
    assert torch.equal(objective.old_logprob_N, e.old_logprob_N[5:])


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_one_answer_a_prompt_is_refused_where_answers_are_compared(advantage):
    ppo = make_ppo(scores(1.0, 2.0), advantage=advantage, sampling={"n": 1})
    with pytest.raises(UserError, match="sampling.n must be at least 2"):
        ppo.make_experience(written([([8], True)], [([9], True)]))


def test_a_group_that_agrees_teaches_nothing():
    ppo = make_ppo(scores(2.0, 2.0, 0.0, 4.0), advantage="grpo", whiten="none", kl=NO_KL)
    e = ppo.make_experience(written([([8], True), ([9], True)], [([10], True), ([11], True)]))
    assert e.advantage_N[:2].tolist() == [0, 0]
    assert e.advantage_N[2] < 0 < e.advantage_N[3]


def test_a_minibatch_is_whole_prompts_and_every_prompt_comes_once():
    ppo = make_ppo(minibatches=3)
    for epoch in range(3):
        parts = ppo.minibatches(0, epoch)
        assert sorted(i for part in parts for i in part) == [0, 1, 2, 3] and len(parts) == 3
    for orders in ([(s, 0) for s in range(9)], [(0, e) for e in range(9)]):
        assert len({str(ppo.minibatches(s, e)) for s, e in orders}) > 3, "orders differ by step and by pass"


# -- ratios ---------------------------------------------------------------------------------------


def test_the_ratio_is_one_before_the_first_inner_step_and_leaves_it_after():
    ppo = make_ppo(kl=NO_KL)
    e = ppo.make_experience(ppo.rollouts(0))
    objective = ppo.policy_objective(e, torch.arange(len(e.advantage_N)))
    first = ppo.actor.forward_backward(e.rollouts.trees, objective).result()
    assert first["ratio/max"] == first["ratio/mean"] == 1 and first["policy/approx_kl"] == 0
    assert first["policy/clip_fraction"] == 0
    ppo.actor.discard()
    ppo.actor.config.micro_batch_tokens = 40
    repacked = ppo.actor.forward_backward(e.rollouts.trees, objective).result()
    assert repacked["ratio/max"] == pytest.approx(1, abs=1e-5)
    ppo.actor.step(1e-2).result()
    after = ppo.actor.forward_backward(e.rollouts.trees, objective).result()
    assert after["ratio/max"] > 1.01 and after["policy/approx_kl"] > 1e-4


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_step_reports_the_greatest_ratio_it_saw(epochs):
    ppo = make_ppo(inner_epochs=epochs, minibatches=1)
    metrics = ppo.step(0, 1e-2)
    assert metrics["ratio/max"] == pytest.approx(1, abs=1e-5) if epochs == 1 else metrics["ratio/max"] > 1.01
    assert ppo.actor.version == epochs


def test_stale_rollouts_are_refused():
    ppo = make_ppo()
    rollouts = ppo.rollouts(0)
    assert rollouts.version == 0
    ppo.step(0, 1e-3)
    with pytest.raises(RuntimeError, match="4 optimizer steps old"):
        ppo.make_experience(rollouts)
    assert ppo.rollouts(1).version == 4, "a new step samples from the new weights"


def test_too_great_a_kl_ends_the_inner_epochs_and_leaves_the_gradient_out():
    """With this rate the second pass finds the policy moved: its gradient is forgotten, not applied."""
    stopped, free = make_ppo(stop_kl=1e-6, inner_epochs=3, minibatches=1), make_ppo(inner_epochs=1, minibatches=1)
    metrics = stopped.step(0, 1e-2)
    free.step(0, 1e-2)
    assert metrics["policy/stopped_early"] == 1 and stopped.actor.version == 1
    assert all(p.grad is None for p in stopped.actor.parameters)
    assert all(torch.equal(a, b) for a, b in zip(stopped.actor.parameters, free.actor.parameters, strict=True))
    assert "policy/stopped_early" not in free.step(1, 1e-2)


def test_a_positive_entropy_coefficient_raises_entropy():
    """No reward at all: what is left of the loss is the bonus."""

    def entropy_after(coefficient):
        ppo = make_ppo(lambda a: [0.0] * len(a), entropy_coefficient=coefficient, kl=NO_KL, whiten="none")
        for step in range(2):
            metrics = ppo.step(step, 1e-2)
        return metrics["objective/entropy"]

    down, neutral, up = (entropy_after(c) for c in (-0.5, 0.0, 0.5))
    assert down < neutral < up


# -- critic ---------------------------------------------------------------------------------------


def test_a_value_is_of_the_state_before_its_token():
    ppo = make_ppo()
    torch.nn.init.normal_(ppo.critic.network.head.output.weight, generator=torch.Generator().manual_seed(0))
    value = lambda ids: ppo.critic.forward([tree(ids)], Outputs(value=True)).result().value_N  # noqa: E731
    here, other = value([8, 9, 10, 11]), value([8, 9, 50, 51])
    assert torch.equal(here[:3], other[:3]), "the third value has not seen the third token"
    assert here[3] != other[3]


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_while_the_critic_warms_up_the_actor_does_not_move(lora_rank):
    ppo = make_ppo(critic_warmup=1, lora_rank=lora_rank)
    actor, critic = weights_of(ppo.actor), weights_of(ppo.critic)
    assert "ratio/max" not in ppo.step(0, 1e-2)
    assert not moved(ppo.actor, actor) and moved(ppo.critic, critic)
    ppo.step(1, 1e-2)
    assert moved(ppo.actor, actor)


def test_with_lora_the_actors_adapter_alone_learns():
    ppo = make_ppo(lora_rank=2)
    actor, reference = weights_of(ppo.actor), ppo.make_experience(ppo.rollouts(0)).reference_N
    start = ppo.rollouts(0)
    for step in range(2):
        ppo.step(step, 1e-2)
    assert all(".adapters.default." in name for name in moved(ppo.actor, actor)) and moved(ppo.actor, actor)
    again = ppo.reference.forward(start.trees, Outputs(logprob=True)).result().logprob_N
    assert torch.equal(again, reference)


def test_the_critic_has_its_own_learning_rate():
    slow, fast = make_ppo(), make_ppo(critic_learning_rate=1e-2)
    for ppo in (slow, fast):
        ppo.step(0, ppo.config.train.learning_rate / 2)  # half way up the warm-up
    assert slow.critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-4)
    assert fast.critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-2)


def test_the_critic_learns_what_is_to_come():
    ppo = make_ppo(lambda a: [3.0] * len(a), kl=NO_KL, reward_normalize="none", value_clip=0.0)
    losses = [ppo.step(step, 5e-3)["value/loss"] for step in range(5)]
    assert losses[-1] < 0.3 * losses[0]


# -- the controller, the record, the state --------------------------------------------------------


def test_the_adaptive_controller_moves_with_the_kl_of_the_step():
    """KL 0 is 100 % below the target: the weight falls by the greatest step, 20 % · 8 responses / 40."""
    ppo = make_ppo(kl=KLConfig(coefficient=0.5, controller="adaptive", target=6.0, horizon=40))
    metrics = ppo.step(0, 1e-3)
    assert metrics["kl_coefficient"] == 0.5, "the step itself used the weight it began with"
    assert ppo.controller.kl_coef == pytest.approx(0.5 * (1 - 0.2 * 8 / 40))
    fixed = make_ppo(kl=KLConfig(coefficient=0.5))
    fixed.step(0, 1e-3)
    assert fixed.controller.kl_coef == 0.5


def test_a_step_writes_the_names_that_tools_rely_on():
    metrics = make_ppo().step(0, 1e-3)
    expected = """tokens samples grad_norm loss seconds/rollout objective/kl objective/entropy objective/score
        objective/rlhf_reward policy/approx_kl policy/clip_fraction policy/loss value/loss value/clip_fraction
        value/explained_variance ratio/mean ratio/max response/length response/eos_fraction kl_coefficient"""
    assert set(expected.split()) <= set(metrics)
    assert metrics["samples"] == 8 and metrics["response/length"] <= 6
    assert all(math.isfinite(v) for v in metrics.values())


def test_a_resumed_step_is_the_uninterrupted_one_to_the_bit(tmp_path):
    settings = {"kl": KLConfig(controller="adaptive", horizon=20), "reward_normalize": "running"}
    whole, resumed = make_ppo(**settings), make_ppo(seed=2, **settings)
    whole.step(0, 1e-2)
    resumed.reference = whole.reference  # a run's reference comes from its start, which a resume loads again
    for name, role in whole.roles.items():
        (tmp_path / name).mkdir()
        role.save(tmp_path / name)
        resumed.roles[name].load(tmp_path / name)
    resumed.load_numbers(json.loads(json.dumps(whole.numbers())))
    first, second = whole.step(1, 1e-2), resumed.step(1, 1e-2)
    assert {k: v for k, v in first.items() if "seconds" not in k} == {
        k: v for k, v in second.items() if "seconds" not in k
    }
    for a, b in ((whole.actor, resumed.actor), (whole.critic, resumed.critic)):
        assert not moved(a, weights_of(b))
    assert whole.shape.stats == resumed.shape.stats


def test_the_same_seed_gives_the_same_steps():
    one, two = (make_ppo() for _ in range(2))
    for step in range(2):
        a, b = one.step(step, 1e-2), two.step(step, 1e-2)
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}


@pytest.mark.parametrize(
    ("advantage", "kl"),
    [("gae", KLConfig(coefficient=0.05)), ("grpo", KLConfig(place="loss", estimator="exact", coefficient=0.05))],
)
def test_rewards_rise(advantage, kl):
    """A reward for the letter o; a dozen steps are enough to see it learnt."""
    ppo = make_ppo(advantage=advantage, kl=kl, sampling={"n": 16}, train={"learning_rate": 1e-2})
    scores = [ppo.step(step, 1e-2)["objective/score"] for step in range(8)]
    assert sum(scores[-3:]) / 3 > scores[0] + 0.5


def test_a_tokens_ratio_is_its_own_however_long_the_response():
    """A response's product of ratios would grow with its length, and clip whole answers."""

    def objective_of(length):
        ids = list(range(8, 8 + length))
        trees, policy = [tree(ids)], make_ppo().actor
        old = policy.forward(trees, Outputs(logprob=True)).result().logprob_N - math.log(1.1)
        ones = torch.ones(length)
        return policy.forward_backward(trees, PolicyObjective(old, ones, ones, 0.2, "token-mean")).result()

    for length in (1, 4, 32):
        metrics = objective_of(length)
        assert metrics["policy/loss"] == pytest.approx(-1.1, abs=1e-4) and metrics["policy/clip_fraction"] == 0


class Slow:
    """A scorer, or an axis of a reward, on another machine: it writes down when work is given and when it is waited
    for."""

    def __init__(self, name, log, of):
        self.name, self.log, self.of = name, log, of

    def __getattr__(self, name):
        return getattr(self.of, name)

    def forward(self, *arguments):
        self.log.append(f"start {self.name}")
        return Pending(self.name, self.log, self.of.forward(*arguments))

    def __call__(self, answers):
        self.log.append(f"start {self.name}")
        return Pending(self.name, self.log, self.of(answers))


class Pending:
    def __init__(self, name, log, done):
        self.name, self.log, self.done = name, log, done

    def result(self):
        self.log.append(f"wait {self.name}")
        return self.done.result()


def test_all_scorers_are_at_work_before_the_first_is_waited_for():
    ppo, log = make_ppo(), []
    expected = ppo.make_experience(ppo.rollouts(0))
    ppo.actor, ppo.reference = Slow("policy", log, ppo.actor), Slow("reference", log, ppo.reference)
    ppo.critic = Slow("critic", log, ppo.critic)
    ppo.reward = Reward({name: Slow(name, log, axis) for name, axis in ppo.reward.axes.items()}, ppo.reward.aggregate)
    found = ppo.make_experience(ppo.rollouts(0))
    scorers = {"policy", "reference", "critic", "plain"}
    assert {*log[:4]} == {f"start {name}" for name in scorers}
    assert sorted(log[4:]) == sorted(f"wait {name}" for name in scorers)
    assert torch.equal(found.advantage_N, expected.advantage_N)


def test_settings_that_follow_the_advantage():
    settings = {name: make_ppo(advantage=name).config for name in ("gae", "rloo", "grpo")}
    assert {name: (c.kl.place, c.kl.estimator, c.whiten) for name, c in settings.items()} == {
        "gae": ("reward", "k1", "step"),
        "rloo": ("reward", "k1", "none"),
        "grpo": ("loss", "k2", "none"),
    }
    given = make_ppo(advantage="grpo", kl=KLConfig(place="reward"), whiten="step").config
    assert (given.kl.place, given.kl.estimator, given.whiten) == ("reward", "k1", "step")


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_equal_rewards_give_a_gradient_from_the_kl_alone_which_follows_its_coefficient(advantage):
    norms = {}
    for coefficient in (0.0, 0.001, 0.05):
        ppo = make_ppo(lambda a: [8.3] * len(a), advantage=advantage, kl=KLConfig(coefficient=coefficient))
        with torch.no_grad():
            for p in ppo.actor.parameters:  # away from the reference, where the KL has a gradient
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        experience = ppo.make_experience(ppo.rollouts(0))
        trees, tokens = experience.part(range(4))
        ppo.actor.forward_backward(trees, ppo.policy_objective(experience, tokens)).result()
        norms[coefficient] = float(torch.stack([p.grad.norm() for p in ppo.actor.parameters]).norm())
        assert experience.tied == 1.0 and ppo.describe(experience)["objective/tied_groups"] == 1.0
    assert norms[0.0] == 0.0
    assert norms[0.05] == pytest.approx(50 * norms[0.001], rel=1e-3)


def test_the_loss_follows_the_coefficient_of_the_controller():
    ppo = make_ppo(kl=KLConfig(place="loss", controller="adaptive", coefficient=0.5))
    ppo.controller.kl_coef = 0.3
    objective = ppo.policy_objective(ppo.make_experience(written(ENDED_AND_CUT)), torch.arange(5))
    assert (objective.kl_estimator, objective.kl_coefficient) == ("k2", 0.3)


def test_a_prompt_that_comes_again_is_answered_anew():
    """The same weights and the same four prompts: what differs between two steps is chance alone."""
    ppo = make_ppo()
    first, second = ({(a.prompt, a.response) for a in ppo.rollouts(step).answers} for step in (0, 1))
    assert {prompt for prompt, _ in first} == {prompt for prompt, _ in second} and first != second
