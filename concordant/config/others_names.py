"""What other trainers call our keys, so that an unknown option can name the right one.

The names are those of transformers' ``TrainingArguments`` and of TRL's configs, which many people know by heart. They
are used in error messages alone: no option has two names.
"""

from __future__ import annotations

from collections.abc import Iterable

# Where one name may mean several keys, the first that the verb has is named.
OTHERS_NAMES: dict[str, tuple[str, ...]] = {
    "attn_implementation": ("model.kernels",),
    "bf16": ("model.precision",),
    "batch": ("train.batch_size",),
    "dataset_name": ("data.path",),
    "dtype": ("model.precision",),
    "eval_steps": ("train.evaluate_every",),
    "fp16": ("model.precision",),
    "gradient_accumulation_steps": ("train.micro_batch_tokens",),
    "gradient_checkpointing": ("model.activation_checkpointing",),
    "kl_coef": ("kl.coefficient",),
    "load_in_4bit": ("model.quantize",),
    "logging_steps": ("train.log_every",),
    "lora_r": ("model.lora.rank",),
    "loss_type": ("loss", "policy_loss"),
    "lr": ("train.learning_rate",),
    "lr_scheduler_type": ("train.schedule",),
    "max_completion_length": ("sampling.max_new_tokens", "data.max_response_tokens"),
    "max_length": ("data.max_response_tokens",),
    "max_prompt_length": ("data.max_prompt_tokens",),
    "max_seq_length": ("data.max_response_tokens",),
    "n": ("sampling.n",),
    "num_generations": ("sampling.n",),
    "optim": ("train.optimizer",),
    "per_device_train_batch_size": ("train.batch_size",),
    "ref_model": ("reference",),
    "report_to": ("train.tracker",),
    "response_length": ("sampling.max_new_tokens", "data.max_response_tokens"),
    "resume_from_checkpoint": ("resume",),
    "reward_model": ("reward",),
    "samples_per_prompt": ("sampling.n",),
    "save_steps": ("train.save_every",),
    "torch_dtype": ("model.precision",),
    "train_file": ("data.path",),
    "use_peft": ("model.lora.rank",),
    "warmup_ratio": ("train.warmup_fraction",),
}


def meant_by_others(name: str, keys: Iterable[str]) -> str:
    """Our key for what other trainers call ``name``, with or without a section before it; '' if there is none."""
    ours = OTHERS_NAMES.get(name.rpartition(".")[2].lower().replace("-", "_"), ())
    known = set(keys)
    return next((key for key in ours if key in known), "")
