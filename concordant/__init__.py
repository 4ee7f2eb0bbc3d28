"""Concordant: from human preferences to an aligned language model.

The names below are the public library; the command line uses the same objects. A name is imported when it is first
used, so ``import concordant`` does not load torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concordant import losses
    from concordant.config.audit import AuditConfig
    from concordant.config.data import DataConfig
    from concordant.config.doctor import DoctorConfig
    from concordant.config.judging import ConstitutionConfig, EndpointConfig, JudgeConfig
    from concordant.config.model import LoraConfig, ModelConfig
    from concordant.config.plan import PlanConfig, ShapeConfig
    from concordant.config.sampling import SamplingConfig
    from concordant.config.scoring import ConstraintConfig, ScoringConfig
    from concordant.config.stages import (
        AverageConfig,
        BestOfNConfig,
        ChatConfig,
        CollectConfig,
        CourseConfig,
        DiagnoseConfig,
        DistillConfig,
        DPOConfig,
        EvaluateConfig,
        GenerateConfig,
        KLConfig,
        MergeConfig,
        PPOConfig,
        PrepareConfig,
        PushConfig,
        RewardConfig,
        ScoreConfig,
        ServeConfig,
        SFTConfig,
        StudioConfig,
        VotesConfig,
    )
    from concordant.config.train import TrainConfig
    from concordant.core.errors import RunFailed, RunStopped, UserError
    from concordant.core.kl import AdaptiveKLController
    from concordant.core.losses import compute_preference_loss
    from concordant.course.command import take_course
    from concordant.data.toytalk.judge import gold_score
    from concordant.engines.reward_model import RewardModel
    from concordant.evaluation.metrics import best_of_n_kl_bound
    from concordant.models.load import Policy, save_policy
    from concordant.models.lora import (
        LoRALinear,
        apply_lora_to_model,
        find_target_modules,
        get_lora_parameters,
        merge_lora_weights,
        print_trainable_parameters,
    )
    from concordant.models.lora_combine import add_weighted_adapter
    from concordant.models.peft_files import load_adapter, save_adapter
    from concordant.serve.command import open_server
    from concordant.stages.audit import audit
    from concordant.stages.average import average
    from concordant.stages.best_of_n import best_of_n
    from concordant.stages.collect import collect
    from concordant.stages.constitution import constitution
    from concordant.stages.distill import distill
    from concordant.stages.doctor import diagnose
    from concordant.stages.dpo import dpo
    from concordant.stages.evaluate import evaluate
    from concordant.stages.judge import judge
    from concordant.stages.plan import plan
    from concordant.stages.ppo import ppo
    from concordant.stages.prepare import prepare
    from concordant.stages.push import push
    from concordant.stages.reward import reward, score
    from concordant.stages.sft import sft
    from concordant.stages.talk import chat, generate, merge
    from concordant.stages.votes import keep_votes
    from concordant.studio.command import open_studio

__all__ = [
    "AdaptiveKLController",
    "AuditConfig",
    "AverageConfig",
    "BestOfNConfig",
    "ChatConfig",
    "CollectConfig",
    "ConstitutionConfig",
    "ConstraintConfig",
    "CourseConfig",
    "DPOConfig",
    "DataConfig",
    "DiagnoseConfig",
    "DistillConfig",
    "DoctorConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "JudgeConfig",
    "KLConfig",
    "LoRALinear",
    "LoraConfig",
    "MergeConfig",
    "ModelConfig",
    "PPOConfig",
    "PlanConfig",
    "Policy",
    "PrepareConfig",
    "PushConfig",
    "RewardConfig",
    "RewardModel",
    "RunFailed",
    "RunStopped",
    "SFTConfig",
    "SamplingConfig",
    "ScoreConfig",
    "ScoringConfig",
    "ServeConfig",
    "ShapeConfig",
    "StudioConfig",
    "TrainConfig",
    "UserError",
    "VotesConfig",
    "add_weighted_adapter",
    "apply_lora_to_model",
    "audit",
    "average",
    "best_of_n",
    "best_of_n_kl_bound",
    "chat",
    "collect",
    "compute_preference_loss",
    "constitution",
    "diagnose",
    "distill",
    "dpo",
    "evaluate",
    "find_target_modules",
    "generate",
    "get_lora_parameters",
    "gold_score",
    "judge",
    "keep_votes",
    "load_adapter",
    "load_policy",
    "losses",
    "merge",
    "merge_lora_weights",
    "open_server",
    "open_studio",
    "plan",
    "ppo",
    "prepare",
    "print_trainable_parameters",
    "push",
    "reward",
    "save_adapter",
    "save_policy",
    "score",
    "sft",
    "take_course",
]

# The module of every name that is imported at its first use. A test compares this table with the imports above.
_NAMES_IN = {
    "config.audit": ("AuditConfig",),
    "config.data": ("DataConfig",),
    "config.doctor": ("DoctorConfig",),
    "config.judging": ("ConstitutionConfig", "EndpointConfig", "JudgeConfig"),
    "config.model": ("LoraConfig", "ModelConfig"),
    "config.plan": ("PlanConfig", "ShapeConfig"),
    "config.sampling": ("SamplingConfig",),
    "config.scoring": ("ConstraintConfig", "ScoringConfig"),
    "config.stages": (
        *("AverageConfig", "BestOfNConfig", "ChatConfig", "CollectConfig", "CourseConfig", "DPOConfig"),
        *("DiagnoseConfig", "DistillConfig", "EvaluateConfig", "GenerateConfig"),
        *("KLConfig", "MergeConfig", "PPOConfig", "PrepareConfig", "PushConfig", "RewardConfig", "SFTConfig"),
        *("ScoreConfig", "ServeConfig", "StudioConfig", "VotesConfig"),
    ),
    "config.train": ("TrainConfig",),
    "core.errors": ("RunFailed", "RunStopped", "UserError"),
    "core.kl": ("AdaptiveKLController",),
    "core.losses": ("compute_preference_loss",),
    "data.toytalk.judge": ("gold_score",),
    "evaluation.metrics": ("best_of_n_kl_bound",),
    "models.load": ("Policy", "save_policy"),
    "models.lora": (
        *("LoRALinear", "apply_lora_to_model", "find_target_modules", "get_lora_parameters"),
        *("merge_lora_weights", "print_trainable_parameters"),
    ),
    "models.lora_combine": ("add_weighted_adapter",),
    "models.peft_files": ("load_adapter", "save_adapter"),
    "engines.reward_model": ("RewardModel",),
    "course.command": ("take_course",),
    "serve.command": ("open_server",),
    "stages.audit": ("audit",),
    "stages.average": ("average",),
    "stages.best_of_n": ("best_of_n",),
    "stages.collect": ("collect",),
    "stages.constitution": ("constitution",),
    "stages.distill": ("distill",),
    "stages.doctor": ("diagnose",),
    "stages.dpo": ("dpo",),
    "stages.evaluate": ("evaluate",),
    "stages.judge": ("judge",),
    "stages.plan": ("plan",),
    "stages.ppo": ("ppo",),
    "stages.prepare": ("prepare",),
    "stages.push": ("push",),
    "stages.reward": ("reward", "score"),
    "stages.sft": ("sft",),
    "stages.talk": ("chat", "generate", "merge"),
    "stages.votes": ("keep_votes",),
    "studio.command": ("open_studio",),
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names}


def load_policy(model: str | Path | ModelConfig, texts: Iterable[str] | None = None, seed: int = 0) -> Policy:
    """Load a causal language model with its tokenizer and move it to its device.

    ``model`` is a folder, a hub id, ``package:NAME/FOLDER``, ``builtin:tiny``, ``builtin:small``, or a ``ModelConfig``,
    which can also choose an adapter, LoRA and the precision. ``texts`` are the training texts of a built-in model's
    tokenizer. ``seed`` is the seed of new weights. Raises UserError if the model is not a causal language model.
    """
    from concordant.config.checks import validate
    from concordant.config.model import ModelConfig
    from concordant.engines import roles

    config = model if isinstance(model, ModelConfig) else ModelConfig(name=str(model))
    validate(config, prefix="model.")
    return roles.open_policy(config, texts, seed)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from concordant.runs.identity import package_version

        return package_version()
    if name == "losses":
        return importlib.import_module("concordant.losses")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"concordant.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
