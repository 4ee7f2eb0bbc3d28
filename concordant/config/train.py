"""How long, how fast, and how often to look.

Some settings follow the method, the model and the data where none is given: see training/defaults.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from concordant.config.names import Schedule


@dataclass(kw_only=True)
class TrainConfig:
    max_steps: int = 0  # optimizer (PPO: rollout) steps; 0: as many as `epochs` gives
    epochs: float = 0.0  # passes over the training data; 0 follows the data: a small set gets more passes
    batch_size: int = 0  # prompts a step; 0 follows the data: 32, of a small set fewer
    micro_batch_tokens: int = 0  # tokens a pass with gradient, padding too; 0: 1,536 on a CPU, 8,192 on a GPU
    halve_on_oom: bool = False  # out of memory: halve micro_batch_tokens and do the step again, same gradient
    learning_rate: float = 0.0  # 0 follows method, size of the model and LoRA
    schedule: Schedule = "linear"  # how the rate falls after the warm-up
    warmup_fraction: float = 0.05  # share of steps that raise the rate from 0
    weight_decay: float = 0.0  # AdamW's
    beta1: float = 0.9
    beta2: float = 0.95
    max_grad_norm: float = 1.0  # 0 is off
    log_every: int = 1  # steps
    evaluate_every: int = -1  # steps; -1: about eight times a run; 0: at the end only
    save_every: int = 0  # steps between checkpoints; 0: by the clock alone
    save_minutes: float = 1.0  # between checkpoints, longer where saving would take over 4 % of the time; 0: by steps
    keep_last: int = 2  # checkpoints kept
    early_stopping: int = 0  # evaluations without improvement before stopping; 0 is off
    keep_best: bool = True  # export the best evaluation's weights rather than the last
    threads: int = 0  # CPU threads; 0 is PyTorch's choice
    tensorboard: bool = True
