"""What a step of PPO measures: its answers and rewards, the seconds of its phases, and the means over its rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms import evidence
from concordant.algorithms.experience import Experience
from concordant.algorithms.probe import Gold, plain, turns_of
from concordant.algorithms.rewards import Answer
from concordant.algorithms.work import mean
from concordant.config.names import COMPARES_SAMPLES, NEEDS_CRITIC
from concordant.config.stages import PPOConfig
from concordant.core import kl


class Clock:
    """Measures the seconds of each phase of a step. The keys of ``seconds`` are the names of metrics."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, phase: str) -> None:
        now = perf_counter()
        self.seconds[f"seconds/{phase}"] = now - self._last
        self._last = now


def of_sampler(weight_N: Tensor, cap: float) -> dict[str, float]:
    """Of the weights min(π/μ, cap) of tokens that a sampler with another distribution μ drew."""
    capped = (weight_N >= cap).float().mean()
    return {
        "sampling/importance_ratio/mean": float(weight_N.mean()),
        "sampling/importance_ratio/capped": float(capped),
    }


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over a step's rounds, and ``doctor/ratio/start``.

    If the name of a metric ends in "/max", its greatest value is taken instead of the mean.

    ``ratio/shift`` is the mean absolute difference between the policy's log-probs and the old log-probs. In the first
    round the policy's weights have not changed since the old log-probs were computed. So this first shift is 0 except
    for rounding, unless a layer is random, such as dropout. Only the first shift is kept, as ``doctor/ratio/start``.
    """
    shifts = [row.pop("ratio/shift", None) for row in rounds] or [None]  # no round: there was nothing to learn
    for row in rounds:
        row.pop("replay/ratio/shift", None)
    return mean(rounds) | ({} if shifts[0] is None else {"doctor/ratio/start": shifts[0]})


def of_experience(e: Experience, config: PPOConfig, kl_coefficient: float) -> dict[str, float]:
    """Metrics of the step's answers. ``objective/kl`` is the mean over responses, in nats for each response."""
    rollouts = e.rollouts
    kl_B = rollouts.by_branch(kl.k1(e.old_logprob_N, e.reference_N))
    metrics = {
        "objective/kl": float(kl_B.mean()),
        "objective/score": float(e.score_B.mean()),
        "objective/score_std": float(e.score_B.std(correction=0)),
        "objective/rlhf_reward": float((e.shaped_B - kl_coefficient * kl_B).mean()),
        "response/length": float(rollouts.length_B.float().mean()),
        "response/eos_fraction": float(rollouts.ended_B.float().mean()),
        "kl_coefficient": kl_coefficient,
        "tokens": float(sum(t.tokens for t in rollouts.trees)),
        "samples": float(len(rollouts.answers)),
        "policy_version": float(rollouts.version),
        "doctor/objective/kl_error": float(kl_B.std(correction=0)) / len(kl_B) ** 0.5,  # standard error of the mean
    }
    metrics |= evidence.of_rollouts(rollouts, e.score_B, e.old_logprob_N)
    metrics |= e.reward_counts | rollouts.counts
    metrics |= of_episodes(rollouts.answers)
    if config.mask_truncated or e.learnt_B is not None:
        metrics["response/left_out"] = 0.0 if e.learnt_B is None else float((~e.learnt_B).float().mean())
    if e.weight_N is not None:
        metrics |= of_sampler(e.weight_N, config.importance_cap)
    if config.advantage in NEEDS_CRITIC:
        metrics["value/explained_variance"] = evidence.explained_variance(e.value_N, e.return_N)
    if config.advantage in COMPARES_SAMPLES:
        metrics["objective/tied_groups"] = e.tied
    if e.greedy is not None:
        metrics["objective/greedy_score"] = e.greedy
    return metrics


def of_episodes(answers: Sequence[Answer]) -> dict[str, float]:
    """How the answers of several turns went and how they ended; empty without an environment."""
    episodes = [a.episode for a in answers if a.episode is not None]
    if not episodes:
        return {}
    ends = Counter(e.stopped for e in episodes)
    return {
        "environment/turns": sum(m.role == "assistant" for e in episodes for m in e.turns) / len(episodes),
        "environment/out_of_turns": ends["turns"] / len(episodes),
        "environment/out_of_context": ends["context"] / len(episodes),
        "environment/cut": float(sum(e.cut for e in episodes)),
        "environment/errors": float(ends["error"]),
    }


def of_rewards(e: Experience, heldout: tuple[float, float] | None, gold: Gold | None) -> dict[str, float]:
    """The step's scores beside those of other axes, of held-out answers, and of gold, where these are known.

    ``heldout``: mean and deviation of the reward model's scores on held-out answers.
    """
    metrics = {} if e.agreement is None else {"doctor/reward/agreement": e.agreement}
    if heldout is not None:
        middle, deviation = heldout
        metrics["doctor/reward/z"] = (float(e.score_B.mean()) - middle) / deviation
        metrics["doctor/reward/spread"] = float(e.score_B.std(correction=0)) / deviation
    if gold is not None:
        gold_B = torch.tensor([gold(a.prompt, a.response) for a in e.rollouts.answers])
        metrics["objective/gold"] = float(gold_B.mean())
        metrics["doctor/reward/gold_correlation"] = evidence.correlation(e.score_B, gold_B)
    return metrics


def rows_of(e: Experience, count: int) -> list[dict[str, Any]]:
    """Rows for samples.jsonl: the first ``count`` answers of the step."""
    rollouts = e.rollouts
    kl_B = rollouts.by_branch(kl.k1(e.old_logprob_N, e.reference_N))
    advantage_B = rollouts.by_branch(e.advantage_N) / rollouts.length_B
    return [
        {
            "split": "train",
            "prompt": plain(a.prompt),
            "response": a.response,
            "reward": float(e.score_B[i]),
            "kl": float(kl_B[i]),
            "advantage": float(advantage_B[i]),
            "length": int(rollouts.length_B[i]),
            "ended": a.ended,
            "policy_version": rollouts.version,
        }
        | turns_of(a)
        for i, a in enumerate(rollouts.answers[:count])
    ]
