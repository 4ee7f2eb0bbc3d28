"""Settings of the training loop.

Some settings follow the method, the model and the data where none is given: see training/defaults.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.made import Made
from concordant.config.names import Export, OptimizerName, Schedule


@dataclass(kw_only=True)
class TrainConfig(Made):
    max_steps: int = 0  # optimizer steps, for PPO rollout steps; 0: the number that `epochs` gives
    epochs: float = 0.0  # passes over the training data; 0 follows the data: a small set gets more passes
    batch_size: int = 0  # prompts in each step; given examples at most once each; 0 follows the data: 32, or fewer
    micro_batch_tokens: int = 0  # tokens of a pass with gradient, with padding; 0: 1,536 on a CPU, 8,192 on a GPU
    halve_on_oom: bool = False  # if memory runs out, halve micro_batch_tokens and repeat the step; same gradient
    learning_rate: float = 0.0  # 0 follows the method, the size of the model and LoRA
    schedule: Schedule = "linear"  # how the learning rate falls after the warm-up
    min_rate_fraction: float = 0.0  # share of the learning rate at which the schedule's fall ends
    warmup_fraction: float = 0.05  # share of the steps in which the learning rate rises
    warmup_steps: int = 0  # steps in which the learning rate rises; 0: warmup_fraction gives their number
    optimizer: OptimizerName = "adamw"  # muon orthogonalises the matrices of layers; adafactor takes little memory
    weight_decay: float = 0.0  # share of a matrix that is taken away in each step, times the learning rate
    beta1: float = 0.9  # AdamW: how much of the mean gradient is kept at each step
    beta2: float = 0.95  # AdamW: how much of the mean squared gradient is kept at each step
    lora_plus: float = 1.0  # LoRA+: learning rate of an adapter's B over that of its A; the paper takes 16; 1 is off
    max_grad_norm: float = 1.0  # larger gradients are clipped to this norm; 0 is off
    log_every: int = 1  # steps between rows of metrics.jsonl
    evaluate_every: int = -1  # steps between evaluations; -1: about eight a run; 0: only at the end
    save_every: int = 0  # steps between checkpoints; 0: only by save_minutes
    save_minutes: float = 1.0  # minutes between checkpoints, more if saving takes over 4 % of the time; 0: off
    keep_last: int = 2  # number of checkpoints to keep
    early_stopping: int = 0  # stop after so many evaluations without improvement; 0 is off
    keep_best: bool = True  # export the weights of the best evaluation; False exports the last weights
    export: Export = "auto"  # of LoRA: merged (model/) | adapter (PEFT's) | both; auto: both if the base is on a disk
    threads: int = 0  # CPU threads; 0: PyTorch chooses
    tensorboard: bool = True  # write the metrics for TensorBoard too
    tracker: list[str] = field(default_factory=list)  # wandb | trackio | mlflow; metrics and config go there too
