"""Which trainer wrote a log, and which method it trained: guessed from the names of the metrics, and said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from concordant.runs.foreign.log import EVAL
from concordant.runs.logs import Row

OURS = "Concordant"  # a copy of our own metrics.jsonl without its config.yaml
CHANCE = math.log(2)  # nats: the loss of pairs that nothing tells apart
LIKELIHOODS = ("rewards/chosen", "rewards/rejected", "rewards/margins")
REFERENCE_FREE = ("orpo", "cpo")  # their "rewards" are beta times a log-prob, not beta times a log-ratio

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Guess:
    framework: str
    method: str  # in the words of the trainer
    verb: str  # ours
    because: str
    beta: float | None = None  # of a method without a reference it can be computed


@dataclass(frozen=True, slots=True)
class Signature:
    """``keys``: names that the log must have; the first signature of the table that fits is taken."""

    framework: str
    method: str
    verb: str
    keys: tuple[str, ...]
    also: Callable[[Rows], str] | None = None  # '' if the values speak against it, else the reason in words
    note: str = ""


def _start(rows: Rows, name: str, count: int = 3) -> list[float]:
    return [row[name] for row in rows if math.isfinite(row.get(name, math.nan))][:count]


def _starts_at_zero(rows: Rows) -> str:
    """DPO's implicit rewards are 0 before the first update; a reward model's scores are not."""
    first = [*_start(rows, "chosen_reward", 1), *_start(rows, "reject_reward", 1)]
    return "both rewards begin at 0" if first and max(map(abs, first)) < 0.02 else ""


def _likelihood_ratio(rows: Rows) -> float | None:
    """``rewards/chosen`` over ``logps/chosen`` where both sides of every row have one ratio; None where they have not.

    ORPO, CPO and SimPO log beta times the log-prob as the reward. DPO logs beta times the log-ratio.
    """
    ratios = []
    for row in rows:
        for side in ("chosen", "rejected"):
            reward, logp = row.get(f"rewards/{side}"), row.get(f"logps/{side}")
            if reward is not None and logp and math.isfinite(reward) and math.isfinite(logp):
                ratios.append(reward / logp)
    if len(ratios) < 2 or fmean(ratios) < 1e-6:
        return None
    return fmean(ratios) if max(ratios) - min(ratios) < 0.02 * fmean(ratios) else None


def _is_likelihood(rows: Rows) -> str:
    ratio = _likelihood_ratio(rows)
    return f"rewards/chosen is {ratio:.3g} times logps/chosen in every row" if ratio else ""


def _near_chance(rows: Rows) -> str:
    first = _start(rows, "loss")
    near = first and abs(median(first) - CHANCE) < 0.15
    return f"the first losses are {median(first):.2f}, near ln 2" if near else ""


SIGNATURES: tuple[Signature, ...] = (
    Signature(OURS, "ppo", "ppo", ("seconds/step", "objective/score")),
    Signature(OURS, "dpo", "dpo", ("seconds/step", "rewards/margins")),
    Signature(OURS, "reward", "reward", ("seconds/step", "bradley_terry")),
    Signature(OURS, "sft", "sft", ("seconds/step", "token_accuracy")),
    Signature("verl", "ppo", "ppo", ("actor/pg_loss", "critic/vf_loss")),
    Signature("verl", "grpo", "ppo", ("actor/pg_loss",), note="there is no critic; RLOO and REINFORCE++ look the same"),
    Signature("verl", "ppo", "ppo", ("critic/score/mean",)),
    Signature("verl", "sft", "sft", ("lr(1e-3)", "loss")),
    Signature("verl", "sft", "sft", ("global_tokens", "loss")),
    Signature("OpenRLHF", "ppo", "ppo", ("policy_loss", "critic_loss")),
    Signature("OpenRLHF", "grpo", "ppo", ("policy_loss", "actor_lr"),
              note="there is no critic; RLOO and REINFORCE++ look the same"),
    Signature("OpenRLHF", "sft", "sft", ("gpt_loss",)),
    Signature("OpenRLHF", "dpo", "dpo", ("chosen_reward", "reject_reward", "nll_loss")),
    Signature("OpenRLHF", "reward", "reward", ("chosen_reward", "reject_reward", "eval/reward_mean")),
    Signature("OpenRLHF", "dpo", "dpo", ("chosen_reward", "reject_reward"), _starts_at_zero),
    Signature("OpenRLHF", "reward", "reward", ("chosen_reward", "reject_reward"),
              note="DPO has the same names, but its rewards begin at 0"),
    Signature("TRL", "ppo", "ppo", ("ppo/loss/total",), note="TRL before 0.12"),
    Signature("TRL", "online-dpo", "dpo", ("objective/kl", "rewards/margins")),
    Signature("TRL", "ppo", "ppo", ("policy/approxkl_avg", "loss/value_avg")),
    Signature("TRL", "rloo", "ppo", ("policy/approxkl_avg",), note="there is no critic"),
    Signature("TRL", "grpo", "ppo", ("reward", "reward_std"), note="RLOO logs the same names"),
    Signature("TRL", "orpo", "dpo", ("log_odds_ratio",)),
    Signature("LLaMA-Factory", "orpo", "dpo", ("odds_ratio_loss",)),
    Signature("TRL", "kto", "dpo", ("kl", "logps/chosen")),
    Signature("TRL", "kto", "dpo", ("kl", "logps/rejected")),
    Signature("TRL", "cpo", "dpo", ("rewards/margins", "logps/chosen"), _is_likelihood),
    Signature("TRL", "dpo", "dpo", ("rewards/margins", "logps/chosen")),
    Signature("TRL", "reward", "reward", ("margin", "accuracy")),
    Signature("TRL", "sft", "sft", ("mean_token_accuracy",)),
    Signature("ms-swift", "sft", "sft", ("token_acc",)),
    Signature("LLaMA-Factory", "dpo", "dpo", ("percentage", "accuracy")),
    Signature("LLaMA-Factory", "ppo", "ppo", ("percentage", "reward")),
    Signature("LLaMA-Factory", "sft", "sft", ("percentage", "loss"),
              note="a reward model's trainer_log.jsonl has the same names"),
    Signature("LLaMA-Factory", "ppo", "ppo", ("loss", "reward")),
    Signature("transformers", "reward", "reward", ("loss", EVAL + "accuracy"), _near_chance),
    Signature("transformers", "sft", "sft", ("loss",), note="the log has no name that only one method has"),
)  # fmt: skip


def guess(rows: Rows) -> Guess:
    """The first signature that the log's names and values fit. ``method`` and ``verb`` are '' if none fits."""
    names = {name for row in rows for name in row}
    for s in SIGNATURES:
        reason = s.also(rows) if s.also else ""
        if not set(s.keys) <= names or (s.also and not reason):
            continue
        shown = " and ".join(f'"{key}"' for key in s.keys)
        because = "; ".join(filter(None, [f"the log has {shown}", reason, s.note]))
        return Guess(
            s.framework, s.method, s.verb, because, _likelihood_ratio(rows) if s.also is _is_likelihood else None
        )
    return Guess("", "", "", "no name in it belongs to a method that the doctor knows")
