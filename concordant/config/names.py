"""The allowed values of config keys that take one of a few names, and facts about these names.

Each name is listed only here. Help pages, docs/config.md, error messages and editors read the names from their type.
The tables that map a name to its mathematics are in core/ (losses, advantages, KL, aggregations), training/schedule.py,
models/scalar_head.py and data/formats.py; tests/test_names.py checks that names and tables agree.
"""

from __future__ import annotations

from typing import Literal, get_args

# data
DataFormat = Literal[
    "auto",
    "sharegpt_preference",
    "alpaca_preference",
    "preference",
    "hh",
    "implicit",
    "implicit_text",
    "swift_preference",
    "openai_preference",
    "pku_saferlhf",
    "helpsteer2_preference",
    "helpsteer3",
    "shp",
    "webgpt",
    "summarize_from_feedback",
    "arena_55k",
    "arena_33k",
    "argilla",
    "two_answers",
    "nectar",
    "ultrafeedback",
    "distilabel_ratings",
    "oasst_tree",
    "oasst",
    "scored",
    "stepwise",
    "rated_messages",
    "rated_alpaca",
    "unpaired",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_response",
    "verl",
    "text",
    "prompt",
]
RankedPairs = Literal["best_worst", "all"]
TooLong = Literal["drop", "cut_prompt_start", "cut_response_end"]
Responses = Literal["both", "chosen"]
Split = Literal["train", "test"]
Unlabelled = Literal["wait", "skip"]

# votes
VotesAction = Literal["", "import", "rater", "retire", "rank", "status", "export"]
VotesForm = Literal["pairs", "votes"]
PairOrder = Literal["given", "random", "close", "disputed"]
NEEDS_SCORES = {"close", "disputed"}  # orders of pairs that compare scores

# model
Precision = Literal["auto", "fp32", "bf16"]
Quantize = Literal["none", "nf4"]
LoraStart = Literal["kaiming", "pissa"]
Kernels = Literal["fast", "plain", "flex"]

# sampling
SamplingEngine = Literal["own", "vllm"]

# training
Method = Literal["sft", "reward", "dpo", "ppo", "distill"]  # the verbs that train
METHODS: tuple[Method, ...] = get_args(Method)
OptimizerName = Literal["adamw", "muon", "adafactor"]
Schedule = Literal["linear", "cosine", "constant"]
Export = Literal["auto", "merged", "adapter", "both"]
TrackerName = Literal["wandb", "trackio", "mlflow"]
Resume = Literal["", "auto", "force"]
StopOn = Literal["", "warning", "error"]

# planning
PlannedMethod = Literal["sft", "reward", "dpo", "ppo", "grpo", "distill"]
ModelKind = Literal["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"]
HardwareName = Literal["cpu", "rtx-4090", "a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb"]
Sharding = Literal["auto", "on", "off"]

# the course
CourseAction = Literal["list", "start", "check", "hint", "solution", "answer"]

# AI feedback
JudgeAsk = Literal["auto", "preference", "scores"]

# distillation
DivergenceName = Literal["forward_kl", "reverse_kl", "jsd"]
GivenAnswers = Literal["teacher", "data"]

# preference learning
PreferenceLossName = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "robust",
    "hinge",
    "apo_zero",
    "apo_down",
    "bco_pair",
    "simpo",
    "orpo",
    "cpo",
    "slic",
    "kto",
    "bco",
    "apo_zero_unpaired",
]
PairStrength = Literal["none", "label", "margin"]
FDivergenceName = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

# Facts about losses that the checks of configs need; tests/test_names.py compares them with the table of losses.
REFERENCE_FREE: frozenset[PreferenceLossName] = frozenset({"simpo", "orpo", "cpo", "slic"})
RATES_ANSWERS: frozenset[PreferenceLossName] = frozenset({"kto", "bco", "apo_zero_unpaired"})  # not pairs
OF_SIDES: frozenset[PreferenceLossName] = frozenset({"apo_zero", "apo_down", "bco_pair", "orpo"})  # not of a difference
IMITATES: frozenset[PreferenceLossName] = frozenset({"orpo", "cpo"})  # with the chosen answers' cross-entropy

# PPO
RewardNormalize = Literal["none", "start", "running"]
RewardOnError = Literal["fail", "skip", "retry"]
EnvironmentOnError = Literal["fail", "skip"]
EnsembleName = Literal["none", "mean", "minimum", "mean-std"]
AdvantageName = Literal["gae", "rloo", "grpo", "dr_grpo", "reinforce++", "reinforce++-baseline", "remax"]
PolicyLossName = Literal["ppo", "dual-clip", "gspo", "cispo"]
AggregationName = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
CriticHead = Literal["linear", "mlp"]
BackboneSharing = Literal["none", "auto", "all"]
KLPlace = Literal["auto", "reward", "loss"]
KLEstimator = Literal["auto", "k1", "k2", "k3", "k3+", "exact"]
Whiten = Literal["auto", "step", "none"]
KLControllerName = Literal["fixed", "adaptive"]

NEEDS_CRITIC: frozenset[AdvantageName] = frozenset({"gae"})
# Compare the samples of a prompt, and so need two or more.
COMPARES_SAMPLES: frozenset[AdvantageName] = frozenset({"rloo", "grpo", "dr_grpo", "reinforce++-baseline"})
NEEDS_GREEDY: frozenset[AdvantageName] = frozenset({"remax"})  # compares samples with the prompt's most likely answer
DISCOUNTS: frozenset[AdvantageName] = frozenset({"gae", "reinforce++"})  # gamma acts on the reward to come
WHITENED: frozenset[AdvantageName] = frozenset({"gae", "reinforce++", "reinforce++-baseline"})  # without a scale of own
DIVIDES_SCORES: frozenset[AdvantageName] = frozenset({"grpo", "reinforce++-baseline"})  # KL in the loss, so not divided
REWARD_ESTIMATORS: frozenset[KLEstimator] = frozenset({"k1"})  # a penalty on every token
LOSS_ESTIMATORS: frozenset[KLEstimator] = frozenset({"k2", "k3", "k3+", "exact"})  # k1's expected gradient is 0


def place_of_kl(advantage: AdvantageName, place: KLPlace) -> KLPlace:
    """Where the KL penalty stands. A deviation that divides scores must not divide the penalty too."""
    return ("loss" if advantage in DIVIDES_SCORES else "reward") if place == "auto" else place


def estimator_of_kl(place: KLPlace, estimator: KLEstimator) -> KLEstimator:
    """``place`` is the resolved one. In the loss k2 has the gradient of the KL; in the reward k1 is unbiased."""
    return ("k2" if place == "loss" else "k1") if estimator == "auto" else estimator


def whitening_of(advantage: AdvantageName, whiten: Whiten) -> Whiten:
    """GAE and REINFORCE++ are whitened; the others have a scale of their own, and dividing it would divide the KL."""
    return ("step" if advantage in WHITENED else "none") if whiten == "auto" else whiten
