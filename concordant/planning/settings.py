"""The YAML of a plan: the keys of the verb that trains, to paste into its file.

A key is in the YAML only if this version of the verb has it. Other keys are listed, with their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concordant.config import stages as s
from concordant.config.checks import contradicted
from concordant.config.fields import nest, schema
from concordant.config.names import Method, PlannedMethod
from concordant.config.yaml_io import dump_yaml

if TYPE_CHECKING:
    from concordant.planning.search import Plan

CONFIGS: dict[Method, type] = {
    "sft": s.SFTConfig,
    "reward": s.RewardConfig,
    "dpo": s.DPOConfig,
    "ppo": s.PPOConfig,
    "distill": s.DistillConfig,
}


def verb_of(method: PlannedMethod) -> Method:
    return "ppo" if method == "grpo" else method


def keys_of(plan: Plan, name: str) -> dict[str, Any]:
    """The values of a plan by the dotted keys of its verb. ``name``: of the model; "" if it has only dimensions."""
    work, setup = plan.work, plan.setup
    found: dict[str, Any] = {"model.name": name} if name else {}
    found |= {
        "model.device": "cuda" if plan.machine.is_gpu else "cpu",
        "model.precision": "bf16" if work.bf16 else "fp32",
        "model.activation_checkpointing": setup.recompute,
        "data.max_prompt_tokens": work.tree.prompt,
        "train.batch_size": work.trees,
        "train.micro_batch_tokens": setup.micro_batch_tokens,
        "train.keep_best": work.keep_best,
        **({} if work.optimizer == "adamw" else {"train.optimizer": work.optimizer}),
    }
    if work.rank:
        found["model.lora.rank"] = work.rank
    if work.quantized:
        found["model.quantize"] = "nf4"
    if work.samples:
        if not work.teacher:
            found |= {
                "advantage": "gae" if work.has_critic else "grpo",
                "inner_epochs": work.inner_epochs,
                "minibatches": work.minibatches,
            }
        found |= {
            "sampling.n": work.tree.branches,
            "sampling.max_new_tokens": work.tree.response,
            "sampling.slots": work.slots,
        }
        if work.shares or work.reward_shares:
            found["share_backbone"] = "all" if work.reward_shares or not work.reward_shape else "auto"
    else:
        found["data.max_response_tokens"] = work.tree.response
        if work.method == "dpo":
            found |= {"loss": work.loss, "evaluation_slots": work.slots}
    if setup.workers > 1:
        found |= {
            "cluster.workers": setup.workers,
            "cluster.tensor": setup.tensor,
            "cluster.pipeline": setup.pipeline,
            "cluster.sharded": setup.sharded,
            **({"cluster.offload": True} if setup.offload else {}),
        }
    return found


def refusals(plan: Plan) -> list[str]:
    """Why the verb refuses the mesh of the plan, by the rules with which it checks a run; empty where it takes it."""
    config_class = CONFIGS[verb_of(plan.work.method)]
    known = schema(config_class).fields
    values = {key: field.default for key, field in known.items()}
    values |= {key: value for key, value in keys_of(plan, "").items() if key in known}
    rules = contradicted(config_class, values)
    return [f"{' with '.join(rule.keys)}: {rule.why}" for rule in rules if any("cluster." in key for key in rule.keys)]


def yaml_of(plan: Plan, name: str) -> tuple[str, list[str]]:
    """The YAML, and the keys of the plan that this version of the verb does not have, each with its value."""
    verb = verb_of(plan.work.method)
    known = schema(CONFIGS[verb]).fields
    keys = keys_of(plan, name)
    has = {key: value for key, value in keys.items() if key in known}
    order = {section: i for i, section in enumerate(dict.fromkeys(key.partition(".")[0] for key in has))}
    has = dict(sorted(has.items(), key=lambda item: order[item[0].partition(".")[0]]))
    usual = {"cluster.tensor": 1, "cluster.pipeline": 1, "cluster.sharded": False}  # what a key that is not there means
    lacks = [f"{k} {v}".lower() for k, v in keys.items() if k not in known and not (k in usual and v == usual[k])]
    return dump_yaml({"verb": verb, **nest(has)}), lacks
