"""PPO whose critic and reward models are adapters on the policy's frozen base: the same run in less memory."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import concordant
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.stages import RewardConfig, SFTConfig
from concordant.core.errors import UserError
from concordant.runs.names import ADAPTER, MODEL
from tests.stages.small import (  # short_toytalk is a fixture
    DATA,
    metrics_of,
    plain,
    ppo_config,
    short_toytalk,  # noqa: F401
    train,
)

STEPS = 3
COMPARED = ("loss", "objective/score", "objective/kl", "value/loss", "policy/loss", "grad_norm", "value/grad_norm")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def base(runs):
    tiny = ModelConfig("builtin:tiny", precision="fp32", device="cpu")
    return concordant.sft(SFTConfig(output=str(runs / "base"), data=DATA, model=tiny, train=train())) / MODEL


@pytest.fixture(scope="module")
def reward(runs, base):
    model = ModelConfig(**plain(base), lora=LoraConfig(rank=4, target_modules=["q_proj", "up_proj"]))
    settings = train(learning_rate=1e-2)
    return concordant.reward(RewardConfig(output=str(runs / "reward"), data=DATA, model=model, train=settings))


def config(output, base, reward, share="all", **settings):
    made = ppo_config(output, base, reward, share_backbone=share, **settings)
    lora = LoraConfig(rank=4, target_modules=["q_proj", "v_proj"])
    steps = replace(made.train, max_steps=STEPS, save_every=1)
    return replace(made, model=replace(made.model, lora=lora), train=steps)


@pytest.fixture(scope="module")
def shared(runs, base, reward):
    return concordant.ppo(config(runs / "ppo-shared", base, reward / ADAPTER))


@pytest.fixture(scope="module")
def apart(runs, base, reward):
    return concordant.ppo(config(runs / "ppo-apart", base, reward / ADAPTER, share="none"))


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_training_gives_the_numbers_of_models_with_bases_of_their_own(shared, apart):
    ours, theirs = metrics_of(shared), metrics_of(apart)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in COMPARED:
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-6, rel=1e-6), name
    for name, value in weights(shared / ADAPTER).items():
        torch.testing.assert_close(value, weights(apart / ADAPTER)[name], atol=1e-6, rtol=0)


def test_the_exports_hold_the_policys_adapter_alone(shared, apart):
    assert weights(shared / ADAPTER).keys() == weights(apart / ADAPTER).keys()
    ours, theirs = (load_file(run / MODEL / "model.safetensors") for run in (shared, apart))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6, rtol=0) for name in ours)


def test_every_role_has_its_own_folder_in_a_checkpoint(shared, apart):
    """Of the same tensors in both forms, and without a tensor of the base."""
    newest = [max((run / "checkpoints").iterdir()) for run in (shared, apart)]
    for role in ("policy", "critic"):
        names = [sorted(n for file in (step / role).rglob("*.safetensors") for n in load_file(file)) for step in newest]
        assert names[0] == names[1]
        assert not any("embed" in name or "reward-1" in name for name in names[0])


def test_a_run_that_was_stopped_continues_to_the_same_weights(runs, base, reward, shared):
    copied = runs / "stopped"
    shutil.copytree(shared, copied)
    shutil.rmtree(copied / "checkpoints" / f"step-{STEPS:06d}")
    shutil.rmtree(copied / ADAPTER)
    concordant.ppo(config(copied, base, reward / ADAPTER, resume="auto"))
    for name, value in weights(shared / ADAPTER).items():
        assert torch.equal(value, weights(copied / ADAPTER)[name])


def test_a_critic_of_another_form_cannot_go_on_from_the_checkpoint_and_says_so(runs, base, reward, shared):
    copied = runs / "other-critic"
    shutil.copytree(shared, copied)
    shutil.rmtree(copied / "checkpoints" / f"step-{STEPS:06d}")
    whole = config(copied, base, reward / MODEL, share="none", resume="force")  # its critic has all weights
    with pytest.raises(UserError, match=r"critic holds another model than this run trains: .* no such weight"):
        concordant.ppo(whole)


def test_an_equal_base_in_another_folder_is_the_same_base(runs, base, reward):
    copied = runs / "copy-of-base"
    shutil.copytree(base, copied)
    run = concordant.ppo(config(runs / "ppo-copied", copied, reward / ADAPTER))
    assert (run / ADAPTER).is_dir()


def test_a_reward_model_that_cannot_share_is_loaded_as_ever_or_refused(runs, base, reward, capsys):
    with pytest.raises(UserError, match="share_backbone=all: the reward model .* it is a whole model"):
        concordant.ppo(config(runs / "refused", base, reward / MODEL))
    run = concordant.ppo(config(runs / "ppo-auto", base, reward / MODEL, share="auto"))
    assert "a model of its own in memory (it is a whole model" in capsys.readouterr().err
    names = [n for f in (run / "checkpoints").glob("*/critic/*.safetensors") for n in load_file(f)]
    assert names and not any("embed" in n for n in names), "the critic is an adapter all the same"


def test_a_base_with_other_weights_is_named(runs, base, reward):
    other = runs / "other-base"
    shutil.copytree(base, other)
    file = other / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    from safetensors.torch import save_file

    save_file({**tensors, name: tensors[name] + 0.01}, file, {"format": "pt"})
    with pytest.raises(UserError, match="its base is .*base/model, and the policy's base is .*other-base"):
        concordant.ppo(config(runs / "refused-other", other, reward / ADAPTER))


@pytest.mark.parametrize(("changes", "words"), [
    ({"critic": ModelConfig("builtin:tiny")}, "leave critic.name empty"),
    ({"reference": "somewhere"}, "leave reference empty"),
    ({"model": ModelConfig("builtin:tiny")}, "no frozen base to share"),
    ({"advantage": "rloo", "reward": ["rule:ends"]}, "no critic and no reward model"),
])  # fmt: skip
def test_settings_that_leave_nothing_to_share_are_refused(changes, words, runs, base, reward):
    given = config(runs / "refused-settings", base, reward / ADAPTER)
    given = replace(given, **changes, sampling=replace(given.sampling, n=2))
    with pytest.raises(UserError, match=words):
        concordant.ppo(given)
