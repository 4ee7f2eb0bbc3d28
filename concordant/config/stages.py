"""One dataclass a verb. Defaults are those of the paper or of common practice; comments give units and reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.data import DataConfig
from concordant.config.doctor import DoctorConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig


@dataclass
class RunConfig:
    """What every verb that trains has."""

    output: str = ""  # run folder
    seed: int = 0  # of every random draw
    resume: str = ""  # "auto": continue from the newest valid checkpoint; "force": even with other settings or data
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)


@dataclass
class SFTConfig(RunConfig):
    responses: str = "both"  # both | chosen: which answers of a pair are imitated
    packing: bool = True  # several dialogues share a row where rows are padded; False: one a row


@dataclass
class RewardConfig(RunConfig):
    train: TrainConfig = field(default_factory=lambda: TrainConfig(evaluate_every=50))
    margin: float = 0.0  # reward units the chosen must lead by; a pair's own margin is added
    temperature: float = 1.0  # scores are divided by it inside the loss
    label_smoothing: float = 0.0  # share of labels believed to be flipped
    centering: float = 0.0  # weight of (chosen + rejected)², which keeps scores around 0
    lm_coefficient: float = 0.0  # weight of the chosen answer's language-model loss beside Bradley–Terry's
    validation_fraction: float = 0.05  # slice of train that picks the best checkpoint; held-out pairs only report


@dataclass
class DPOConfig(RunConfig):
    loss: str = "sigmoid"  # sigmoid | ipo | robust
    beta: float = 0.1  # reward per nat of log-ratio
    label_smoothing: float = 0.0  # cDPO's and robust DPO's flip probability
    reference: str = ""  # model folder; empty: the policy as it starts


@dataclass
class KLConfig:
    place: str = "reward"  # reward (a penalty on every token, k1) | loss (k2, k3 or exact)
    estimator: str = "k1"  # k1 | k2 | k3 | exact; k1 in the loss has zero expected gradient and is refused
    coefficient: float = 0.05  # reward units per nat
    controller: str = "fixed"  # fixed | adaptive
    target: float = 6.0  # nats a response, the adaptive controller's aim
    horizon: int = 10_000  # responses over which the adaptive controller moves


@dataclass
class PPOConfig(RunConfig):
    reward: list[str] = field(
        default_factory=list
    )  # PATH | module:function | rule:NAME, each with an optional "=weight"
    reward_normalize: str = "start"  # none | start (once, from the first policy's samples) | running
    reward_clip: float = 0.0  # absolute value after normalisation; 0 is off
    missing_eos_penalty: float = 0.0  # subtracted from the reward of a response that never ended
    advantage: str = "gae"  # gae | rloo | grpo
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # GAE's λ
    whiten: bool = True  # advantages to mean 0, deviation 1, over the whole step's response tokens
    kl: KLConfig = field(default_factory=KLConfig)
    clip: float = 0.2  # probability ratio's distance from 1
    value_clip: float = 0.2  # reward units; 0 is off
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0  # reward units per nat; positive raises entropy
    aggregation: str = "token-mean"  # token-mean | seq-mean-token-sum | seq-mean-token-mean
    inner_epochs: int = 2  # passes over a step's rollouts
    minibatches: int = 2  # optimizer steps a pass
    stop_kl: float = 0.0  # nats a token, approximate KL from the sampling policy that ends the inner epochs; 0 is off
    critic: ModelConfig = field(
        default_factory=ModelConfig
    )  # empty name: from the reward model where it can, else the policy
    critic_head: str = "linear"  # linear | mlp
    critic_learning_rate: float = 0.0  # 0: the policy's
    critic_warmup: int = 0  # steps in which only the critic learns
    reference: str = ""  # model folder; empty: the policy as it starts
    allow_truncated_sampling: bool = False  # accept top-p/top-k, whose log-probs the learner cannot reproduce
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class BestOfNConfig:
    output: str = ""
    seed: int = 0
    resume: str = ""  # "auto": continue after the prompts answered already; "force": even with other settings or data
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    reward: list[str] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(n=4))
    split: str = "train"  # train | test: whose prompts are answered


@dataclass
class EvaluateConfig:
    policies: list[str] = field(default_factory=list)  # name=PATH; name=best_of_n:N:PATH samples N and keeps the best
    output: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    reward: list[str] = field(default_factory=list)  # the proxy: what was trained on
    judge: list[str] = field(default_factory=list)  # a reward never trained on; empty: gold where there is one
    baseline: str = ""  # policy the others are compared with; empty: "sft" if named, else the first
    reference: str = ""  # policy KL is measured from; empty: the baseline
    runs: list[str] = field(default_factory=list)  # name=RUN_FOLDER whose curves are drawn
    max_prompts: int = 400
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    side_by_side: int = 8  # prompts shown with every policy's answer, drawn by seed
    bootstrap: int = 2_000  # resamples of prompts behind the interval
    perplexity_text: str = ""  # text file; empty: the held-out responses
    model: ModelConfig = field(default_factory=ModelConfig)  # device and precision of the policies


@dataclass
class ScoreConfig:
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)  # the reward model
    output: str = ""  # JSONL file; empty: the terminal


@dataclass
class PrepareConfig:
    data: DataConfig = field(default_factory=DataConfig)
    output: str = ""
    max_samples: int = 0  # rows kept; 0 is all
    seed: int = 0
    compare_with: str = ""  # a test set whose prompts are looked for in the data
    model: ModelConfig = field(default_factory=ModelConfig)  # a name makes lengths tokens instead of words


@dataclass
class GenerateConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: str = ""  # one prompt typed on the command line, instead of data
    output: str = ""  # JSONL file; empty: the terminal
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass
class ChatConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    system: str = ""
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.7))


@dataclass
class MergeConfig:
    model: ModelConfig = field(default_factory=ModelConfig)  # name: the base; adapter: what is merged into it
    output: str = ""


@dataclass
class DiagnoseConfig:
    target: str = ""  # run folder, data file or folder, model folder; empty: this machine
    json: bool = False  # findings as JSON on stdout, for scripts
