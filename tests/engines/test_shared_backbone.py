"""A policy, a critic and a reward model as adapters on one frozen base: none sees or changes another."""

from __future__ import annotations

import copy

import pytest
import torch

from concordant.algorithms.ppo_objectives import ValueObjective
from concordant.algorithms.sft import SFTObjective
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs
from concordant.engines import roles
from concordant.engines.reward_model import RewardModel
from concordant.models.load import load_policy, save_policy
from concordant.models.lora import adapter_names, get_lora_parameters
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy

TRAIN = TrainConfig(learning_rate=1e-2)
POLICY = LoraConfig(rank=4, target_modules=["q_proj", "v_proj"])
REWARD = LoraConfig(rank=2, dropout=0.2, target_modules=["v_proj", "down_proj"])


def model_of(folder, lora=None, kernels="fast", **more):
    lora = POLICY if lora is None else lora
    return ModelConfig(str(folder), precision="fp32", device="cpu", kernels=kernels, lora=lora, **more)


def shaken(model, seed):
    """B starts at 0, and then an adapter changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in get_lora_parameters(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    save_policy(tiny_policy(), folder)
    return folder


@pytest.fixture(scope="module")
def reward(base):
    """The folder of an adapter, as the reward stage writes it."""
    made = RewardModel.from_backbone(model_of(base, REWARD), seed=3)
    shaken(made.model, 1)
    folder = base.parent / "reward"
    made.save_adapter(folder)
    return folder


def opened(base, **more):
    policy = roles.open_policy(model_of(base, **more), [])
    shaken(policy.model, 2)
    return policy


def config(**more):
    return PPOConfig(model=ModelConfig(precision="fp32", device="cpu"), train=TRAIN, share_backbone="all", **more)


def all_roles(base, reward, **more):
    """The policy with its learner, the critic and the reward model, as the stage makes them."""
    policy = opened(base, **more)
    reward_model = roles.reward_model_on(policy, str(reward), model_of(base))
    actor = roles.policy_learner(policy, config().model, TRAIN)
    actor.reference()
    start, _ = roles.critic_start(config(), policy, [reward_model])
    return policy, actor, roles.critic_learner(start, config()), reward_model


def value_objective(trees):
    tokens = sum(len(b.ids_T) for tree in trees for b in tree.branches)
    return ValueObjective(torch.zeros(tokens), torch.ones(tokens), 10.0, 0.5)


def logprobs(learner, trees):
    return learner.forward(trees, Outputs(logprob=True)).result().logprob_N


@pytest.mark.parametrize("kernels", ["fast", "plain"])
def test_the_policys_numbers_are_bit_equal_with_and_without_the_other_adapters(base, reward, kernels):
    trees = pairs(3)
    alone = opened(base, kernels=kernels)
    policy, actor, critic, _ = all_roles(base, reward, kernels=kernels)
    wanted = roles.policy_learner(alone, config().model, TRAIN)
    assert torch.equal(logprobs(actor, trees), logprobs(wanted, trees))
    sampling, prompts = SamplingConfig(n=2, max_new_tokens=6), [t.prompt_T for t in trees]
    answers = [
        roles.generator(p, [1], config().model).generate(prompts, sampling, seed=0).result() for p in (policy, alone)
    ]
    for a, b in zip(*answers, strict=True):
        assert all(torch.equal(x.ids_T, y.ids_T) and torch.equal(x.logprob_T, y.logprob_T)
                   for x, y in zip(a, b, strict=True))  # fmt: skip
    critic.forward_backward(trees, value_objective(trees)).result()
    critic.step(1e-2).result()
    assert torch.equal(logprobs(actor, trees), logprobs(wanted, trees)), "nor does the critic's step change them"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_own_adapter_and_head_alone(base, reward, checkpointing):
    trees = pairs(3)
    policy, actor, critic, _ = all_roles(base, reward, activation_checkpointing=checkpointing)

    def touched():
        found = {n.split(".adapters.")[-1].split(".")[0] for n, p in policy.model.named_parameters()
                 if p.grad is not None and bool(p.grad.any())}  # fmt: skip
        return found, any(p.grad is not None for p in critic.network.head.parameters())

    critic.forward_backward(trees, value_objective(trees)).result()
    # The head starts at 0, so the first gradient reaches the head alone, and the second one the adapter too.
    assert touched() == (set(), True)
    critic.step(1e-2).result()
    critic.forward_backward(trees, value_objective(trees)).result()
    assert touched() == ({"critic"}, True)
    critic.discard()
    actor.forward_backward(trees, SFTObjective()).result()
    assert touched() == ({"default"}, False)


def test_a_step_of_one_role_changes_no_weight_of_another(base, reward):
    trees = pairs(3)
    policy, actor, critic, reward_model = all_roles(base, reward)
    assert adapter_names(policy.model) == ["critic", "default", "reference", "reward-1"]
    before = copy.deepcopy(policy.model.state_dict())
    scores = reward_model.score_trees(trees)
    for _ in range(2):
        critic.forward_backward(trees, value_objective(trees)).result()
        critic.step(1e-2).result()
    changed = {n for n, value in policy.model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed and all(".adapters.critic." in name for name in changed)
    actor.forward_backward(trees, SFTObjective()).result()
    actor.step(1e-2).result()
    changed = {n for n, value in policy.model.state_dict().items() if not torch.equal(value, before[n])}
    assert {n.split(".adapters.")[1].split(".")[0] for n in changed} == {"critic", "default"}
    assert torch.equal(reward_model.score_trees(trees), scores)


def test_scores_and_values_are_those_of_models_with_bases_of_their_own(base, reward):
    trees = pairs(3)
    policy, _, critic, shared = all_roles(base, reward)
    own = roles.open_reward_model(str(reward), model_of(base))
    texts = [[{"role": "user", "content": "where does the owl live"}, {"role": "assistant", "content": "in a tree"}]]
    assert shared.score(texts) == pytest.approx(own.score(texts), abs=1e-6)
    torch.testing.assert_close(shared.score_trees(trees), own.score_trees(trees), atol=1e-6, rtol=0)
    apart = PPOConfig(model=config().model, train=TRAIN)
    twin = roles.critic_learner(roles.critic_start(apart, policy, [own])[0], apart)
    for step in range(3):
        values = []
        for learner in (critic, twin):
            torch.manual_seed(step)  # of the adapter's dropout
            learner.forward_backward(trees, value_objective(trees)).result()
            learner.step(1e-2).result()
            values.append(learner.forward(trees, Outputs(value=True)).result().value_N)
        torch.testing.assert_close(*values, atol=1e-6, rtol=0)
    assert bool(values[0].any())


def test_a_checkpoint_of_the_critic_fits_a_critic_with_a_base_of_its_own(base, reward, tmp_path):
    trees = pairs(3)
    policy, _, critic, _ = all_roles(base, reward)
    for _ in range(2):
        critic.forward_backward(trees, value_objective(trees)).result()
        critic.step(1e-2).result()
    (tmp_path / "critic").mkdir()
    critic.save(tmp_path / "critic")
    own = roles.open_reward_model(str(reward), model_of(base))
    twin = roles.critic_learner(own, PPOConfig(model=config().model, train=TRAIN))
    twin.load(tmp_path / "critic")
    values = [c.forward(trees, Outputs(value=True)).result().value_N for c in (critic, twin)]
    torch.testing.assert_close(*values, atol=1e-6, rtol=0)


def test_published_and_exported_weights_are_the_policys(base, reward, tmp_path):
    """Also where the first layers have an adapter of the reward model and none of the policy."""
    policy = roles.open_policy(model_of(base, LoraConfig(rank=4, target_modules=["down_proj"])), [])
    shaken(policy.model, 2)
    wanted = roles.policy_learner(copy.deepcopy(policy), config().model, TRAIN).publish().tensors
    reward_model = roles.reward_model_on(policy, str(reward), model_of(base))
    actor = roles.policy_learner(policy, config().model, TRAIN)
    roles.critic_learner(reward_model, config())
    found = actor.publish().tensors
    assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)
    actor.export(tmp_path / "model")
    again = load_policy(ModelConfig(str(tmp_path / "model"))).model.state_dict()
    assert again.keys() == wanted.keys() and all(torch.equal(again[n], wanted[n]) for n in wanted)
    actor.export_adapter(tmp_path / "adapter")
    merged = load_policy(ModelConfig(str(base), adapter=str(tmp_path / "adapter"))).model
    assert adapter_names(merged) == ["default"]


def test_two_reward_models_lie_side_by_side(base, reward):
    policy = opened(base)
    first, second = (roles.reward_model_on(policy, str(reward), model_of(base)) for _ in range(2))
    assert (first.adapter, second.adapter) == ("reward-1", "reward-2")
    trees = pairs(2)
    assert torch.equal(first.score_trees(trees), second.score_trees(trees))
