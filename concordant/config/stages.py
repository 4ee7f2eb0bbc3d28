"""One dataclass for each verb. Defaults follow the papers or common practice. Comments give units and reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.audit import AuditConfig as AuditConfig
from concordant.config.cluster import ClusterConfig
from concordant.config.collect import CollectConfig as CollectConfig
from concordant.config.data import DataConfig
from concordant.config.doctor import DoctorConfig
from concordant.config.environment import EnvironmentConfig
from concordant.config.judging import ConstitutionConfig as ConstitutionConfig
from concordant.config.judging import JudgeConfig as JudgeConfig
from concordant.config.made import Made
from concordant.config.model import ModelConfig
from concordant.config.names import (
    AdvantageName,
    AggregationName,
    BackboneSharing,
    CriticHead,
    DivergenceName,
    FDivergenceName,
    GivenAnswers,
    KLControllerName,
    KLEstimator,
    KLPlace,
    PairStrength,
    PolicyLossName,
    PreferenceLossName,
    Responses,
    Resume,
    RewardNormalize,
    RewardOnError,
    Split,
    Whiten,
)
from concordant.config.plan import PlanConfig as PlanConfig
from concordant.config.retain import RetainConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.scoring import ConstraintConfig, ScoringConfig
from concordant.config.serving import CourseConfig as CourseConfig
from concordant.config.serving import ServeConfig as ServeConfig
from concordant.config.studio import StudioConfig as StudioConfig
from concordant.config.train import TrainConfig
from concordant.config.votes import VotesConfig as VotesConfig


@dataclass(kw_only=True)
class RunConfig(Made):
    """The settings that all verbs that train share."""

    output: str = ""  # run folder
    seed: int = 0  # seed of all random numbers
    resume: Resume = ""  # "auto": continue from the newest valid checkpoint; "force": even with other settings or data
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(kw_only=True)
class SFTConfig(RunConfig):
    responses: Responses = "both"  # which answers of a pair are imitated
    retain: RetainConfig = field(default_factory=RetainConfig)
    packing: bool = True  # where rows are padded, several dialogues share a row; False: each has its own row


@dataclass(kw_only=True)
class RewardConfig(RunConfig):
    heads: int = 1  # an ensemble on one backbone: each head has a start and bootstrap weights of the pairs of its own
    margin: float = 0.0  # reward units by which the chosen answer must lead; a pair's own margin is added
    temperature: float = 1.0  # scores are divided by this number inside the loss
    label_smoothing: float = 0.0  # share of labels that are assumed to be wrong
    centering: float = 0.0  # weight of (chosen + rejected)², which keeps scores around 0
    lm_coefficient: float = 0.0  # weight of the language-model loss of chosen answers, added to Bradley–Terry's loss
    validation_fraction: float = 0.05  # share of the training pairs that chooses the best weights


@dataclass(kw_only=True)
class DPOConfig(RunConfig):
    loss: PreferenceLossName = "sigmoid"  # of pairs, or of rated answers (kto, bco); docs/dpo.md says which when
    beta: float = 0.1  # reward per nat of log-ratio
    label_smoothing: float = 0.0  # share of labels assumed to be wrong: sigmoid becomes cDPO, IPO gets a lower target
    margin: float = 0.0  # reward units by which the chosen answer must lead; SimPO's γ
    strength: PairStrength = "none"  # what votes, probability and margin of a pair give: none, soft label or lead
    plus: list[str] = field(default_factory=list)  # NAME=WEIGHT: further losses of pairs, added to loss
    lm_coefficient: float = 0.0  # weight of the chosen answers' cross-entropy a token, added to the loss; RPO's α
    f_divergence: FDivergenceName = "reverse_kl"  # what holds the policy near the reference
    f_alpha: float = 0.5  # α of alpha_divergence; 1: the reverse KL, 0: the forward KL
    desirable_weight: float = 1.0  # of a good answer, where a loss takes rated answers; KTO's λ_D
    undesirable_weight: float = 1.0  # of a bad answer; KTO's λ_U
    reference: str = ""  # model folder; empty: the policy before its first step
    retain: RetainConfig = field(default_factory=RetainConfig)
    evaluation_slots: int = 64  # answers to held-out prompts that an evaluation samples at once


@dataclass(kw_only=True)
class DistillConfig(RunConfig):
    teacher: str = ""  # policy folder or hub id with the student's tokenizer; a built-in student takes the teacher's
    on_policy: float = 0.5  # share of the answers that the student samples, GKD's lambda; the others are given
    answers: GivenAnswers = "teacher"  # who gives the others: the teacher, sampled anew in each step, or the data
    divergence: DivergenceName = "jsd"  # between the two distributions of the next token, see docs/distill.md
    beta: float = 0.5  # of jsd: the teacher's share of the mixture; near 0 it acts as forward_kl, near 1 as reverse_kl
    temperature: float = 1.0  # at which the distributions are compared; answers have sampling.temperature
    retain: RetainConfig = field(default_factory=RetainConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(kw_only=True)
class KLConfig(Made):
    place: KLPlace = "auto"  # reward: a penalty on every token; loss: a term of the loss; auto: loss for grpo only
    estimator: KLEstimator = "auto"  # auto: k1 in the reward, k2 in the loss; k1 in the loss is refused
    coefficient: float = 0.05  # reward units per nat
    controller: KLControllerName = "fixed"  # adaptive changes the coefficient until the KL reaches its target
    target: float = 6.0  # nats a response; the KL at which the adaptive controller aims
    horizon: int = 10_000  # responses; with a larger number the adaptive controller changes the coefficient more slowly


@dataclass(kw_only=True)
class PPOConfig(RunConfig):
    reward: list[str] = field(
        default_factory=list
    )  # PATH | module:function | rule:NAME, or NAME=SOURCE=WEIGHT; function(prompt, response, …) gives a number
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    reward_on_error: RewardOnError = "fail"  # of a reward function: fail | skip (no score) | retry (3 tries, then fail)
    reward_timeout: float = 3600.0  # seconds a call of a reward function may take; 0: no limit
    reward_normalize: RewardNormalize = "start"  # none | start (once, from the first policy's samples) | running
    reward_clip: float = 0.0  # absolute value after normalisation; 0 is off
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    stop_disagreement: float = 0.0  # the run ends where an ensemble disagrees so many times as at its start; 0 is off
    missing_eos_penalty: float = 0.0  # subtracted from the reward of a response without end token or stop string
    missing_eos_replaces: bool = False  # such a response has -missing_eos_penalty in place of its reward
    overlong_penalty: float = 0.0  # reward units; subtracted at sampling.max_new_tokens, and less before; 0 is off
    overlong_buffer: int = 0  # last tokens before sampling.max_new_tokens, over which overlong_penalty rises from 0
    mask_truncated: bool = False  # a response without end token or stop string is not learnt from
    dynamic_sampling: int = 0  # how often prompts whose answers all have the same reward are replaced; 0 is off
    advantage: AdvantageName = "gae"  # gae trains a critic; most others compare the samples of a prompt
    gamma: float = 1.0  # discount for each token
    lam: float = 0.95  # GAE's λ
    whiten: Whiten = "auto"  # step: advantages get mean 0 and deviation 1 over the step; auto: step for gae, else none
    kl: KLConfig = field(default_factory=KLConfig)
    policy_loss: PolicyLossName = "ppo"  # the loss of a token, see docs/algorithms.md
    clip: float = 0.2  # the policy loss limits the probability ratio to 1 - clip … 1 + clip
    clip_high: float = 0.0  # … 1 + clip_high, where the upper limit is another one (clip-higher); 0: the same
    clip_dual: float = 3.0  # of dual-clip: the greatest ratio of a token whose advantage is negative
    value_clip: float = 0.2  # reward units; the value loss limits the change of a value; 0 is off
    value_coefficient: float = 0.5  # weight of the value loss
    entropy_coefficient: float = 0.0  # reward units per nat; positive raises entropy
    aggregation: AggregationName = "token-mean"  # how the policy's loss is averaged over tokens and responses
    inner_epochs: int = 2  # passes over a step's rollouts
    minibatches: int = 2  # optimizer steps in each pass
    stop_kl: float = 0.0  # nats a token; the inner epochs end when the KL from the sampling policy exceeds it; 0 is off
    critic: ModelConfig = field(
        default_factory=ModelConfig
    )  # empty name: the critic starts from the reward model if possible, else from the policy
    critic_head: CriticHead = "linear"  # mlp has a hidden layer
    critic_learning_rate: float = 0.0  # 0: the policy's learning rate
    critic_warmup: int = 0  # first steps, in which only the critic is trained
    share_backbone: BackboneSharing = "none"  # auto: critic, rewards as adapters on the policy's base; all: or refuse
    reference: str = ""  # model folder; empty: the policy before its first step
    allow_truncated_sampling: bool = False  # accept top_p, top_k, min_p, … and correct for them, see docs/ppo.md
    retain: RetainConfig = field(default_factory=RetainConfig)
    replay: int = 0  # last steps, of which one is learnt from again beside every step; 0 is off
    importance_cap: float = 0.0  # tokens count min(π/μ, cap), for a sampler's μ unlike the learner's π; 0 is off
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(kw_only=True)
class BestOfNConfig(Made):
    output: str = ""  # run folder
    seed: int = 0  # seed of all random numbers
    resume: Resume = ""  # "auto": continue after the answered prompts; "force": also with changed settings or data
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    reward: list[str] = field(
        default_factory=list
    )  # PATH | module:function | rule:NAME, or NAME=SOURCE=WEIGHT; function(prompt, response, …) gives a number
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    reward_on_error: RewardOnError = "fail"  # of a reward function: fail | skip (no score) | retry (3 tries, then fail)
    reward_timeout: float = 3600.0  # seconds a call of a reward function may take; 0: no limit
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(n=4))
    split: Split = "train"  # the part of the data whose prompts are answered


@dataclass(kw_only=True)
class EvaluateConfig(Made):
    policies: list[str] = field(
        default_factory=list
    )  # name=PATH, name=PATH,PATH for several runs (seeds), or name=best_of_n:N:PATH for the best of N samples
    output: str = ""  # folder of the report
    seed: int = 0  # seed of all random numbers
    data: DataConfig = field(default_factory=DataConfig)
    reward: list[str] = field(default_factory=list)  # the proxy, such as the reward that ppo learnt from; as in ppo
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    judge: list[str] = field(default_factory=list)  # a reward that was never trained on; empty: gold, if there is one
    reward_on_error: RewardOnError = "fail"  # of a reward function: fail | skip (no score) | retry (3 tries, then fail)
    reward_timeout: float = 3600.0  # seconds a call of a reward function may take; 0: no limit
    baseline: str = ""  # name of the policy to compare the others with; empty: "sft" if named, else the first
    reference: str = ""  # name of the policy from which KL is measured; empty: the baseline
    runs: list[str] = field(default_factory=list)  # name=RUN_FOLDER; the report draws the curves of these runs
    max_prompts: int = 400  # the most held-out prompts that the policies answer
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    side_by_side: int = 8  # number of prompts, chosen by seed, that are shown with every policy's answer
    bootstrap: int = 2_000  # resamples of prompts for the confidence intervals
    perplexity_text: str = ""  # text file for the perplexity; empty: the held-out responses
    model: ModelConfig = field(default_factory=ModelConfig)  # device and precision of the policies


@dataclass
class ScoreConfig(Made):
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)  # the reward model
    output: str = ""  # JSONL file; empty: the terminal


@dataclass(kw_only=True)
class PrepareConfig(Made):
    data: DataConfig = field(default_factory=DataConfig)
    output: str = ""  # folder of the sets and of the data card
    max_samples: int = 0  # number of rows to keep; 0 keeps all rows
    seed: int = 0  # seed of the split and of the choice of rows
    compare_with: str = ""  # a test set; the card counts its prompts that are also in the data
    model: ModelConfig = field(default_factory=ModelConfig)  # with a name, lengths are in tokens and not in words


@dataclass(kw_only=True)
class GenerateConfig(Made):
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: str = ""  # one prompt on the command line, instead of data
    output: str = ""  # JSONL file; empty: the terminal
    seed: int = 0  # seed of the sampled answers
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(kw_only=True)
class ChatConfig(Made):
    model: ModelConfig = field(default_factory=ModelConfig)
    system: str = ""  # system message before the dialogue
    seed: int = 0  # seed of the sampled answers
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.7))


@dataclass
class MergeConfig(Made):
    model: ModelConfig = field(default_factory=ModelConfig)  # name: the base; adapter: what to merge into the base
    output: str = ""  # model folder


@dataclass(kw_only=True)
class AverageConfig(Made):
    models: list[str] = field(default_factory=list)  # reward models that were trained from one start
    output: str = ""  # model folder


@dataclass
class DiagnoseConfig(Made):
    target: str = ""  # run, pipeline, data, model, or another trainer's log (file or folder); empty: this machine
    explain: str = ""  # print the page of this rule and look at nothing; without a value, or with "all": list the rules
    json: bool = False  # findings as JSON on stdout, for scripts
    model: ModelConfig = field(default_factory=ModelConfig)  # name: whose tokenizer looks at data


@dataclass(kw_only=True)
class PushConfig(Made):
    folder: str = ""  # run folder, policy, reward model or adapter
    id: str = ""  # OWNER/NAME on the hub
    base: str = ""  # of an adapter over a local model: the hub id of this model, sent in place of its folder
    private: bool = False  # a private repository; one that exists and is public is refused
    dry_run: bool = False  # list what would be sent, and send nothing
