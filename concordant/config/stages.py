"""One dataclass a verb. Defaults are those of the paper or of common practice; comments give units and reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.data import DataConfig
from concordant.config.doctor import DoctorConfig
from concordant.config.model import ModelConfig
from concordant.config.names import (
    AdvantageName,
    AggregationName,
    CriticHead,
    KLControllerName,
    KLEstimator,
    KLPlace,
    PreferenceLossName,
    Responses,
    Resume,
    RewardNormalize,
    Split,
)
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig


@dataclass(kw_only=True)
class RunConfig:
    """What every verb that trains has."""

    output: str = ""  # run folder
    seed: int = 0  # of every random draw
    resume: Resume = ""  # "auto": continue from the newest valid checkpoint; "force": even with other settings or data
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)


@dataclass(kw_only=True)
class SFTConfig(RunConfig):
    responses: Responses = "both"  # which answers of a pair are imitated
    packing: bool = True  # several dialogues share a row where rows are padded; False: one a row


@dataclass(kw_only=True)
class RewardConfig(RunConfig):
    margin: float = 0.0  # reward units the chosen must lead by; a pair's own margin is added
    temperature: float = 1.0  # scores are divided by it inside the loss
    label_smoothing: float = 0.0  # share of labels believed to be flipped
    centering: float = 0.0  # weight of (chosen + rejected)², which keeps scores around 0
    lm_coefficient: float = 0.0  # weight of the chosen answer's language-model loss beside Bradley–Terry's
    validation_fraction: float = 0.05  # slice of train that picks the best checkpoint; held-out pairs only report


@dataclass(kw_only=True)
class DPOConfig(RunConfig):
    loss: PreferenceLossName = "sigmoid"  # of a pair, see docs/algorithms.md
    beta: float = 0.1  # reward per nat of log-ratio
    label_smoothing: float = 0.0  # share of labels believed to be flipped: sigmoid is then cDPO, IPO aims at less
    reference: str = ""  # model folder; empty: the policy as it starts


@dataclass(kw_only=True)
class KLConfig:
    place: KLPlace = "reward"  # reward (a penalty on every token, k1) | loss (k2, k3 or exact)
    estimator: KLEstimator = "k1"  # k1 in the loss has zero expected gradient and is refused
    coefficient: float = 0.05  # reward units per nat
    controller: KLControllerName = "fixed"  # adaptive moves the coefficient until KL is at its target
    target: float = 6.0  # nats a response, the adaptive controller's aim
    horizon: int = 10_000  # responses over which the adaptive controller moves


@dataclass(kw_only=True)
class PPOConfig(RunConfig):
    reward: list[str] = field(
        default_factory=list
    )  # PATH | module:function | rule:NAME, each with an optional "=weight"
    reward_normalize: RewardNormalize = "start"  # none | start (once, from the first policy's samples) | running
    reward_clip: float = 0.0  # absolute value after normalisation; 0 is off
    missing_eos_penalty: float = 0.0  # subtracted from the reward of a response that never ended
    advantage: AdvantageName = "gae"  # gae learns a critic; rloo and grpo compare the samples of a prompt
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # GAE's λ
    whiten: bool = True  # advantages to mean 0, deviation 1, over the whole step's response tokens
    kl: KLConfig = field(default_factory=KLConfig)
    clip: float = 0.2  # probability ratio's distance from 1
    value_clip: float = 0.2  # reward units; 0 is off
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0  # reward units per nat; positive raises entropy
    aggregation: AggregationName = "token-mean"  # of the policy's loss over tokens and responses
    inner_epochs: int = 2  # passes over a step's rollouts
    minibatches: int = 2  # optimizer steps a pass
    stop_kl: float = 0.0  # nats a token, approximate KL from the sampling policy that ends the inner epochs; 0 is off
    critic: ModelConfig = field(
        default_factory=ModelConfig
    )  # empty name: from the reward model where it can, else the policy
    critic_head: CriticHead = "linear"  # mlp has a hidden layer
    critic_learning_rate: float = 0.0  # 0: the policy's
    critic_warmup: int = 0  # steps in which only the critic learns
    reference: str = ""  # model folder; empty: the policy as it starts
    allow_truncated_sampling: bool = False  # accept top-p/top-k, whose log-probs the learner cannot reproduce
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(kw_only=True)
class BestOfNConfig:
    output: str = ""
    seed: int = 0
    resume: Resume = ""  # "auto": continue after the prompts answered already; "force": even if settings or data differ
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    reward: list[str] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(n=4))
    split: Split = "train"  # whose prompts are answered


@dataclass(kw_only=True)
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


@dataclass(kw_only=True)
class PrepareConfig:
    data: DataConfig = field(default_factory=DataConfig)
    output: str = ""
    max_samples: int = 0  # rows kept; 0 is all
    seed: int = 0
    compare_with: str = ""  # a test set whose prompts are looked for in the data
    model: ModelConfig = field(default_factory=ModelConfig)  # a name makes lengths tokens instead of words


@dataclass(kw_only=True)
class GenerateConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: str = ""  # one prompt typed on the command line, instead of data
    output: str = ""  # JSONL file; empty: the terminal
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(kw_only=True)
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
    model: ModelConfig = field(default_factory=ModelConfig)  # name: whose tokenizer looks at data
