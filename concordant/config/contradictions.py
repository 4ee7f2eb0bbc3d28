"""Settings that contradict each other. Settings without effect because of other settings are in no_effect.py."""

from __future__ import annotations

from concordant.config import stages as s
from concordant.config.cluster_rules import APART, PARTS, PLANNED_OFFLOAD, ROLES_APART, TOGETHER, holds_parts
from concordant.config.distill_rules import DISTILL_CONTRADICTIONS
from concordant.config.environment_rules import ENVIRONMENT_CONTRADICTIONS, TURNS_CONTRADICTIONS
from concordant.config.judging_rules import (
    COLLECT_CONTRADICTIONS,
    CONSTITUTION_CONTRADICTIONS,
    JUDGE_CONTRADICTIONS,
)
from concordant.config.names import LOSS_ESTIMATORS, REWARD_ESTIMATORS
from concordant.config.pair_rules import DPO_CONTRADICTIONS
from concordant.config.policy_rules import POLICY_CONTRADICTIONS
from concordant.config.rule_kinds import Contradiction, kl_of
from concordant.config.sampling import RESHAPING
from concordant.config.specs import best_of, named, place_of
from concordant.config.train_rules import QUANTIZED, QUANTIZED_CRITIC, QUANTIZED_NEW, TRAIN_CONTRADICTIONS
from concordant.config.votes_rules import VOTES_CONTRADICTIONS

_COLD, _HOT = 0.01, 2.0  # vLLM's limits of a temperature that is not 0

_TRAINING = (
    Contradiction(
        ("train.early_stopping", "train.evaluate_every"),
        lambda v: v["train.early_stopping"] > 0 and v["train.evaluate_every"] == 0,
        "early stopping counts evaluations, and there are none before the end; set train.evaluate_every",
    ),
    Contradiction(
        ("train.warmup_steps", "train.max_steps"),
        lambda v: 0 < v["train.max_steps"] < v["train.warmup_steps"],
        "the run would never reach its learning rate; give fewer warm-up steps, or more steps",
    ),
    Contradiction(
        ("data.path", "data.test_path"),
        lambda v: bool(v["data.path"]) and v["data.path"] == v["data.test_path"],
        "the held-out data would be the training data; leave data.test_path empty to split the data by prompt",
    ),
)
# Settings that vLLM does not take, or that give another distribution there.
VLLM_SAMPLING = (
    Contradiction(
        ("sampling.engine", "sampling.temperature"),
        lambda v: (
            v["sampling.engine"] == "vllm"
            and not (v["sampling.temperature"] in (0, 0.0) or _COLD <= v["sampling.temperature"] <= _HOT)
        ),
        f"vLLM takes 0 and temperatures from {_COLD:g} to {_HOT:g}; use sampling.engine own for others",
    ),
    Contradiction(
        ("sampling.engine", "sampling.min_p", "sampling.top_p"),
        lambda v: v["sampling.engine"] == "vllm" and v["sampling.min_p"] > 0 and v["sampling.top_p"] < 1,
        "vLLM applies min_p before top_p, and transformers and our sampler apply top_p first, which gives another "
        "distribution; set one of the two off, or use sampling.engine own",
    ),
)
_SAMPLING = (
    Contradiction(
        ("sampling.min_new_tokens", "sampling.max_new_tokens"),
        lambda v: v["sampling.min_new_tokens"] > v["sampling.max_new_tokens"],
        "no answer can have so many tokens; raise sampling.max_new_tokens or lower sampling.min_new_tokens",
    ),
    *VLLM_SAMPLING,
    Contradiction(
        ("sampling.engine", "model.trust_remote_code"),
        lambda v: v["sampling.engine"] == "vllm" and v["model.trust_remote_code"],
        "vLLM runs a model by its own code and not by the code that comes with the model; use sampling.engine own",
    ),
)
# Of verbs that sample several answers to a prompt and compare them.
_CHOOSES = (
    *_SAMPLING,
    Contradiction(
        ("sampling.n",),
        lambda v: v["sampling.n"] < 2,
        "with one answer there is nothing to choose; use 2 or more",
    ),
    Contradiction(
        ("sampling.temperature",),
        lambda v: v["sampling.temperature"] == 0,
        "temperature 0 gives n equal answers; use a value above 0",
    ),
)

_DIMENSIONS = ("vocabulary", "hidden", "layers", "heads", "mlp")  # of a shape that no model gives
_SAMPLED = ("ppo", "grpo")  # planned methods that sample their own responses


def _reshaped(key: str, off: float) -> Contradiction:
    return Contradiction(
        (key, "allow_truncated_sampling"),
        lambda v: v[key] != off and not v["allow_truncated_sampling"],
        "it changes the sampler's distribution, and the learner has the log-probs of the unchanged one; "
        f"set {key} {off:g}, or accept an approximate correction with allow_truncated_sampling true",
    )


_RETAINS = (
    Contradiction(
        ("retain.ewc", "cluster.sharded", "cluster.pipeline"),
        lambda v: v["retain.ewc"] > 0 and (v["cluster.sharded"] or v["cluster.pipeline"] > 1),
        "how much a weight matters is measured on whole gradients, which no worker has; use retain.mix, or leave "
        "cluster.sharded and cluster.pipeline out",
    ),
)


CONTRADICTIONS: dict[type, tuple[Contradiction, ...]] = {
    s.SFTConfig: _RETAINS,
    s.DPOConfig: (*_RETAINS, *DPO_CONTRADICTIONS),
    s.DistillConfig: (*_RETAINS, *_SAMPLING, *DISTILL_CONTRADICTIONS),
    s.RunConfig: (*_TRAINING, *TOGETHER, *TRAIN_CONTRADICTIONS, *QUANTIZED),
    s.RewardConfig: (
        QUANTIZED_NEW,
        Contradiction(
            ("train.early_stopping", "validation_fraction"),
            lambda v: v["train.early_stopping"] > 0 and v["validation_fraction"] == 0,
            "early stopping needs a validation slice, and there is none; set validation_fraction above 0",
        ),
    ),
    s.PPOConfig: (
        Contradiction(
            ("share_backbone", *PARTS, *ROLES_APART),
            lambda v: v["share_backbone"] != "none" and (holds_parts(v) or any(v[key] for key in ROLES_APART)),
            "roles that share one base were tried with whole models on the same workers; leave one of the two out",
        ),
        *_RETAINS,
        *_SAMPLING,
        *APART,
        QUANTIZED_CRITIC,
        *POLICY_CONTRADICTIONS,
        *ENVIRONMENT_CONTRADICTIONS,
        Contradiction(
            ("kl.place", "kl.estimator"),
            lambda v: kl_of(v)[0] == "loss" and kl_of(v)[1] not in LOSS_ESTIMATORS,
            "k1 in the loss has an expected gradient of 0, so it would not limit the KL; use k2, k3 or exact",
        ),
        Contradiction(
            ("kl.place", "kl.estimator"),
            lambda v: kl_of(v)[0] == "reward" and kl_of(v)[1] not in REWARD_ESTIMATORS,
            "a KL in the reward is k1 on every token; for the other estimators set kl.place loss",
        ),
        Contradiction(
            ("kl.controller", "kl.coefficient"),
            lambda v: v["kl.controller"] == "adaptive" and v["kl.coefficient"] == 0,
            "the adaptive controller multiplies the coefficient, so 0 stays 0; start above 0",
        ),
        *(_reshaped(key, off) for key, off in RESHAPING.items()),
        Contradiction(
            ("importance_cap",),
            lambda v: 0 < v["importance_cap"] < 1,
            "a cap below 1 would make tokens of equal probability count less too; use 1 or more, or 0 for no weights",
        ),
        Contradiction(
            ("sampling.temperature",),
            lambda v: v["sampling.temperature"] == 0,
            "PPO learns from differences between samples, and temperature 0 gives equal samples; use a value above 0",
        ),
        Contradiction(
            ("constraint.multiplier", "constraint.most"),
            lambda v: v["constraint.multiplier"] > v["constraint.most"],
            "the multiplier would start above its bound; raise constraint.most, or lower constraint.multiplier",
        ),
        Contradiction(
            ("stop_disagreement",),
            lambda v: 0 < v["stop_disagreement"] <= 1,
            "the disagreement at the start is 1 times itself, so the run would end at once; give more than 1, or 0",
        ),
        Contradiction(
            ("stop_disagreement", "scoring.ensemble"),
            lambda v: v["stop_disagreement"] > 0 and v["scoring.ensemble"] == "none",
            "only the members of an ensemble can disagree; set scoring.ensemble, and give several reward models",
        ),
        Contradiction(
            ("stop_disagreement", "train.evaluate_every"),
            lambda v: v["stop_disagreement"] > 0 and v["train.evaluate_every"] == 0,
            "the disagreement is measured at evaluations, and there are none before the end; set train.evaluate_every",
        ),
        Contradiction(
            ("minibatches", "train.batch_size"),
            lambda v: 0 < v["train.batch_size"] < v["minibatches"],
            "a minibatch would hold no prompt; minibatches may be train.batch_size at most",
        ),
        Contradiction(
            ("share_backbone", "critic.name"),
            lambda v: v["share_backbone"] == "all" and bool(v["critic.name"]),
            "a critic that starts from another model has a backbone of its own; leave critic.name empty, or set "
            "share_backbone auto",
        ),
        Contradiction(
            ("share_backbone", "reference"),
            lambda v: v["share_backbone"] == "all" and bool(v["reference"]),
            "a named reference is a second model in memory; leave reference empty, or set share_backbone auto",
        ),
        Contradiction(
            ("critic_warmup", "train.max_steps"),
            lambda v: 0 < v["train.max_steps"] <= v["critic_warmup"],
            "the run would end before the policy learns; make train.max_steps greater than critic_warmup",
        ),
    ),
    s.BestOfNConfig: (*_CHOOSES, *ENVIRONMENT_CONTRADICTIONS),
    s.CollectConfig: (*_CHOOSES, *COLLECT_CONTRADICTIONS),
    s.EvaluateConfig: (
        *_SAMPLING,
        *ENVIRONMENT_CONTRADICTIONS,
        Contradiction(
            ("policies", "reward"),
            lambda v: not v["reward"] and any(best_of(path)[0] > 1 for path in named(v["policies"]).values()),
            "best_of_n keeps the answer with the highest reward; give --reward",
        ),
    ),
    s.AverageConfig: (
        Contradiction(
            ("models",),
            lambda v: len(v["models"]) == 1 or len(set(v["models"])) < len(v["models"]),
            "an average needs two different models or more",
        ),
    ),
    s.PrepareConfig: (
        Contradiction(
            ("max_samples", "data.max_samples"),
            lambda v: 0 < v["data.max_samples"] != v["max_samples"] > 0,
            "both limit the number of rows; give only one of the two",
        ),
    ),
    s.PlanConfig: (
        QUANTIZED_NEW,
        Contradiction(
            ("model.name",),
            lambda v: not v["model.name"] and not all(v[f"shape.{name}"] for name in _DIMENSIONS),
            "give a known model or a folder as --model.name, or else every one of "
            + ", ".join(f"--shape.{name}" for name in _DIMENSIONS),
        ),
        Contradiction(
            ("model.lora.rank", "shape.hidden"),
            lambda v: 0 < v["shape.hidden"] < v["model.lora.rank"],
            "the rank of an adapter is at most the hidden size",
        ),
        Contradiction(
            ("minibatches", "batch_size"),
            lambda v: v["method"] in _SAMPLED and v["batch_size"] < v["minibatches"],
            "a minibatch would hold no prompt; minibatches may be batch_size at most",
        ),
        Contradiction(
            ("method", "samples"),
            lambda v: v["method"] == "grpo" and v["samples"] < 2,
            "grpo compares the samples of one prompt, so set samples to 2 or more",
        ),
        Contradiction(
            ("share_backbone", "reward_model"),
            lambda v: v["share_backbone"] == "all" and v["reward_model"] not in ("", "none"),
            "a named reward model has a base of its own; leave reward_model empty, or set share_backbone auto",
        ),
        *PLANNED_OFFLOAD,
        Contradiction(
            ("gpus", "tensor", "pipeline"),
            lambda v: bool(v["gpus"] and v["gpus"] % (max(1, v["tensor"]) * max(1, v["pipeline"]))),
            "the number of workers is a multiple of tensor × pipeline",
        ),
    ),
    s.AuditConfig: (
        Contradiction(
            ("reward",),
            lambda v: any(place_of(source) != source for source in [*v["reward"], *v["judge"]]),
            "each reward is looked at alone, so a weight would do nothing; leave it out",
        ),
        Contradiction(
            ("reward",),
            lambda v: len(set(v["reward"])) < len(v["reward"]),
            "a reward is given twice, and would always agree with itself; name different ones",
        ),
    ),
    s.JudgeConfig: JUDGE_CONTRADICTIONS,
    s.ConstitutionConfig: (*_SAMPLING, *CONSTITUTION_CONTRADICTIONS),
    s.CourseConfig: (
        Contradiction(
            ("action", "exercise"),
            lambda v: v["action"] != "list" and v["exercise"] == 0,
            "say which exercise, such as check 2; `concordant course` lists them",
        ),
    ),
    s.ChatConfig: _SAMPLING,
    s.VotesConfig: VOTES_CONTRADICTIONS,
    s.GenerateConfig: (
        *_SAMPLING,
        *TURNS_CONTRADICTIONS,
        Contradiction(
            ("prompt", "data.path"),
            lambda v: bool(v["prompt"]) == bool(v["data.path"]),
            "give either --prompt TEXT or --data FILE",
        ),
    ),
}
