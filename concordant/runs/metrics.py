"""The name, the meaning and the unit of every metric in metrics.jsonl, in TensorBoard and in the doctor's rules.

docs/metrics.md shows this table; a test compares the two. Another test checks that no run logs a metric that is missing
here. A name under ``eval/`` is the same metric on held-out data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from concordant.config.names import RATES_ANSWERS, PreferenceLossName
from concordant.core.digits import share

DOCTOR = "doctor/"  # prefix of evidence: metrics that only the doctor's rules read
EVAL = "eval/"
AXIS = "axis/"  # of the axes of a reward that have a name
DISAGREEMENT = "reward/disagreement"
COST = "constraint/cost"


@dataclass(frozen=True, slots=True)
class Metric:
    meaning: str
    unit: str
    stages: str = "all"  # the stages that log the metric; "all" means sft, reward, dpo, ppo and distill


_OF_PAIRS = (f"{EVAL}accuracy", f"{EVAL}rewards/accuracies")  # shares of ``eval/samples``
_POLICIES, _ANSWERING = "sft, dpo, ppo, distill", "dpo, ppo, distill"
_SHARE, _NATS, _REWARD = "share", "nats", "reward units"
_OF_REPLAY = (  # the policy's metrics that are measured over replayed answers too
    "policy/loss",
    "policy/kl_loss",
    "policy/entropy_bonus",
    "policy/approx_kl",
    "policy/clip_fraction",
    "ratio/mean",
    "ratio/max",
    "objective/entropy",
    "objective/entropy_per_token",
)

_UNITS: dict[PreferenceLossName, str] = {
    "ipo": "nats squared a pair",
    "hinge": "reward units a pair",
    "slic": "reward units a pair",
    "apo_zero": "0 to 2 a pair",
    "apo_down": "0 to 2 a pair",
    "kto": "0 to the weight, an answer",
    "apo_zero_unpaired": "0 to the weight, an answer",
    "bco": "nats an answer",
}

METRICS: dict[str, Metric] = {
    "step": Metric("steps taken, from 1", "steps"),
    "tokens": Metric("tokens of all steps since the run began, prompts included", "tokens"),
    "samples": Metric(
        "examples or answers of all steps since the run began; under eval/ the number of held-out ones", "count"
    ),
    "epoch": Metric("passes over the data so far", "epochs"),
    "learning_rate": Metric("learning rate of this step, after warmup and schedule", "rate"),
    "loss": Metric("the loss of this step: the weighted sum of its terms", "depends on the stage"),
    "grad_norm": Metric("norm of the gradient before clipping", "norm"),
    "skipped": Metric("updates left out because the loss or the gradient was not finite", "count"),
    "tokens_per_second": Metric("tokens of this step over its time", "tokens a second"),
    "seconds/step": Metric("time of the step, without evaluation and saving", "seconds"),
    "seconds/evaluate": Metric("time of the evaluation after the step", "seconds"),
    "seconds/rollout": Metric("time to sample answers", "seconds", "ppo, distill"),
    "seconds/experience": Metric("time for rewards, log-probs and values", "seconds", "ppo"),
    "seconds/learn": Metric("time for forward and backward passes", "seconds", "ppo, distill"),
    "token_accuracy": Metric("response tokens that are the model's most likely token", _SHARE, "sft"),
    "perplexity": Metric("exp of the loss", "per token", "sft"),
    "accuracy": Metric("pairs whose chosen answer scores higher", _SHARE, "reward"),
    "margin": Metric("chosen score less rejected score", _REWARD, "reward"),
    "reward/chosen": Metric("mean score of chosen answers", _REWARD, "reward"),
    "reward/rejected": Metric("mean score of rejected answers", _REWARD, "reward"),
    "reward/abstained": Metric("scores that the reward functions did not give", "count", "ppo"),
    "reward/errors": Metric("errors of reward functions", "count", "ppo"),
    "reward/disagreement": Metric(
        "standard deviation of an answer's score over the members of an ensemble, mean over answers",
        _REWARD,
        "reward, ppo",
    ),
    "axis/NAME": Metric("mean score of the axis that `--reward NAME=SOURCE` names", _REWARD, "ppo"),
    "constraint/cost": Metric("mean cost of the answers, with --constraint.cost", "cost units", "ppo"),
    "constraint/multiplier": Metric("the multiplier λ of the step", "normalised reward units a cost unit", "ppo"),
    "rewards/chosen": Metric("implicit reward of chosen answers, beta times the log-ratio", _NATS, "dpo"),
    "rewards/rejected": Metric("implicit reward of rejected answers", _NATS, "dpo"),
    "rewards/accuracies": Metric("pairs whose chosen answer has the higher implicit reward", _SHARE, "dpo"),
    "rewards/margins": Metric("rewards/chosen less rewards/rejected", _NATS, "dpo"),
    "logps/chosen": Metric("log-prob of a chosen answer under the policy", "nats a response", "dpo"),
    "logps/rejected": Metric("log-prob of a rejected answer under the policy", "nats a response", "dpo"),
    "nll": Metric("negative log-prob of response tokens", "nats a token", "sft"),
    "bradley_terry": Metric("-log sigmoid of the score difference", "nats a pair", "reward"),
    "centering": Metric("squared sum of both scores of a pair", "reward units squared", "reward"),
    "lm": Metric("negative log-prob of chosen answers' tokens", "nats a token", "reward, dpo"),
    **{
        name: Metric(
            f"DPO's loss, with --loss {name}" + ("" if name in RATES_ANSWERS else f" or --plus {name}=WEIGHT"),
            _UNITS.get(name, "nats a pair"),
            "dpo",
        )
        for name in get_args(PreferenceLossName)
    },
    "rewards/anchor": Metric(
        "what a rated answer's log-ratio is compared with: KTO's estimate of the KL, or BCO's shift over beta",
        _NATS,
        "dpo",
    ),
    "count/chosen": Metric("answers of the step that are rated good, with --loss kto, bco or the like", "count", "dpo"),
    "count/rejected": Metric("answers of the step that are rated bad", "count", "dpo"),
    "retain/nll": Metric(
        "negative log-prob of the text of --retain.text; under eval/ of windows that are not learnt",
        "nats a token",
        _POLICIES,
    ),
    "retain/start": Metric("retain/nll before the first step", "nats a token", _POLICIES),
    "retain/token_accuracy": Metric("tokens of this text that were the most likely ones", _SHARE, _POLICIES),
    "retain/penalty": Metric("penalty on changed weights, with --retain.ewc", "nats a token", _POLICIES),
    "divergence": Metric(
        "divergence of the student's distribution of the next token from the teacher's, with --divergence",
        "nats a token",
        "distill",
    ),
    "divergence/own": Metric("the same over answers that the student sampled", "nats a token", "distill"),
    "divergence/given": Metric("the same over answers of the teacher or of the data", "nats a token", "distill"),
    "own_answers": Metric("answers of the step that the student sampled", _SHARE, "distill"),
    "objective/kl": Metric("sampled KL of the policy from the reference", "nats a response", "ppo"),
    "objective/entropy": Metric("entropy of the policy's choices", "nats a response", "ppo"),
    "objective/entropy_per_token": Metric("entropy of the policy's choices", "nats a token", "ppo"),
    "objective/score": Metric("mean raw reward of the step's answers", _REWARD, "ppo"),
    "objective/score_std": Metric("standard deviation of that reward over answers", _REWARD, "ppo"),
    "objective/tied_groups": Metric(
        "share of the answers whose prompt's answers all have the same score, so that it teaches nothing",
        "share",
        "ppo",
    ),
    "objective/greedy_score": Metric(
        "mean raw reward of the most likely answers, with --advantage remax", _REWARD, "ppo"
    ),
    "objective/rlhf_reward": Metric("shaped reward less the KL penalty", _REWARD, "ppo"),
    "objective/gold": Metric(
        "true quality of the step's answers, where it is known; never trained on", "0 to 1", "ppo"
    ),
    "policy/loss": Metric("the policy's loss, by --policy_loss", _REWARD, "ppo"),
    "policy/kl_loss": Metric("KL term of the loss, with --kl.place loss", "nats", "ppo"),
    "policy/entropy_bonus": Metric("entropy term of the loss, with --entropy_coefficient", "nats", "ppo"),
    "policy/approx_kl": Metric("KL from the policy that sampled", "nats a token", "ppo"),
    "policy/clip_fraction": Metric("tokens on which a bound of the policy loss acts", _SHARE, "ppo"),
    "policy/stopped_early": Metric("1 where --stop_kl ended the step's passes", "0 or 1", "ppo"),
    "policy_version": Metric("optimizer steps taken by the policy that sampled", "steps", "ppo"),
    "sampling/importance_ratio/mean": Metric(
        "mean weight of a token, the learner's over the sampler's probability, at most --importance_cap", "ratio", "ppo"
    ),
    "sampling/importance_ratio/capped": Metric("tokens whose weight is the cap", _SHARE, "ppo"),
    "sampling/lag": Metric("optimizer steps since the policy that sampled, with --cluster.max_lag", "steps", "ppo"),
    "ratio/mean": Metric("mean of new over old probability", "ratio", "ppo"),
    "ratio/max": Metric("greatest of these ratios", "ratio", "ppo"),
    "value/loss": Metric("squared error of the critic, clipped", "reward units squared", "ppo"),
    "value/clip_fraction": Metric("value estimates that are clipped", _SHARE, "ppo"),
    "value/explained_variance": Metric("variance of the returns that the critic explains", _SHARE, "ppo"),
    "value/grad_norm": Metric("norm of the critic's gradient before clipping", "norm", "ppo"),
    "response/length": Metric("mean length of the step's answers, end token included", "tokens", "ppo, distill"),
    "response/left_out": Metric(
        "answers that are not learnt from: without an end, with --mask_truncated, or without a score", _SHARE, "ppo"
    ),
    "dynamic_sampling/tries": Metric("how often prompts were sampled in place of tied ones", "count", "ppo"),
    "dynamic_sampling/replaced": Metric("prompts with tied answers that others replaced", "count", "ppo"),
    "environment/turns": Metric("mean turns of the policy in an answer", "turns", "ppo"),
    "environment/out_of_turns": Metric("answers that --environment.turns ended", _SHARE, "ppo"),
    "environment/out_of_context": Metric("answers that ended because no further reply fits the model", _SHARE, "ppo"),
    "environment/cut": Metric("replies that were cut to --environment.reply_tokens", "count", "ppo"),
    "environment/errors": Metric("answers that are left out because the environment failed", "count", "ppo"),
    "response/eos_fraction": Metric("answers that end with an end token or a stop string", _SHARE, "ppo, distill"),
    "kl_coefficient": Metric("weight of the KL penalty", "reward units a nat", "ppo"),
    "micro_batch_tokens": Metric("tokens a micro-batch after train.halve_on_oom had to halve it", "tokens", "all"),
    "eval/kl": Metric(
        "sampled KL of held-out answers from the reference; of distill from the teacher", "nats a response", _ANSWERING
    ),
    "eval/reward": Metric("raw reward of held-out answers", _REWARD, "dpo, ppo"),
    "eval/gold": Metric("true quality of held-out answers, where it is known", "0 to 1", _ANSWERING),
    "eval/length": Metric("mean length of held-out answers, end token included", "tokens", _ANSWERING),
    "eval/eos_fraction": Metric("held-out answers that end with an end token or a stop string", _SHARE, _ANSWERING),
    "eval/repetition": Metric("sequences of four words that a held-out answer repeats", _SHARE, _ANSWERING),
    "eval/distinct": Metric("different answers among the held-out answers", _SHARE, _ANSWERING),
    "eval/past_limit": Metric("1 where --stop_disagreement was passed, which ends the run", "0 or 1", "ppo"),
    "eval/objective": Metric("held-out reward less the KL penalty; chooses PPO's best weights", _REWARD, "ppo"),
    "doctor/update/ratio": Metric(
        "size of the step's change over the size of the weights, from 512 elements of each tensor", "ratio", "all"
    ),
    "doctor/update/head": Metric("the same ratio for the head alone", "ratio", "reward"),
    "doctor/update/still": Metric("weight tensors that did not change", _SHARE, "all"),
    "doctor/value/update/ratio": Metric("the same as doctor/update/ratio for the critic", "ratio", "ppo"),
    "doctor/value/update/head": Metric("the same as doctor/update/head for the critic's head", "ratio", "ppo"),
    "doctor/value/update/still": Metric("the critic's weight tensors that did not change", _SHARE, "ppo"),
    "doctor/weights_sent": Metric(
        "weights that went to a generator on workers of its own, since the last step", "bytes", "ppo"
    ),
    "doctor/data/starts": Metric("answers whose first token is learnt", _SHARE, "sft, reward, dpo"),
    "doctor/data/end_learnt": Metric("answers whose last token is learnt", _SHARE, "sft, reward, dpo"),
    "doctor/data/ends": Metric("answers whose last token is an end token", _SHARE, "sft, reward, dpo"),
    "doctor/data/response_share": Metric("the answers' tokens that are learnt", _SHARE, "sft, reward, dpo"),
    "doctor/data/prompt_tokens": Metric("mean length of a prompt", "tokens", "sft, reward, dpo"),
    "doctor/data/learnt_tokens": Metric("mean number of learnt tokens of an answer", "tokens", "sft, reward, dpo"),
    "doctor/data/identical": Metric("pairs whose two answers are the same", _SHARE, "reward, dpo"),
    "doctor/data/chosen_longer": Metric(
        "pairs whose chosen answer is the longer one, ties half", _SHARE, "reward, dpo"
    ),
    "doctor/data/batch_id": Metric("a number that names the examples of the batch", "none", "all"),
    "doctor/data/first_id": Metric("a number that names the batch's first example", "none", "all"),
    "doctor/data/duplicates": Metric("examples that are in the batch twice", _SHARE, "all"),
    "doctor/rollout/logprob_gap": Metric(
        "mean absolute difference of the sampler's and the learner's log-prob", "nats a token", "ppo"
    ),
    "doctor/rollout/logprob_bias": Metric("mean of that difference with its sign", "nats a token", "ppo"),
    "doctor/ratio/start": Metric("mean absolute log-ratio before the first update of a step", "nats a token", "ppo"),
    "doctor/reference/logprob": Metric("mean log-prob of fixed tokens under the reference", "nats a token", "ppo"),
    "doctor/objective/kl_error": Metric("standard error of objective/kl", "nats a response", "ppo"),
    "doctor/response/after_end": Metric("response tokens after an end token", _SHARE, "ppo"),
    "doctor/response/repetition": Metric("sequences of four words that the answer repeats", _SHARE, "ppo"),
    "doctor/response/distinct": Metric("different answers among the answers of the step", _SHARE, "ppo"),
    "doctor/response/top_phrase": Metric("answers that contain the most common three words", _SHARE, "ppo"),
    "doctor/response/empty": Metric("answers without a word", _SHARE, "ppo"),
    "doctor/response/copies": Metric("the answer's sequences of three words that the prompt has too", _SHARE, "ppo"),
    "doctor/reward/group_std": Metric(
        "standard deviation of the raw reward among the answers to one prompt", _REWARD, "ppo"
    ),
    "doctor/reward/same_answer": Metric(
        "standard deviation of the raw reward among equal answers to one prompt", _REWARD, "ppo"
    ),
    "doctor/reward/length_correlation": Metric("correlation of the reward with the length", "-1 to 1", "ppo"),
    "doctor/reward/repetition_correlation": Metric("correlation of the reward with the repetition", "-1 to 1", "ppo"),
    "doctor/reward/gold_correlation": Metric(
        "correlation of the reward with the true quality, where it is known", "-1 to 1", "ppo"
    ),
    "doctor/reward/agreement": Metric("mean correlation between the parts of a sum of rewards", "-1 to 1", "ppo"),
    "doctor/reward/z": Metric(
        "the step's mean reward less that of the reward model's held-out answers", "their standard deviations", "ppo"
    ),
    "doctor/reward/spread": Metric("standard deviation of the step's rewards", "that of the held-out answers", "ppo"),
}
METRICS |= {
    f"replay/{name}": replace(METRICS[name], meaning=f"{METRICS[name].meaning}, over the answers of --replay")
    for name in _OF_REPLAY
}


def metric(name: str) -> Metric | None:
    """The metric called ``name``, also under ``eval/``; None for a name that no run logs."""
    plain = name.removeprefix(EVAL)
    return METRICS.get(name) or METRICS.get("axis/NAME" if plain.startswith(AXIS) else plain)


def told(name: str, row: Mapping[str, float]) -> str:
    """The value of a metric of ``row`` for people; a share of held-out pairs has the digits that so many support."""
    value, pairs = row[name], row.get(f"{EVAL}samples", 0)
    return share(value, int(pairs)) if pairs and name in _OF_PAIRS else f"{value:.4g}"


def older_name(name: str) -> bool:
    """Whether earlier versions logged a metric as ``name`` that now has the prefix ``doctor/``."""
    return name not in METRICS and DOCTOR + name in METRICS


def table() -> str:
    """The tables of docs/metrics.md as Markdown: first the metrics for people, then those for the doctor only."""
    return "\n".join([_table(is_doctors=False), _HEADING, _table(is_doctors=True)])


_HEADING = """## Evidence, which only the doctor reads

These metrics help the [doctor](doctor.md) to find the cause of a fault. They take no noticeable part of a step's time.
"""


def _table(is_doctors: bool) -> str:
    lines = ["| metric | what it is | unit | logged by |", "|---|---|---|---|"]
    for name, m in METRICS.items():
        if name.startswith(DOCTOR) == is_doctors:
            lines.append(f"| `{name}` | {m.meaning} | {m.unit} | {m.stages} |")
    return "\n".join(lines) + "\n"
