"""What is planted. ``TUNE`` was there while rules and thresholds were made; ``FIRST`` was the first measurement, was
looked at after it, and has served to improve the rules since; ``MEASURE`` is what is reported (docs/doctor-measured.md
tells its history). No fault is in two of them: each has another mechanism, severity or stage, and other seeds.

``expect`` lists the rules that name the cause rightly.
"""

# ruff: noqa: E501  a fault a line

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bench import doctor_plant as p
from bench import doctor_plant_data as d
from concordant.data.loader import batch_of

REWARD = "bench.doctor_rewards:"


@dataclass(frozen=True)
class Fault:
    kind: str
    variant: str  # mechanism or severity
    stage: str
    expect: tuple[str, ...]
    plant: Callable[[], Any] = nullcontext
    change: Mapping[str, Any] = field(default_factory=dict)  # by dotted key: a value, or a function of the healthy one

    @property
    def name(self) -> str:
        return f"{self.stage}: {self.kind} ({self.variant})"


def times(factor: float) -> Callable[[float], float]:
    return lambda healthy: healthy * factor


def reward(function: str, **others: Any) -> dict[str, Any]:
    return {"reward": [REWARD + function], "train.learning_rate": 8e-4, "kl.coefficient": 0.03, **others}


def cycle(length: int) -> Callable[..., list[int]]:
    return lambda step, count, size, seed: batch_of(step % length, count, size, seed)


def part(share: float) -> Callable[..., list[int]]:
    return lambda step, count, size, seed: batch_of(step, max(size, int(count * share)), size, seed)


def same_every_epoch(step: int, count: int, size: int, seed: int) -> list[int]:
    return [i % count for i in range(step * size, (step + 1) * size)]


def is_head(name: str) -> bool:
    return "score" in name or name.startswith("head")


def in_layers(*numbers: int) -> Callable[[str], bool]:
    return lambda name: any(f"layers.{i}." in name for i in numbers)


def everything(name: str) -> bool:
    return True


def not_head(name: str) -> bool:
    return not is_head(name)


MASK, END = ("response_mask_wrong",), ("end_token_masked", "end_token_missing")
FAST, SLOW = ("learning_rate_too_high",), ("learning_rate_too_low",)
FROZEN, REPEATED = ("part_frozen",), ("data_repeated",)
SAMPLER, STALE, DROPOUT = ("sampler_differs",), ("stale_rollouts",), ("dropout_on",)
DRIFT, REFERENCE = ("reference_drifts",), ("reference_not_start",)
HELD_OUT_OFTEN = {"train.evaluate_every": 10}
SMALL_DATA = {"data.max_samples": 220}

TUNE = (
    Fault("prompt in the mask", "all but one token", "sft", MASK, d.trees(d.prompt_in_response(1))),
    Fault("mask shifted", "one token", "sft", MASK, d.trees(d.masked(lambda n, r: [i > 0 for i in range(n)]))),
    Fault("mask leaves answers out", "second half", "dpo", MASK, d.trees(d.masked(lambda n, r: [i < n / 2 for i in range(n)]))),
    Fault("pad = EOS", "end masked", "sft", END, d.trees(d.masked(lambda n, r: [i < n - 1 for i in range(n)]))),
    Fault("no end token", "all answers", "dpo", END, d.trees(d.without_end())),
    Fault("chosen = rejected", "60 %", "reward", ("answers_identical",), d.trees(d.identical(0.6))),
    Fault("data repeated", "one batch", "sft", REPEATED, d.order(cycle(1))),
    Fault("data repeated", "a tenth of the data", "dpo", REPEATED, d.order(part(0.1))),
    Fault("labels by length", "longer", "reward", ("chosen_is_longer",), d.trees(d.by_length(True))),
    Fault("labels swapped", "in training", "reward", ("labels_swapped",), d.trees(d.swapped(), train_only=True)),
    Fault("labels swapped", "everywhere", "dpo", ("labels_swapped",), d.trees(d.swapped()), {"train.learning_rate": times(2)}),
    Fault("labels random", "all", "reward", ("labels_random",), d.trees(d.swapped(0.5))),
    Fault("head frozen", "not in the optimizer", "reward", FROZEN, p.frozen(is_head)),
    Fault("backbone frozen", "requires_grad", "reward", FROZEN, p.frozen(not_head, of="requires_grad"), {"model.lora.rank": 0}),
    Fault("nothing trains", "optimizer of other weights", "sft", FROZEN, p.frozen(everything)),
    Fault("learning rate × 100", "× 100", "sft", FAST, change={"train.learning_rate": times(100)}),
    Fault("learning rate × 100", "× 100", "reward", FAST, change={"train.learning_rate": times(100)}),
    Fault("learning rate × 100", "× 100", "dpo", FAST, change={"train.learning_rate": times(100)}),
    Fault("learning rate × 100", "× 60", "ppo", FAST, change={"train.learning_rate": times(60)}),
    Fault("learning rate / 1000", "/ 1000", "sft", SLOW, change={"train.learning_rate": times(1e-3)}),
    Fault("learning rate / 1000", "/ 1000", "reward", SLOW, change={"train.learning_rate": times(1e-3)}),
    Fault("learning rate / 1000", "/ 1000", "dpo", SLOW, change={"train.learning_rate": times(1e-3)}),
    Fault("learning rate / 1000", "/ 1000", "ppo", SLOW, change={"train.learning_rate": times(1e-3)}),
    Fault("NaN", "one bad batch", "sft", ("not_finite",), p.loss_is(lambda x, n: x * float("nan") if n == 7 else x)),
    Fault("learnt by heart", "48 pairs", "reward", ("overfitting",), change={"data.max_samples": 48, "train.learning_rate": 5e-3, "lm_coefficient": 0.0, "model.lora.rank": 0, **HELD_OUT_OFTEN}),
    Fault("reference is the policy", "live", "dpo", ("dpo_reference_is_policy",), lambda: p.dpo_reference_is_policy()),
    Fault("wrong reference", "noise 0.3", "dpo", REFERENCE, p.wrong_reference(0.3), {"model.lora.rank": 0}),
    Fault("β too small", "0.001", "dpo", ("beta_too_small", "beta_unusual"), change={"beta": 0.001, "train.learning_rate": times(3)}),
    Fault("temperature missing", "sampled at 0.7", "ppo", SAMPLER, p.learner_temperature(1.0), {"sampling.temperature": 0.7}),
    Fault("stale rollouts", "never refreshed", "ppo", STALE, p.stale(0)),
    Fault("reference not frozen", "is the policy", "ppo", DRIFT, p.moving_reference(1.0)),
    Fault("dropout on", "0.1, always", "ppo", DROPOUT, p.dropout(0.1, True)),
    Fault("padding counted", "4 end tokens", "ppo", ("tokens_after_end",), p.after_end(4)),
    Fault("KL off", "0", "ppo", ("kl_penalty_off",), change={"kl.coefficient": 0.0, "train.learning_rate": 2e-3}),
    Fault("too many inner steps", "12 × 2", "ppo", ("too_many_inner_steps",), change={"inner_epochs": 12, "minibatches": 2, "train.learning_rate": 8e-4}),
    Fault("clip too narrow", "0.005", "ppo", ("clip_too_narrow",), change={"clip": 0.005, "inner_epochs": 2, "minibatches": 2, "train.learning_rate": 8e-4}),
    Fault("entropy coefficient", "-0.5", "ppo", ("entropy_penalised",), change={"entropy_coefficient": -0.5, "train.learning_rate": 1e-3}),
    Fault("reward constant", "0", "ppo", ("reward_constant",), change=reward("nothing")),
    Fault("reward reversed", "-gold", "ppo", ("reward_reversed",), change=reward("reversed_gold")),
    Fault("length-loving reward", "words", "ppo", ("length_hacking",), change=reward("words")),
    Fault("phrase-loving reward", "happy to help", "ppo", ("phrase_hacking",), change=reward("says_the")),
    Fault("never ends", "no end token in the start", "ppo", ("never_ends",), lambda: p.never_taught_to_end()),
    Fault("critic frozen", "all of it", "ppo", FROZEN, p.frozen(everything, "CriticNetwork"), {"advantage": "gae"}),
    Fault("critic taught wrong", "shuffled", "ppo", ("value_explains_nothing",), p.values(lambda x: x[torch.randperm(len(x))]), {"advantage": "gae"}),
    Fault("advantages reversed", "all", "ppo", ("reward_falls",), p.advantages(torch.neg), {"train.learning_rate": 8e-4}),
    Fault("reward model misread", "no prompt, no spaces", "ppo", ("reward_misread",), p.reward_reads(lambda a: replace(a, response=a.response.replace(" ", "").upper()))),
)  # fmt: skip

FIRST = (
    Fault("prompt in the mask", "all but two tokens", "dpo", MASK, d.trees(d.prompt_in_response(2))),
    Fault("prompt in the mask", "all but two tokens", "sft", MASK, d.trees(d.prompt_in_response(2))),
    Fault("mask shifted", "three tokens", "reward", MASK, d.trees(d.masked(lambda n, r: [i > 2 for i in range(n)]))),
    Fault("mask leaves answers out", "random 60 %", "sft", MASK, d.trees(d.masked(lambda n, r: [r.random() < 0.4 for _ in range(n)]))),
    Fault("mask leaves answers out", "all but the end", "sft", MASK, d.trees(d.masked(lambda n, r: [i == n - 1 for i in range(n)]))),
    Fault("pad = EOS", "end masked", "dpo", END, d.trees(d.masked(lambda n, r: [i < n - 1 for i in range(n)]))),
    Fault("no end token", "80 % of the answers", "sft", END, d.trees(d.without_end(0.8))),
    Fault("no end token", "all answers", "reward", END, d.trees(d.without_end())),
    Fault("chosen = rejected", "25 %", "dpo", ("answers_identical",), d.trees(d.identical(0.25))),
    Fault("data repeated", "five batches in turn", "reward", REPEATED, d.order(cycle(5))),
    Fault("data repeated", "a twentieth of the prompts", "ppo", REPEATED, d.order(part(0.05))),
    Fault("data repeated", "every epoch in one order", "sft", REPEATED, d.order(same_every_epoch), SMALL_DATA),
    Fault("labels by length", "longer", "dpo", ("chosen_is_longer",), d.trees(d.by_length(True))),
    Fault("labels by length", "shorter, 95 %", "reward", ("chosen_is_longer",), d.trees(d.by_length(False, 0.95))),
    Fault("labels swapped", "in training", "dpo", ("labels_swapped",), d.trees(d.swapped(), train_only=True)),
    Fault("labels swapped", "90 % in training", "reward", ("labels_swapped",), d.trees(d.swapped(0.9), train_only=True)),
    Fault("labels random", "all", "dpo", ("labels_random",), d.trees(d.swapped(0.5))),
    Fault("head frozen", "requires_grad", "reward", FROZEN, p.frozen(is_head, of="requires_grad")),
    Fault("head frozen", "the critic's", "ppo", FROZEN, p.frozen(is_head, "CriticNetwork"), {"advantage": "gae"}),
    Fault("layers frozen", "the first", "sft", FROZEN, p.frozen(in_layers(0)), {"model.lora.rank": 0}),
    Fault("nothing trains", "optimizer of other weights", "dpo", FROZEN, p.frozen(everything)),
    Fault("nothing trains", "gradient of 0", "ppo", FROZEN, p.loss_is(lambda x, n: x * 0)),
    Fault("learning rate × 100", "× 40", "sft", FAST, change={"train.learning_rate": times(40)}),
    Fault("learning rate × 100", "× 40", "reward", FAST, change={"train.learning_rate": times(40)}),
    Fault("learning rate × 100", "× 40", "dpo", FAST, change={"train.learning_rate": times(40)}),
    Fault("learning rate × 100", "× 30", "ppo", FAST, change={"train.learning_rate": times(30)}),
    Fault("learning rate / 1000", "/ 400", "sft", SLOW, change={"train.learning_rate": times(1 / 400)}),
    Fault("learning rate / 1000", "/ 300", "reward", SLOW, change={"train.learning_rate": times(1 / 300)}),
    Fault("learning rate / 1000", "/ 300", "dpo", SLOW, change={"train.learning_rate": times(1 / 300)}),
    Fault("learning rate / 1000", "/ 300", "ppo", SLOW, change={"train.learning_rate": times(1 / 300)}),
    Fault("NaN", "one bad batch", "dpo", ("not_finite",), p.loss_is(lambda x, n: x * float("nan") if n == 12 else x)),
    Fault("NaN", "infinite loss", "ppo", ("not_finite",), p.loss_is(lambda x, n: x * float("inf") if n == 9 else x)),
    Fault("learnt by heart", "64 dialogues", "sft", ("overfitting",), change={"data.max_samples": 64, "train.learning_rate": 1e-2, "train.max_steps": 100, "model.lora.rank": 0, **HELD_OUT_OFTEN}),
    Fault("reference is the policy", "live, large rate", "dpo", ("dpo_reference_is_policy",), lambda: p.dpo_reference_is_policy(), {"train.learning_rate": times(4)}),
    Fault("wrong reference", "other pairs' log-probs", "dpo", REFERENCE, lambda: p.shuffled_reference()),
    Fault("wrong reference", "noise 0.2", "ppo", REFERENCE, p.wrong_reference(0.2)),
    Fault("β too small", "0.003", "dpo", ("beta_too_small", "beta_unusual"), change={"beta": 0.003, "train.learning_rate": times(3)}),
    Fault("temperature missing", "sampled at 1.4", "ppo", SAMPLER, p.learner_temperature(1.0), {"sampling.temperature": 1.4}),
    Fault("top-p in the sampler alone", "0.8", "ppo", SAMPLER, change={"sampling.top_p": 0.8, "allow_truncated_sampling": True}),
    Fault("stale rollouts", "every 6 steps", "ppo", STALE, p.stale(6)),
    Fault("reference not frozen", "a tenth of the way a step", "ppo", DRIFT, p.moving_reference(0.1)),
    Fault("dropout on", "0.05, in learning", "ppo", DROPOUT, p.dropout(0.05, False)),
    Fault("dropout on", "LoRA's 0.2", "ppo", DROPOUT, change={"model.lora.rank": 8, "model.lora.dropout": 0.2, "train.learning_rate": 3e-3}),
    Fault("padding counted", "two padding tokens", "ppo", ("tokens_after_end",), p.after_end(2, repeat=False)),
    Fault("KL off", "0.001", "ppo", ("kl_penalty_off",), change={"kl.coefficient": 0.001, "train.learning_rate": 1.5e-3}),
    Fault("too many inner steps", "8 × 4", "ppo", ("too_many_inner_steps",), change={"inner_epochs": 8, "minibatches": 4, "train.learning_rate": 8e-4, "train.max_steps": 10}),
    Fault("clip too narrow", "0.01", "ppo", ("clip_too_narrow",), change={"clip": 0.01, "inner_epochs": 2, "minibatches": 2, "train.learning_rate": 1e-3}),
    Fault("entropy coefficient", "+1", "ppo", ("entropy_explodes",), change={"entropy_coefficient": 1.0, "train.learning_rate": 1e-3}),
    Fault("entropy coefficient", "-1", "ppo", ("entropy_penalised",), change={"entropy_coefficient": -1.0, "train.learning_rate": 8e-4}),
    Fault("reward constant", "a rule that never matches", "ppo", ("reward_constant",), change=reward("never_matches")),
    Fault("reward reversed", "the model's weight is -1", "ppo", ("reward_reversed",), change={"reward": lambda healthy: [f"{healthy[0]}=-1"], "train.learning_rate": 8e-4}),
    Fault("length-loving reward", "characters", "ppo", ("length_hacking",), change=reward("characters")),
    Fault("length-loving reward", "with some quality", "ppo", ("length_hacking", "proxy_over_gold"), change=reward("gold_and_length")),
    Fault("phrase-loving reward", "good question", "ppo", ("phrase_hacking", "proxy_over_gold"), change=reward("great_question")),
    Fault("repetition-loving reward", "words", "ppo", ("repetition_hacking", "length_hacking"), change=reward("repeated_words")),
    Fault("flattery-loving reward", "kind phrases", "ppo", ("phrase_hacking", "proxy_over_gold", "length_hacking", "repetition_hacking"), change=reward("kind_words")),
    Fault("never ends", "limit of 10 tokens", "ppo", ("never_ends",), change={"sampling.max_new_tokens": 10}),
    Fault("never ends", "paid for going on", "ppo", ("stops_ending", "length_hacking"), change=reward("goes_on")),
    Fault("critic taught wrong", "returns reversed", "ppo", ("value_explains_nothing",), p.values(torch.neg), {"advantage": "gae"}),
    Fault("critic taught wrong", "rate / 1000", "ppo", ("value_explains_nothing",), change={"advantage": "gae", "critic_learning_rate": 4e-7}),
    Fault("advantages reversed", "sign of the loss", "ppo", ("reward_falls",), p.loss_is(lambda x, n: -x), {"advantage": "rloo", "train.learning_rate": 8e-4}),
    Fault("reward model misread", "without its prompt's words", "ppo", ("reward_misread",), p.reward_reads(lambda a: replace(a, prompt=(replace(a.prompt[-1], content="x"),), response=a.response[::-1]))),
    Fault("answers under other prompts", "all", "dpo", ("labels_random", "loss_not_falling"), lambda: d.mismatched()),
)  # fmt: skip

MEASURE = (
    Fault("prompt in the mask", "all but one token", "reward", MASK, d.trees(d.prompt_in_response(1))),
    Fault("prompt in the mask", "all but one token", "dpo", MASK, d.trees(d.prompt_in_response(1))),
    Fault("mask shifted", "two tokens", "dpo", MASK, d.trees(d.masked(lambda n, r: [i > 1 for i in range(n)]))),
    Fault("mask leaves answers out", "random half", "dpo", MASK, d.trees(d.masked(lambda n, r: [r.random() < 0.5 for _ in range(n)]))),
    Fault("mask leaves answers out", "first half", "sft", MASK, d.trees(d.masked(lambda n, r: [i >= n / 2 for i in range(n)]))),
    Fault("pad = EOS", "end masked", "reward", END, d.trees(d.masked(lambda n, r: [i < n - 1 for i in range(n)]))),
    Fault("pad = EOS", "end masked in 70 %", "sft", END, d.trees(d.masked(lambda n, r: [True] * (n - 1) + [r.random() > 0.7]))),
    Fault("no end token", "70 % of the answers", "dpo", END, d.trees(d.without_end(0.7))),
    Fault("no end token", "all answers", "sft", END, d.trees(d.without_end())),
    Fault("chosen = rejected", "40 %", "dpo", ("answers_identical",), d.trees(d.identical(0.4))),
    Fault("chosen = rejected", "15 %", "reward", ("answers_identical",), d.trees(d.identical(0.15))),
    Fault("data repeated", "three batches in turn", "dpo", REPEATED, d.order(cycle(3))),
    Fault("data repeated", "eight batches in turn", "sft", REPEATED, d.order(cycle(8))),
    Fault("data repeated", "one batch", "ppo", REPEATED, d.order(cycle(1))),
    Fault("labels by length", "shorter", "dpo", ("chosen_is_longer",), d.trees(d.by_length(False))),
    Fault("labels by length", "longer, 96 %", "reward", ("chosen_is_longer",), d.trees(d.by_length(True, 0.96))),
    Fault("labels swapped", "95 % in training", "dpo", ("labels_swapped",), d.trees(d.swapped(0.95), train_only=True)),
    Fault("labels swapped", "97 % in training", "reward", ("labels_swapped",), d.trees(d.swapped(0.97), train_only=True)),
    Fault("answers under other prompts", "and labels by chance", "reward", ("labels_random",), d.trees(d.swapped(0.48))),
    Fault("head frozen", "beside LoRA", "reward", FROZEN, p.frozen(is_head), {"model.lora.rank": 8}),
    Fault("backbone frozen", "not in the optimizer", "reward", FROZEN, p.frozen(not_head), {"model.lora.rank": 0}),
    Fault("layers frozen", "the first", "dpo", FROZEN, p.frozen(in_layers(0)), {"model.lora.rank": 0}),
    Fault("nothing trains", "optimizer of other weights", "reward", FROZEN, p.frozen(everything)),
    Fault("nothing trains", "gradient of 0", "sft", FROZEN, p.loss_is(lambda x, n: x * 0)),
    Fault("nothing trains", "the policy's optimizer", "ppo", FROZEN, p.frozen(everything, "PolicyNetwork")),
    Fault("critic frozen", "the backbone", "ppo", FROZEN, p.frozen(not_head, "CriticNetwork"), {"advantage": "gae"}),
    Fault("learning rate × 100", "× 70", "sft", FAST, change={"train.learning_rate": times(70)}),
    Fault("learning rate × 100", "× 70", "reward", FAST, change={"train.learning_rate": times(70)}),
    Fault("learning rate × 100", "× 70", "dpo", FAST, change={"train.learning_rate": times(70)}),
    Fault("learning rate × 100", "× 45", "ppo", FAST, change={"train.learning_rate": times(45)}),
    Fault("learning rate / 1000", "/ 3000", "sft", SLOW, change={"train.learning_rate": times(1 / 3000)}),
    Fault("learning rate / 1000", "/ 600", "reward", SLOW, change={"train.learning_rate": times(1 / 600)}),
    Fault("learning rate / 1000", "/ 600", "dpo", SLOW, change={"train.learning_rate": times(1 / 600)}),
    Fault("learning rate / 1000", "/ 3000", "ppo", SLOW, change={"train.learning_rate": times(1 / 3000)}),
    Fault("NaN", "one bad batch", "reward", ("not_finite",), p.loss_is(lambda x, n: x * float("nan") if n == 9 else x)),
    Fault("NaN", "infinite loss", "dpo", ("not_finite",), p.loss_is(lambda x, n: x * float("inf") if n == 15 else x)),
    Fault("learnt by heart", "60 pairs", "reward", ("overfitting",), change={"data.max_samples": 60, "train.learning_rate": 4e-3, "lm_coefficient": 0.0, "model.lora.rank": 0, "validation_fraction": 0.2, **HELD_OUT_OFTEN}),
    Fault("reference is the policy", "live, half the rate", "dpo", ("dpo_reference_is_policy",), lambda: p.dpo_reference_is_policy(), {"train.learning_rate": times(0.5)}),
    Fault("wrong reference", "noise 0.15", "dpo", REFERENCE, p.wrong_reference(0.15), {"model.lora.rank": 0}),
    Fault("wrong reference", "noise 0.35", "ppo", REFERENCE, p.wrong_reference(0.35)),
    Fault("β too small", "0.002", "dpo", ("beta_too_small", "beta_unusual"), change={"beta": 0.002, "train.learning_rate": times(3)}),
    Fault("temperature missing", "sampled at 0.6", "ppo", SAMPLER, p.learner_temperature(1.0), {"sampling.temperature": 0.6}),
    Fault("temperature missing", "the learner's is 0.5", "ppo", SAMPLER, p.learner_temperature(0.5), {"sampling.temperature": 1.0}),
    Fault("top-k in the sampler alone", "5", "ppo", SAMPLER, change={"sampling.top_k": 5, "allow_truncated_sampling": True}),
    Fault("stale rollouts", "every 4 steps", "ppo", STALE, p.stale(4), {"train.learning_rate": 8e-4}),
    Fault("reference not frozen", "a third of the way a step", "ppo", DRIFT, p.moving_reference(0.33)),
    Fault("dropout on", "0.2, in learning", "ppo", DROPOUT, p.dropout(0.2, False)),
    Fault("dropout on", "0.03, always", "ppo", DROPOUT, p.dropout(0.03, True)),
    Fault("padding counted", "one end token more", "ppo", ("tokens_after_end",), p.after_end(1)),
    Fault("padding counted", "eight padding tokens", "ppo", ("tokens_after_end",), p.after_end(8, repeat=False)),
    Fault("KL off", "0.002", "ppo", ("kl_penalty_off",), change={"kl.coefficient": 0.002, "train.learning_rate": 2e-3}),
    Fault("too many inner steps", "6 × 3", "ppo", ("too_many_inner_steps",), change={"inner_epochs": 6, "minibatches": 3, "train.learning_rate": 1e-3, "train.max_steps": 12}),
    Fault("clip too narrow", "0.003", "ppo", ("clip_too_narrow",), change={"clip": 0.003, "inner_epochs": 2, "minibatches": 2, "train.learning_rate": 6e-4}),
    Fault("entropy coefficient", "+0.5", "ppo", ("entropy_explodes",), change={"entropy_coefficient": 0.5, "train.learning_rate": 8e-4}),
    Fault("entropy coefficient", "-0.7", "ppo", ("entropy_penalised",), change={"entropy_coefficient": -0.7, "train.learning_rate": 8e-4}),
    Fault("reward constant", "a number", "ppo", ("reward_constant",), change=reward("a_number")),
    Fault("reward reversed", "the model's weight is -0.5", "ppo", ("reward_reversed",), change={"reward": lambda healthy: [f"{healthy[0]}=-0.5"], "train.learning_rate": 6e-4}),
    Fault("length-loving reward", "root of the words", "ppo", ("length_hacking",), change=reward("root_words")),
    Fault("phrase-loving reward", "I hope it helps", "ppo", ("phrase_hacking", "proxy_over_gold"), change=reward("hopes")),
    Fault("repetition-loving reward", "runs of two words", "ppo", ("repetition_hacking", "length_hacking"), change=reward("repeated_runs")),
    Fault("never ends", "limit of 7 tokens", "ppo", ("never_ends",), change={"sampling.max_new_tokens": 7}),
    Fault("never ends", "paid for not ending", "ppo", ("stops_ending", "length_hacking"), change=reward("does_not_end")),
    Fault("critic taught wrong", "twice the returns, reversed", "ppo", ("value_explains_nothing",), p.values(lambda x: -2 * x), {"advantage": "gae"}),
    Fault("critic taught wrong", "rate / 300", "ppo", ("value_explains_nothing",), change={"advantage": "gae", "critic_learning_rate": 1e-6}),
    Fault("advantages reversed", "GAE's", "ppo", ("reward_falls",), p.advantages(torch.neg), {"advantage": "gae", "train.learning_rate": 6e-4}),
    Fault("reward model misread", "words in reverse, no capitals", "ppo", ("reward_misread",), p.reward_reads(lambda a: replace(a, response=" ".join(reversed(a.response.lower().split()))))),
)  # fmt: skip
