"""The metrics of other trainers in our names and units: one table. docs/foreign-logs.md shows it.

The meaning of every key was read in the trainer's source; docs/foreign-logs.md names the versions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from concordant.config.names import METHODS
from concordant.runs.foreign.log import EVAL, OTHER
from concordant.runs.logs import Row

ALL: tuple[str, ...] = METHODS
SFT, REWARD, DPO, PPO = ("sft",), ("reward",), ("dpo",), ("ppo",)


@dataclass(frozen=True, slots=True)
class Unit:
    """How a value becomes ours. ``per_response``: it is multiplied by the row's mean length of an answer."""

    words: str
    convert: Callable[[float], float] = float
    per_response: bool = False


SAME = Unit("")
COMPLEMENT = Unit("1 less the value", lambda x: 1.0 - x)
PER_RESPONSE = Unit("nats a token, times the mean length of an answer", per_response=True)
LOG_RATIO = Unit("nats a token; the mean log-ratio, which may be negative")
THOUSANDTHS = Unit("divided by 1,000", lambda x: x / 1000)


@dataclass(frozen=True, slots=True)
class Key:
    """One name of another trainer. Of several rows for one of our metrics, the first that a log has counts."""

    theirs: str
    ours: str
    verbs: tuple[str, ...] = ALL
    unit: Unit = SAME


KEYS: tuple[Key, ...] = (
    # every method
    Key("loss_mean", "loss"),  # OpenRLHF: of all micro-batches; its "loss" is of the last one
    Key("gpt_loss", "loss", SFT),
    Key("loss", "loss"),
    Key("ppo/loss/total", "loss", PPO),
    Key("learning_rate", "learning_rate"),
    Key("lr", "learning_rate"),
    Key("lr(1e-3)", "learning_rate", unit=THOUSANDTHS),
    Key("actor/lr", "learning_rate", PPO),
    Key("actor_lr", "learning_rate", PPO),
    Key("ppo/learning_rate", "learning_rate", PPO),
    Key("grad_norm", "grad_norm"),
    Key("actor/grad_norm", "grad_norm", PPO),
    Key("actor_grad_norm", "grad_norm", PPO),
    Key("epoch", "epoch"),
    Key("training/epoch", "epoch"),
    Key("num_tokens", "tokens"),
    Key("total_tokens", "tokens"),
    Key("num_input_tokens_seen", "tokens"),
    Key("runtime", "seconds/evaluate"),
    Key("step_time", "seconds/step"),
    Key("perf/time_per_step", "seconds/step"),
    Key("time(s)", "seconds/step"),
    Key("timing/step_total", "seconds/step"),
    # SFT
    Key("mean_token_accuracy", "token_accuracy", SFT),
    Key("token_acc", "token_accuracy", SFT),
    # reward models
    Key("loss_mean", "bradley_terry", REWARD),
    Key("loss", "bradley_terry", REWARD, Unit("with its centering term, if there is one")),
    Key("acc_mean", "accuracy", REWARD),
    Key("acc", "accuracy", REWARD),
    Key("accuracy", "accuracy", REWARD),
    Key("margin", "margin", REWARD),
    Key("chosen_reward", "reward/chosen", REWARD),
    Key("reject_reward", "reward/rejected", REWARD),
    # pairs
    Key("rewards/chosen", "rewards/chosen", DPO),
    Key("rewards/rejected", "rewards/rejected", DPO),
    Key("rewards/margins", "rewards/margins", DPO),
    Key("rewards/accuracies", "rewards/accuracies", DPO),
    Key("entropy", "objective/entropy_per_token", DPO),
    Key("logps/chosen", "logps/chosen", DPO),
    Key("logps/rejected", "logps/rejected", DPO),
    Key("chosen_reward", "rewards/chosen", DPO),
    Key("reject_reward", "rewards/rejected", DPO),
    Key("acc_mean", "rewards/accuracies", DPO),
    Key("acc", "rewards/accuracies", DPO),
    Key("accuracy", "rewards/accuracies", DPO),  # LLaMA-Factory's trainer_log.jsonl
    # sampled answers: TRL's GRPO and RLOO
    Key("reward", "objective/score", PPO),
    Key("reward_std", "objective/score_std", PPO),
    Key("frac_reward_zero_std", "objective/tied_groups", PPO),
    Key("kl", "objective/kl", PPO, PER_RESPONSE),
    Key("entropy", "objective/entropy_per_token", PPO),
    Key("policy_loss", "policy/loss", PPO),
    Key("completions/mean_length", "response/length", PPO),
    Key("completion_length", "response/length", PPO),
    Key("completions/clipped_ratio", "response/eos_fraction", PPO, COMPLEMENT),
    Key("clip_ratio/region_mean", "policy/clip_fraction", PPO),
    Key("clip_ratio", "policy/clip_fraction", PPO),
    Key("sampling/sampling_logp_difference/mean", "doctor/rollout/logprob_gap", PPO),
    # TRL's PPO and Online DPO, today's and the one before 0.12
    Key("objective/kl", "objective/kl", (*PPO, *DPO)),
    Key("objective/entropy", "objective/entropy", (*PPO, *DPO)),
    Key("objective/scores", "objective/score", (*PPO, *DPO)),
    Key("objective/rlhf_reward", "objective/rlhf_reward", (*PPO, *DPO)),
    Key("policy/approxkl_avg", "policy/approx_kl", PPO),
    Key("policy/clipfrac_avg", "policy/clip_fraction", PPO),
    Key("policy/entropy_avg", "objective/entropy_per_token", PPO, Unit("nats a token, padding counted")),
    Key("loss/policy_avg", "policy/loss", PPO),
    Key("loss/value_avg", "value/loss", PPO),
    Key("val/clipfrac_avg", "value/clip_fraction", PPO),
    Key("val/ratio", "ratio/mean", PPO),
    Key("val/contain_eos_token", "response/eos_fraction", (*PPO, *DPO)),
    Key("episode", "samples", PPO),
    Key("ppo/mean_scores", "objective/score", PPO),
    Key("ppo/std_scores", "objective/score_std", PPO),
    Key("ppo/policy/approxkl", "policy/approx_kl", PPO),
    Key("ppo/policy/clipfrac", "policy/clip_fraction", PPO),
    Key("ppo/policy/entropy", "objective/entropy_per_token", PPO),
    Key("ppo/loss/policy", "policy/loss", PPO),
    Key("ppo/loss/value", "value/loss", PPO),
    Key("ppo/val/clipfrac", "value/clip_fraction", PPO),
    Key("ppo/val/var_explained", "value/explained_variance", PPO),
    Key("objective/kl_coef", "kl_coefficient", PPO),
    Key("tokens/responses_len_mean", "response/length", PPO),
    # verl
    Key("critic/score/mean", "objective/score", PPO),
    Key("critic/rewards/mean", "objective/rlhf_reward", PPO),
    Key("actor/reward_kl_penalty", "objective/kl", PPO, PER_RESPONSE),
    Key("actor/kl_loss", "objective/kl", PPO, PER_RESPONSE),
    Key("actor/reward_kl_penalty_coeff", "kl_coefficient", PPO),
    Key("actor/kl_coef", "kl_coefficient", PPO),
    Key("actor/entropy", "objective/entropy_per_token", PPO),
    Key("actor/entropy_loss", "objective/entropy_per_token", PPO),
    Key("actor/pg_loss", "policy/loss", PPO),
    Key("actor/ppo_kl", "policy/approx_kl", PPO, LOG_RATIO),
    Key("actor/pg_clipfrac", "policy/clip_fraction", PPO),
    Key("critic/vf_loss", "value/loss", PPO),
    Key("critic/vf_clipfrac", "value/clip_fraction", PPO),
    Key("critic/vf_explained_var", "value/explained_variance", PPO),
    Key("critic/grad_norm", "value/grad_norm", PPO),
    Key("response_length/mean", "response/length", PPO),
    Key("response_length/clip_ratio", "response/eos_fraction", PPO, COMPLEMENT),
    Key("timing_s/gen", "seconds/rollout", PPO),
    # OpenRLHF's PPO, GRPO, RLOO and REINFORCE++
    Key("rollout/reward_mean", "objective/score", PPO),
    Key("rollout/reward_std", "objective/score_std", PPO),
    Key("rollout/response_length_mean", "response/length", PPO),
    Key("rollout/truncated_rate", "response/eos_fraction", PPO, COMPLEMENT),
    Key("return", "objective/rlhf_reward", PPO),
    Key("response_length", "response/length", PPO),
    Key("entropy_loss", "objective/entropy_per_token", PPO),
    Key("ppo_kl", "policy/approx_kl", PPO, LOG_RATIO),
    Key("ppo_clip_ratio", "policy/clip_fraction", PPO),
    Key("critic_loss", "value/loss", PPO),
    Key("critic_grad_norm", "value/grad_norm", PPO),
    Key("timing/generation", "seconds/rollout", PPO),
    Key("timing/make_experience", "seconds/experience", PPO),
    Key("timing/ppo_train", "seconds/learn", PPO),
)

_EVAL_NAMES = {  # what our evaluations call the metrics of sampled answers
    "seconds/evaluate": "seconds/evaluate",
    "objective/score": "eval/reward",
    "objective/kl": "eval/kl",
    "response/length": "eval/length",
    "response/eos_fraction": "eval/eos_fraction",
}
_HELD_OUT = {  # verl: a value for each data set, of which the mean is taken
    r"val-core/.+/(?:reward|score|acc)/mean@\d+": "eval/reward",
    r"val/test_score/.+": "eval/reward",
    r"val/loss": "eval/loss",
}

KNOWN = frozenset(key.theirs for key in KEYS)


def translate(row: Mapping[str, float], verb: str, without: Collection[str] = ()) -> Row:
    """A row in our names. A metric without a counterpart keeps its own name, after the prefix ``OTHER``.

    ``without``: names that mean something else with this method.
    """
    ours: Row = {"step": int(row["step"])}
    rest = {name: value for name, value in row.items() if name != "step"}
    for pattern, name in _HELD_OUT.items():
        found = [key for key in rest if re.fullmatch(pattern, key)]
        if found:
            ours[name] = fmean(rest.pop(key) for key in found)
    used: set[str] = set()
    for prefix in ("", EVAL):
        length = _length(rest, prefix)
        for key in KEYS:
            name = prefix + key.theirs
            if name not in rest or verb not in key.verbs or key.theirs in without:
                continue
            if key.unit.per_response and length is None:
                continue
            used.add(name)
            value = (
                rest[name] * length if key.unit.per_response and length is not None else key.unit.convert(rest[name])
            )
            ours.setdefault(_eval_name(key.ours) if prefix else key.ours, value)
    ours.update({OTHER + name: value for name, value in rest.items() if name not in used})
    for made in DERIVED:
        if verb in made.verbs and made.ours not in ours:
            value_or_none = made.of(ours)
            if value_or_none is not None:
                ours[made.ours] = value_or_none
    return ours


def _eval_name(ours: str) -> str:
    return _EVAL_NAMES.get(ours, EVAL + ours)


def _length(row: Mapping[str, float], prefix: str) -> float | None:
    """The mean length of the row's answers."""
    names = (prefix + key.theirs for key in KEYS if key.ours == "response/length")
    return next((row[name] for name in names if name in row), None)


@dataclass(frozen=True, slots=True)
class Derived:
    """One of our metrics that follows from others of the row."""

    ours: str
    verbs: tuple[str, ...]
    words: str
    of: Callable[[Mapping[str, float]], float | None]


def _given(*names: str) -> Callable[[Callable[..., float]], Callable[[Mapping[str, float]], float | None]]:
    def make(compute: Callable[..., float]) -> Callable[[Mapping[str, float]], float | None]:
        def of(row: Mapping[str, float]) -> float | None:
            return compute(*(row[name] for name in names)) if all(name in row for name in names) else None

        return of

    return make


def _half_range(row: Mapping[str, float]) -> float | None:
    names = (f"{OTHER}critic/score/max", f"{OTHER}critic/score/min")
    return (row[names[0]] - row[names[1]]) / 2 if all(name in row for name in names) else None


def _skipped(row: Mapping[str, float]) -> float | None:
    norm = row.get("grad_norm")
    return None if norm is None else float(not math.isfinite(norm))


DERIVED: tuple[Derived, ...] = (
    Derived(
        "skipped",
        ALL,
        "1 where `grad_norm` is not finite, else 0: transformers replaces a loss that is not finite by the mean of the "
        "others, so that only the gradient's norm shows the fault",
        _skipped,
    ),
    Derived("margin", REWARD, "`chosen_reward` less `reject_reward`",
            _given("reward/chosen", "reward/rejected")(lambda c, r: c - r)),
    Derived("reward/chosen", REWARD, "`mean_reward` and half of `margin`",
            _given(f"{OTHER}mean_reward", "margin")(lambda mean, margin: mean + margin / 2)),
    Derived("reward/rejected", REWARD, "`mean_reward` less half of `margin`",
            _given(f"{OTHER}mean_reward", "margin")(lambda mean, margin: mean - margin / 2)),
    Derived("rewards/margins", DPO, "`chosen_reward` less `reject_reward`",
            _given("rewards/chosen", "rewards/rejected")(lambda c, r: c - r)),
    Derived("objective/entropy", PPO, "the entropy of a token times the mean length of an answer",
            _given("objective/entropy_per_token", "response/length")(lambda entropy, length: entropy * length)),
    Derived("objective/score_std", PPO,
            "half of `critic/score/max` less `critic/score/min`: the standard deviation is at most so large",
            _half_range),
    Derived("eval/samples", ALL, "`eval_samples_per_second` times `eval_runtime`",
            _given(f"{OTHER}eval/samples_per_second", "seconds/evaluate")(lambda rate, time: round(rate * time))),
)  # fmt: skip


def table() -> str:
    """The table of docs/foreign-logs.md."""
    lines = ["| their name | our metric | methods | conversion |", "|---|---|---|---|"]
    lines += [f"| `{k.theirs}` | `{k.ours}` | {_words(k.verbs)} | {k.unit.words} |" for k in KEYS]
    lines += [f"| `{_shown(p)}` | `{ours}` | all | the mean over the data sets |" for p, ours in _HELD_OUT.items()]
    lines += ["", "Some of our metrics follow from several of theirs:", "", "| our metric | methods | from |"]
    lines += ["|---|---|---|", *(f"| `{d.ours}` | {_words(d.verbs)} | {d.words} |" for d in DERIVED)]
    return "\n".join(lines) + "\n"


def _words(verbs: Iterable[str]) -> str:
    return "all" if tuple(verbs) == ALL else ", ".join(verbs)


def _shown(pattern: str) -> str:
    return pattern.replace(".+", "…").replace(r"(?:reward|score|acc)", "reward").replace(r"\d+", "1")
