"""A key that was changed and would do nothing is refused, and is taken where it acts."""

from __future__ import annotations

import pytest

from concordant.config.checks import validate
from concordant.config.fields import schema
from concordant.config.no_effect import NO_EFFECT
from concordant.config.rule_kinds import NoEffect
from concordant.config.stages import (
    BestOfNConfig,
    ChatConfig,
    CollectConfig,
    EvaluateConfig,
    GenerateConfig,
    MergeConfig,
    PPOConfig,
    PrepareConfig,
    RewardConfig,
    ScoreConfig,
    SFTConfig,
)
from tests.config.test_checks import made, refused

CRITIC = {"critic.name": "m"}


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (SFTConfig, {"model.lora.alpha": 8.0}, "model.lora.alpha=8.0 would do nothing: model.lora.rank is 0"),
        (SFTConfig, {"model.lora.target_modules": ["q_proj"]}, "model.lora.target_modules=.*would do nothing"),
        (
            SFTConfig,
            {"model.lora.rank": 4, "model.adapter": "a"},
            "model.lora.rank=4 would do nothing: training continues with the adapter in",
        ),
        (SFTConfig, {"data.test_path": "t", "data.test_fraction": 0.5}, "data.test_fraction=0.5 would do nothing"),
        (SFTConfig, {"train.save_minutes": 0.0, "train.keep_last": 5}, "train.keep_last=5 would do nothing"),
        (
            SFTConfig,
            {"train.optimizer": "adafactor", "train.beta1": 0.8},
            "train.beta1=0.8 would do nothing: adafactor",
        ),
        (SFTConfig, {"train.lora_plus": 16.0}, "train.lora_plus=16.0 would do nothing: no adapter is trained"),
        (SFTConfig, {"train.export": "adapter"}, 'train.export="adapter" would do nothing: no adapter is trained'),
        (SFTConfig, {"train.warmup_steps": 5, "train.warmup_fraction": 0.1}, "give only one of the two"),
        (SFTConfig, {"train.schedule": "constant", "train.min_rate_fraction": 0.1}, "constant never falls"),
        (PPOConfig, {"critic.precision": "bf16"}, 'critic.precision="bf16" would do nothing: without critic.name'),
        (PPOConfig, {"critic.lora.rank": 4}, "critic.lora.rank=4 would do nothing: without critic.name"),
        (PPOConfig, {"critic.adapter": "a"}, "critic.adapter=.* would do nothing: without critic.name"),
        (PPOConfig, {"critic.device": "cpu"}, "critic.device=.* would do nothing: without critic.name"),
        (PPOConfig, {"critic.activation_checkpointing": True}, "would do nothing: without critic.name"),
        (PPOConfig, {"critic.trust_remote_code": True}, "would do nothing: without critic.name"),
        (PPOConfig, CRITIC | {"critic.lora.alpha": 8.0}, "critic.lora.alpha=8.0 would do nothing: critic.lora.rank"),
        (PPOConfig, {"advantage": "rloo", "critic.name": "m"}, "critic.name=.* other than gae have no critic"),
        (PPOConfig, {"advantage": "rloo", "critic_warmup": 2}, "critic_warmup=2 .*have no critic"),
        (PPOConfig, {"advantage": "grpo", "value_clip": 0.0}, "value_clip=0.0 .*have no critic"),
        (PPOConfig, {"advantage": "rloo", "value_coefficient": 2.0}, "value_coefficient=2.0 .*have no critic"),
        (PPOConfig, {"advantage": "rloo", "critic_head": "mlp"}, "critic_head=.*have no critic"),
        (PPOConfig, {"advantage": "rloo", "critic_learning_rate": 1e-3}, "critic_learning_rate=.*have no critic"),
        (PPOConfig, {"advantage": "grpo", "lam": 0.9}, "lam=0.9 .*a critic's estimates"),
        (PPOConfig, {"advantage": "rloo", "gamma": 0.9}, "gamma=0.9 .*do not discount"),
        (PPOConfig, {"advantage": "remax", "gamma": 0.9}, "gamma=0.9 .*do not discount"),
        (PPOConfig, {"policy_loss": "cispo", "clip_high": 4.0, "clip": 0.3}, "clip=0.3 .*from above alone"),
        (PPOConfig, {"clip_dual": 4.0}, "clip_dual=4.0 .*set policy_loss dual-clip"),
        (PPOConfig, {"overlong_buffer": 9}, "overlong_buffer=9 .*overlong_penalty is 0"),
        (PPOConfig, {"mask_truncated": True, "missing_eos_penalty": 1.0}, "missing_eos_penalty=1.0 .*leaves every"),
        (PPOConfig, {"kl.target": 3.0}, "kl.target=3.0 would do nothing: a fixed coefficient does not aim at a target"),
        (PPOConfig, {"kl.horizon": 100}, "kl.horizon=100 would do nothing"),
        (PPOConfig, {"data.max_response_tokens": 64}, "data.max_response_tokens=64 .*sampling.max_new_tokens"),
        (PPOConfig, {"data.too_long": "cut_response_end"}, "data.too_long=.* would do nothing"),
        (PPOConfig, {"reward_timeout": 5.0}, "reward_timeout=5.0 would do nothing: no Python function is a reward"),
        (
            CollectConfig,
            {"judge": "m:f", "unlabelled": "skip"},
            'unlabelled="skip" would do nothing: only votes and a server can be',
        ),
        (CollectConfig, {"judge": "gold", "principles": "builtin"}, "principles=.* answers no question in words"),
        (CollectConfig, {"judge": "gold", "endpoint.model": "m"}, "endpoint.model=.* no server is asked"),
        (BestOfNConfig, {"reward": ["rule:ends=2"], "reward_on_error": "skip"}, "no Python function is a reward"),
        (EvaluateConfig, {"reward": ["package:a/b"], "reward_timeout": 5.0}, "no Python function is a reward"),
        (BestOfNConfig, {"model.lora.rank": 4}, "model.lora.rank=4 would do nothing: no model is trained"),
        (BestOfNConfig, {"data.max_response_tokens": 64}, "sampling.max_new_tokens limits their length"),
        (EvaluateConfig, {"model.name": "m"}, "model.name=.* would do nothing: --policies names the models"),
        (EvaluateConfig, {"sampling.n": 4}, "sampling.n=4 would do nothing: .*best_of_n:N:PATH"),
        (EvaluateConfig, {"sampling.temperature": 0.0, "sampling.top_k": 5}, "sampling.top_k=5 would do nothing"),
        (ChatConfig, {"sampling.temperature": 0.0, "sampling.min_p": 0.1}, "sampling.min_p=0.1 would do nothing"),
        (ScoreConfig, {"model.adapter": "a"}, "model.adapter=.* would do nothing: .*--model.name"),
        (ScoreConfig, {"data.max_prompt_tokens": 64}, "data.max_prompt_tokens=64 would do nothing"),
        (ScoreConfig, {"data.test_fraction": 0.5}, "data.test_fraction=0.5 would do nothing"),
        (PrepareConfig, {"model.precision": "bf16"}, "model.precision=.* only the tokenizer of the model is used"),
        (PrepareConfig, {"data.max_prompt_tokens": 64}, "data.max_prompt_tokens=64 would do nothing"),
        (GenerateConfig, {"data.path": "d", "data.test_fraction": 0.5}, "data.test_fraction=0.5 would do nothing"),
        (GenerateConfig, {"data.path": "d", "model.activation_checkpointing": True}, "no model is trained"),
        (ChatConfig, {"sampling.n": 2}, "sampling.n=2 would do nothing: a question gets one answer"),
        (ChatConfig, {"sampling.temperature": 0.0, "sampling.top_p": 0.5}, "sampling.top_p=0.5 would do nothing"),
        (GenerateConfig, {"data.path": "d", "sampling.temperature": 0.0, "sampling.top_k": 5}, "top_k=5 would do"),
        (MergeConfig, {"model.precision": "bf16"}, "model.precision=.* the model does not run"),
    ],
)
def test_a_changed_key_that_would_do_nothing_is_refused(config_class, changes, message):
    refused(config_class, message, **changes)


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (SFTConfig, {"model.lora.rank": 4, "model.lora.alpha": 8.0}),
        (RewardConfig, {"model.lora.rank": 4, "model.adapter": "a"}),  # merged first, the new one on top
        (PPOConfig, CRITIC | {"critic.precision": "bf16", "critic.device": "cpu", "critic.lora.rank": 4}),
        (PPOConfig, {"kl.controller": "adaptive", "kl.target": 3.0, "kl.horizon": 100}),
        (PPOConfig, {"lam": 0.9, "gamma": 0.9, "value_clip": 0.0, "critic_warmup": 2}),
        (PPOConfig, {"data.too_long": "cut_prompt_start"}),  # which happens in any case
        (EvaluateConfig, {"sampling.top_k": 5}),
        (
            CollectConfig,
            {"judge": "https://h/v1", "endpoint.model": "m", "unlabelled": "skip", "principles": "builtin"},
        ),
        (CollectConfig, {"judge": "runs/chat/model", "max_answer_tokens": 32}),  # which may be a chat model
        (EvaluateConfig, {"judge": ["mine:f=0.5"], "reward_timeout": 5.0}),
        (PPOConfig, {"reward": ["rule:ends", "mine:f"], "reward_on_error": "retry"}),
        (MergeConfig, {"model.precision": "fp32", "model.device": "cpu"}),  # which is so in any case
    ],
)
def test_the_same_key_is_taken_where_it_works(config_class, changes):
    validate(made(config_class, **changes))


def test_the_table_of_idle_keys_names_keys_that_exist():
    for owner, rules in NO_EFFECT.items():
        keys = schema(owner).fields
        assert all(any(NoEffect((known,), "").has(key) for key in keys) for rule in rules for known in rule.keys), owner
