"""The keys that ``concordant VERB --help`` shows. Every other key is shown by ``--help all``.

A new key needs no entry here. An entry says that most people who use the verb want to see the key.
"""

from __future__ import annotations

from concordant.config import stages as s

# Dotted keys by the class of a verb, or by a class that the verb's class extends. Keys that a verb needs
# (``checks.NEEDED``) are shown first, and need no entry.
COMMON: dict[type, tuple[str, ...]] = {
    s.RunConfig: (
        "model.adapter",
        "model.lora.rank",
        "data.format",
        "data.test_path",
        "data.max_samples",
        "data.max_prompt_tokens",
        "data.max_response_tokens",
        "train.max_steps",
        "train.epochs",
        "train.batch_size",
        "train.learning_rate",
        "resume",
        "seed",
    ),
    s.SFTConfig: ("responses",),
    s.RewardConfig: ("margin", "label_smoothing"),
    s.DPOConfig: ("loss", "beta", "label_smoothing", "reference"),
    s.PPOConfig: (
        "advantage",
        "kl.coefficient",
        "clip",
        "inner_epochs",
        "sampling.n",
        "sampling.temperature",
        "sampling.max_new_tokens",
    ),
    s.BestOfNConfig: (
        "sampling.n",
        "sampling.temperature",
        "sampling.max_new_tokens",
        "split",
        "data.max_samples",
        "data.max_prompt_tokens",
        "resume",
        "seed",
    ),
    s.EvaluateConfig: (
        "reward",
        "judge",
        "baseline",
        "runs",
        "max_prompts",
        "sampling.temperature",
        "sampling.max_new_tokens",
        "data.test_path",
        "data.max_prompt_tokens",
        "model.device",
        "seed",
    ),
    s.ScoreConfig: ("output", "data.format", "data.max_samples", "model.device"),
    s.PrepareConfig: ("data.format", "data.columns", "data.test_fraction", "max_samples", "compare_with", "seed"),
    s.GenerateConfig: (
        "prompt",
        "data.path",
        "output",
        "sampling.n",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.max_new_tokens",
        "model.adapter",
        "model.device",
        "seed",
    ),
    s.ChatConfig: (
        "system",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.max_new_tokens",
        "model.adapter",
        "model.device",
        "seed",
    ),
    s.MergeConfig: (),
    s.PushConfig: ("private", "dry_run"),
    s.DiagnoseConfig: ("target", "explain", "model.name", "json"),
}
