"""Settings that have no effect because of another setting or because of the verb.

A person who changes such a key would think that the change worked. So a changed key of this table is refused. If a
pipeline file gives a key to all its stages, the key is left out of the stages where it has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from concordant.config import stages as s
from concordant.config.cluster_rules import TOGETHER_NO_EFFECT
from concordant.config.distill_rules import DISTILL_NO_EFFECT, PLANNED_SAMPLES, PLANNED_TEACHER
from concordant.config.environment_rules import ENVIRONMENT_NO_EFFECT
from concordant.config.fields import schema
from concordant.config.judging_rules import COLLECT_NO_EFFECT, CONSTITUTION_NO_EFFECT, JUDGE_NO_EFFECT
from concordant.config.names import NEEDS_CRITIC
from concordant.config.pair_rules import DPO_NO_EFFECT
from concordant.config.policy_rules import POLICY_NO_EFFECT
from concordant.config.rule_kinds import NoEffect as NoEffect
from concordant.config.rule_kinds import always
from concordant.config.sampling import RESHAPING
from concordant.config.specs import is_reward_function, is_reward_model, may_train_adapter, place_of
from concordant.config.train_rules import RETAINS_NOTHING, TRAIN_NO_EFFECT
from concordant.config.votes_rules import VOTES_NO_EFFECT


def _sources(v: Mapping[str, Any]) -> list[str]:
    """All sources of rewards and costs."""
    return [*v["reward"], *v.get("judge", ()), *filter(None, [v.get("constraint.cost")])]


_OF_LORA = ("alpha", "dropout", "target_modules", "rslora", "dora", "start", "on_top")  # settings of a new adapter


def _without_rank(section: str) -> NoEffect:
    keys = tuple(f"{section}.lora.{name}" for name in _OF_LORA)
    why = f"{section}.lora.rank is 0, so there is no adapter; set it above 0"
    return NoEffect(keys, why, lambda v: v[f"{section}.lora.rank"] == 0)


def _beside_adapter(section: str) -> NoEffect:
    why = (
        f"training continues with the adapter in {section}.adapter; for a new one over it set "
        f"{section}.lora.on_top true, for a new one alone leave {section}.adapter empty"
    )
    keys = (f"{section}.lora.",)
    return NoEffect(keys, why, lambda v: bool(v[f"{section}.adapter"]) and not v[f"{section}.lora.on_top"])


_TRAINS_NOTHING = NoEffect(
    ("model.lora.", "model.quantize", "model.activation_checkpointing"),
    "no model is trained; an adapter is given by --model.adapter",
)
_GREEDY = NoEffect(
    ("sampling.top_p", "sampling.top_k", "sampling.min_p"),
    "sampling.temperature 0 always takes the most likely token",
    lambda v: v["sampling.temperature"] == 0,
)
_NO_FUNCTION = NoEffect(
    ("reward_on_error", "reward_timeout"),
    "no Python function is a reward; only functions, given as module:function, fail or hang",
    lambda v: not any(map(is_reward_function, map(place_of, _sources(v)))),
)
_ONE_MEASURE = NoEffect(
    ("scoring.deviations",),
    "only mean-std takes deviations from the mean; set scoring.ensemble mean-std",
    lambda v: v["scoring.ensemble"] != "mean-std",
)
_SAMPLED_BY_VLLM = NoEffect(
    ("model.kernels",),
    "vLLM samples with kernels of its own; set sampling.engine own",
    lambda v: v["sampling.engine"] == "vllm",
)
_MERGED = "weights are merged in fp32 on the CPU, and the model does not run"
_NEVER_SPLIT = NoEffect(("data.test_fraction",), "all records are read, including the held-out ones")
_RESPONSES_SAMPLED = (
    NoEffect(("data.max_response_tokens",), "responses are sampled; sampling.max_new_tokens limits their length"),
    NoEffect(
        ("data.too_long",),
        "only the prompts of the data are used, and a prompt that is too long is cut at its start",
        lambda v: v["data.too_long"] == "cut_response_end",
    ),
)
_ONLY_ANSWERS = (_TRAINS_NOTHING, *_RESPONSES_SAMPLED)  # verbs that sample and do not train
_ONE_ROLE = NoEffect(
    ("cluster.apart.", "cluster.restarts", "cluster.max_lag"),
    "only ppo has roles that may stand apart from the policy's workers, and samples answers ahead",
)

NO_EFFECT: dict[type, tuple[NoEffect, ...]] = {
    s.RunConfig: (
        _without_rank("model"),
        *TRAIN_NO_EFFECT,
        *TOGETHER_NO_EFFECT,
        NoEffect(
            ("data.test_fraction",),
            "data.test_path is the held-out data, so no data is split off",
            lambda v: bool(v["data.test_path"]),
        ),
        NoEffect(
            ("train.keep_last",),
            "train.save_every and train.save_minutes are 0, so there is no checkpoint to keep",
            lambda v: v["train.save_every"] == 0 and v["train.save_minutes"] == 0,
        ),
        NoEffect(
            ("train.export",),
            "no adapter is trained, so there is only the model; set model.lora.rank or model.adapter",
            lambda v: not may_train_adapter(v["model.lora.rank"], v["model.adapter"], v["model.name"]),
        ),
        NoEffect(
            ("train.warmup_fraction",),
            "train.warmup_steps says how long the learning rate rises; give only one of the two",
            lambda v: v["train.warmup_steps"] > 0,
        ),
        NoEffect(
            ("train.min_rate_fraction",),
            "train.schedule constant never falls; set it linear or cosine",
            lambda v: v["train.schedule"] == "constant",
        ),
    ),
    s.SFTConfig: (_beside_adapter("model"), _ONE_ROLE, *RETAINS_NOTHING),
    s.RewardConfig: (_ONE_ROLE,),
    s.DPOConfig: (_beside_adapter("model"), _ONE_ROLE, *RETAINS_NOTHING, *DPO_NO_EFFECT),
    s.DistillConfig: (_beside_adapter("model"), _ONE_ROLE, *RETAINS_NOTHING, *DISTILL_NO_EFFECT),
    s.PPOConfig: (
        *RETAINS_NOTHING,
        NoEffect(
            ("cluster.apart.critic",),
            "advantages other than gae have no critic; set advantage gae",
            lambda v: v["advantage"] not in NEEDS_CRITIC,
        ),
        NoEffect(
            ("cluster.apart.reward",),
            "no reward is a model, so no worker would have anything to do",
            lambda v: not any(is_reward_model(place_of(source)) for source in v["reward"]),
        ),
        NoEffect(
            ("cluster.apart.generator_python",),
            "the workers of the policy sample too; set cluster.apart.generator, to 1 for example",
            lambda v: v["cluster.apart.generator"] == 0,
        ),
        NoEffect(
            ("cluster.restarts",),
            "workers that hold an optimizer's state are not started again; set cluster.apart.generator, for example",
            lambda v: not any(v[f"cluster.apart.{role}"] for role in ("generator", "reference", "reward")),
        ),
        _NO_FUNCTION,
        _ONE_MEASURE,
        NoEffect(
            ("constraint.limit", "constraint.multiplier", "constraint.rate", "constraint.most"),
            "there is no cost to limit; give constraint.cost",
            lambda v: not v["constraint.cost"],
        ),
        _beside_adapter("model"),
        _without_rank("critic"),
        _beside_adapter("critic"),
        *_RESPONSES_SAMPLED,
        NoEffect(
            ("kl.target", "kl.horizon"),
            "a fixed coefficient does not aim at a target; set kl.controller adaptive",
            lambda v: v["kl.controller"] == "fixed",
        ),
        NoEffect(
            ("critic.", "critic_head", "critic_learning_rate", "critic_warmup", "value_clip", "value_coefficient"),
            "advantages other than gae have no critic; set advantage gae",
            lambda v: v["advantage"] not in NEEDS_CRITIC,
        ),
        *POLICY_NO_EFFECT,
        *ENVIRONMENT_NO_EFFECT,
        NoEffect(
            ("share_backbone",),
            "all weights of the policy are trained, so there is no frozen base to share; set model.lora.rank",
            lambda v: not may_train_adapter(v["model.lora.rank"], v["model.adapter"], v["model.name"]),
        ),
        NoEffect(
            ("share_backbone",),
            "no critic and no reward model can share the policy's base; give a reward model, or advantage gae without "
            "critic.name",
            lambda v: (
                (v["advantage"] not in NEEDS_CRITIC or bool(v["critic.name"]))
                and not any(is_reward_model(place_of(s)) for s in v["reward"])
            ),
        ),
        NoEffect(
            ("importance_cap",),
            "our sampler computes with the learner's weights, and in fp32 with its rounding, so every ratio is 1",
            lambda v: (
                v["sampling.engine"] == "own"
                and not v["cluster.max_lag"]
                and v["model.precision"] == "fp32"
                and all(v[key] == off for key, off in RESHAPING.items())
            ),
        ),
        NoEffect(
            ("critic.",),
            "without critic.name the critic is a copy of the reward model or the policy and runs as the policy does; "
            "give critic.name",
            lambda v: v["advantage"] in NEEDS_CRITIC and not v["critic.name"],
        ),
    ),
    s.BestOfNConfig: (*ENVIRONMENT_NO_EFFECT, _NO_FUNCTION, _ONE_MEASURE, *_ONLY_ANSWERS),
    s.CollectConfig: (*_ONLY_ANSWERS, *COLLECT_NO_EFFECT),
    s.EvaluateConfig: (
        *ENVIRONMENT_NO_EFFECT,
        _NO_FUNCTION,
        NoEffect(("scoring.",), "there is no proxy to score with; give --reward", lambda v: not v["reward"]),
        _ONE_MEASURE,
        _TRAINS_NOTHING,
        _GREEDY,
        NoEffect(("model.name",), "--policies names the models; give NAME=PATH there"),
        NoEffect(("sampling.n",), "every policy answers once; give --policies NAME=best_of_n:N:PATH for the best of N"),
    ),
    s.ScoreConfig: (
        _TRAINS_NOTHING,
        NoEffect(("model.adapter",), "an adapter folder names its base; give the adapter folder as --model.name"),
        _NEVER_SPLIT,
        NoEffect(
            ("data.max_prompt_tokens", "data.max_response_tokens", "data.too_long"),
            "answers of every length are scored",
        ),
    ),
    s.PrepareConfig: (
        NoEffect(
            ("model.adapter", "model.precision", "model.device", "model.kernels", "model.lora.")
            + ("model.quantize", "model.activation_checkpointing"),
            "only the tokenizer of the model is used",
        ),
        NoEffect(
            ("data.max_prompt_tokens", "data.max_response_tokens", "data.too_long"),
            "rows of every length are kept; only the verbs that train have limits",
        ),
        NoEffect(("data.template_args",), "rows are kept as messages; the verbs that render them have a chat template"),
    ),
    s.DiagnoseConfig: (
        NoEffect(
            ("model.adapter", "model.precision", "model.device", "model.kernels", "model.lora.")
            + ("model.quantize", "model.activation_checkpointing"),
            "of the model only the tokenizer is used",
        ),
        NoEffect(("target", "json", "model."), "--explain prints a page and looks at nothing", lambda v: v["explain"]),
        NoEffect(
            ("model.",),
            "there is no data for its tokenizer to look at; give DATA --model.name MODEL, or the model's folder alone",
            lambda v: not v["target"],
        ),
    ),
    s.GenerateConfig: (*ENVIRONMENT_NO_EFFECT, *_ONLY_ANSWERS, _GREEDY, _NEVER_SPLIT, _SAMPLED_BY_VLLM),
    s.ChatConfig: (
        _TRAINS_NOTHING,
        _GREEDY,
        _SAMPLED_BY_VLLM,
        NoEffect(("sampling.n", "sampling.slots"), "a question gets one answer"),
    ),
    s.ServeConfig: (_TRAINS_NOTHING,),
    s.CourseConfig: (NoEffect(("exercise", "file"), "the list has every exercise", lambda v: v["action"] == "list"),),
    s.PlanConfig: (
        NoEffect(
            ("model.adapter", "model.trust_remote_code", "model.device", "model.kernels"),
            "only the shape of the model is read; hardware says where it will run",
        ),
        NoEffect(
            tuple(f"model.lora.{name}" for name in _OF_LORA),
            "an adapter on every linear layer but the head is planned, of model.lora.rank",
        ),
        NoEffect(("shape.",), "model.name has a shape; give only one of the two", lambda v: bool(v["model.name"])),
        NoEffect(
            ("inner_epochs", "minibatches", "reward_model"),
            "only ppo and grpo learn from the reward of responses; set method",
            lambda v: v["method"] not in ("ppo", "grpo"),
        ),
        PLANNED_SAMPLES,
        PLANNED_TEACHER,
        NoEffect(
            ("slots",), "sft and reward sample no responses; set method", lambda v: v["method"] in ("sft", "reward")
        ),
        NoEffect(
            ("share_backbone",),
            "only ppo and grpo have a critic or a reward model to put on the policy's base, and only an adapter leaves "
            "the base frozen; set method and model.lora.rank",
            lambda v: v["method"] not in ("ppo", "grpo") or v["model.lora.rank"] == 0,
        ),
        NoEffect(
            ("share_backbone",),
            "grpo has no critic, and the reward model has another base or is none; leave reward_model empty",
            lambda v: v["method"] == "grpo" and bool(v["reward_model"]),
        ),
        NoEffect(("loss",), "only dpo has losses to choose from; set method dpo", lambda v: v["method"] != "dpo"),
        NoEffect(("most_gpus",), "gpus is the number of workers; give only one of the two", lambda v: v["gpus"] > 0),
    ),
    s.AuditConfig: (
        _NO_FUNCTION,
        _TRAINS_NOTHING,
        NoEffect(("model.name", "model.adapter"), "--reward names the models"),
        NoEffect(
            ("data.max_prompt_tokens", "data.max_response_tokens", "data.too_long", "data.template_args"),
            "pairs of every length are scored, with the chat template of each reward model",
        ),
        NoEffect(
            ("data.test_fraction",),
            "data.test_path is the held-out data, so no data is split off",
            lambda v: bool(v["data.test_path"]),
        ),
    ),
    s.JudgeConfig: (*JUDGE_NO_EFFECT, _TRAINS_NOTHING),
    s.ConstitutionConfig: (
        *CONSTITUTION_NO_EFFECT,
        _TRAINS_NOTHING,
        _GREEDY,
        *_RESPONSES_SAMPLED,
        NoEffect(
            ("data.test_fraction",),
            "only the training side's prompts are answered",
            lambda v: bool(v["data.test_path"]),
        ),
    ),
    s.VotesConfig: VOTES_NO_EFFECT,
    s.MergeConfig: (
        NoEffect(("model.kernels", "model.lora.", "model.quantize", "model.activation_checkpointing"), _MERGED),
        NoEffect(("model.precision",), _MERGED, lambda v: v["model.precision"] != "fp32"),
        NoEffect(("model.device",), _MERGED, lambda v: v["model.device"] != "cpu"),
    ),
}


def useless(config_class: type) -> set[str]:
    """Keys that have no effect for this verb, whatever the other settings are."""
    rules = [rule for rule in _rules(config_class) if rule.when is always]
    return {key for key in schema(config_class).fields if any(rule.has(key) for rule in rules)}


def _rules(config_class: type) -> list[NoEffect]:
    return [rule for owner in config_class.__mro__[:-1] for rule in NO_EFFECT.get(owner, ())]


def idle(config_class: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Keys that differ from their default and have no effect, each with the reason."""
    rules = [rule for rule in _rules(config_class) if rule.when(values)]
    found: dict[str, str] = {}
    for key, known in schema(config_class).fields.items():
        rule = next((rule for rule in rules if rule.has(key)), None)
        if rule is not None and values[key] != known.default:
            found[key] = rule.why
    return found


def without_idle(config_class: type, values: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """``values`` with the default in place of every key that has no effect and is not in ``kept``.

    A file for many runs, such as a preset or the shared part of a pipeline, sets keys that do nothing in some of them.
    """
    fields = schema(config_class).fields
    return {**values, **{key: fields[key].default for key in idle(config_class, values) if key not in kept}}
