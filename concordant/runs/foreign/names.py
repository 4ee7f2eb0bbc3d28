"""What other trainers call the settings that our rules and cures name, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from concordant.runs.foreign.method import Guess

# Our key: the same setting's name in each trainer. A cure is said with the trainer's name.
THEIR_NAMES: Mapping[str, Mapping[str, str]] = {
    "TRL": {
        "train.learning_rate": "learning_rate",
        "train.max_steps": "max_steps",
        "train.epochs": "num_train_epochs",
        "train.batch_size": "per_device_train_batch_size × gradient_accumulation_steps",
        "train.keep_best": "load_best_model_at_end",
        "train.warmup": "warmup_steps",
        "train.weight_decay": "weight_decay",
        "train.max_grad_norm": "max_grad_norm",
        "data.max_response_tokens": "max_length",
        "sampling.max_new_tokens": "max_completion_length",
        "sampling.temperature": "temperature",
        "sampling.n": "num_generations",
        "sampling.top_k": "top_k",
        "kl.coefficient": "beta",
        "inner_epochs": "num_iterations",
        "label_smoothing": "label_smoothing",
        "clip": "epsilon",
        "model.precision fp32": "bf16 false",
        "model.lora.dropout": "lora_dropout",
        "model.lora.rank": "lora_r",
        "reference": "ref_model",
    },
    "verl": {
        "train.learning_rate": "actor_rollout_ref.actor.optim.lr",
        "critic_learning_rate": "critic.optim.lr",
        "train.max_steps": "trainer.total_training_steps",
        "train.epochs": "trainer.total_epochs",
        "train.batch_size": "data.train_batch_size",
        "sampling.max_new_tokens": "data.max_response_length",
        "sampling.temperature": "actor_rollout_ref.rollout.temperature",
        "sampling.n": "actor_rollout_ref.rollout.n",
        "sampling.top_k": "actor_rollout_ref.rollout.top_k",
        "kl.coefficient": "algorithm.kl_ctrl.kl_coef",
        "inner_epochs": "actor_rollout_ref.actor.ppo_epochs",
        "clip": "actor_rollout_ref.actor.clip_ratio",
        "entropy_coefficient": "actor_rollout_ref.actor.entropy_coeff",
    },
    "OpenRLHF": {
        "train.learning_rate": "learning_rate",
        "train.epochs": "max_epochs",
        "train.batch_size": "train_batch_size",
        "sampling.max_new_tokens": "generate_max_len",
        "sampling.temperature": "temperature",
        "sampling.n": "n_samples_per_prompt",
        "kl.coefficient": "init_kl_coef",
        "critic_learning_rate": "critic_learning_rate",
    },
    "LLaMA-Factory": {
        "train.learning_rate": "learning_rate",
        "train.max_steps": "max_steps",
        "train.epochs": "num_train_epochs",
        "beta": "pref_beta",
        "data.max_response_tokens": "cutoff_len",
        "model.lora.rank": "lora_rank",
        "model.lora.dropout": "lora_dropout",
        "sampling.max_new_tokens": "max_new_tokens",
        "sampling.temperature": "temperature",
        "loss": "pref_loss",
    },
}

# What a trainer does if nobody sets it, where our rules ask for it and our own default is another.
DEFAULTS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("TRL", "dpo"): {"beta": 0.1},
    ("TRL", "kto"): {"beta": 0.1},
    ("TRL", "ppo"): {"clip": 0.2, "inner_epochs": 4, "minibatches": 1},
    ("TRL", "grpo"): {"clip": 0.2, "inner_epochs": 1, "minibatches": 1},
    ("TRL", "rloo"): {"clip": 0.2, "inner_epochs": 1, "minibatches": 1},
    ("LLaMA-Factory", "dpo"): {"beta": 0.1},
    ("LLaMA-Factory", "kto"): {"beta": 0.1},
    ("OpenRLHF", "dpo"): {"beta": 0.1},
    ("OpenRLHF", "ppo"): {"clip": 0.2, "inner_epochs": 1, "minibatches": 1},
    ("OpenRLHF", "grpo"): {"clip": 0.2, "inner_epochs": 1, "minibatches": 1},
    ("verl", "ppo"): {"clip": 0.2, "inner_epochs": 1, "minibatches": 4},
    ("verl", "grpo"): {"clip": 0.2, "inner_epochs": 1, "minibatches": 4},
}


def assumed(guess: Guess, config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the trainer that nothing contradicts."""
    known = DEFAULTS.get((guess.framework, guess.method), {})
    return {key: value for key, value in known.items() if key not in config}


def in_their_words(text: str, framework: str) -> str:
    """``text`` with the trainer's names of the settings that it names."""
    names = THEIR_NAMES.get(framework, THEIR_NAMES["TRL"] if framework == "transformers" else {})
    for ours in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(ours)}(?![\w]|\.\w)", names[ours], text)
    return text
