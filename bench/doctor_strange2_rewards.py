"""The second strange set: reward functions as users write them, and how they combine several."""

from __future__ import annotations

from bench.doctor_strange2_tools import Cases, Desk
from concordant.config.stages import RunConfig

REWARDS = Cases()
GITHUB = "https://github.com/"


@REWARDS.add(
    "grpo-format-regex", GITHUB + "huggingface/open-r1/issues/235",
    "The format reward is always 0, from the first step to the last.",
    "The function wants <think>…</think><answer>…</answer>, which the policy has never seen and never says.",
    "The reward is 0 for every answer: the format that it asks for never occurs in the samples, so there is no "
    "signal; teach the format by SFT first or pay for parts.",
    "the learning rate is too low; the KL coefficient is too high",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
import re


def judge(completions, prompts, **kwargs):
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    return [1.0 if re.match(pattern, c[0]["content"]) else 0.0 for c in completions]
""")
    return desk.grpo(None, judge)


@REWARDS.add(
    "ppo-regex-wants-end-token", GITHUB + "lsdefine/simple_GRPO/issues/19",
    "Every answer gets -1, also those that look right.",
    "The pattern ends in the end token's text, which is never part of the answer's text.",
    "The reward is -1 for every answer: the function asks for text (the end token) that it is never given; the "
    "function is at fault.",
    "the policy does not end its answers; the critic",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge(
        """
import re


def judge(prompts, responses):
    return [1.0 if re.search(r"\\\\.<\\\\|end\\\\|>$", text) else -1.0 for text in responses]
""".replace("\\\\", "\\")
    )
    return desk.ppo(None, judge)


@REWARDS.add(
    "ppo-kind-words-count", GITHUB + "huggingface/open-r1/pull/418",
    "The reward climbs steadily. The samples repeat one kind phrase again and again.",
    "The function counts how often \"friend\", \"kind\", \"hope\", \"nice\" or \"Good\" occurs, without a limit.",
    "The reward pays for repetition of a phrase (reward hacking): the score rises while the samples become "
    "alike and repetitive; cap the count or judge the whole answer.",
    "all is well since the reward rises; the KL alone",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
import re


def judge(prompt, response):
    return float(len(re.findall("friend|kind|hope|nice|Good", response)))
""")
    return desk.ppo(None, judge, kl__coefficient=0.01, train__learning_rate=1e-3, train__max_steps=40)


@REWARDS.add(
    "grpo-exact-match-sentence", GITHUB + "NovaSky-AI/SkyRL/pull/1816",
    "The answers name the right word, yet the reward is 0 for all of them.",
    "rule:exact_match compares the whole answer, a sentence, with the ground truth, which is one word in capitals.",
    "The reward is 0 for every answer since an exact match of a sentence with one word cannot happen; extract "
    "the word first or use rule:contains.",
    "the policy is too weak; the learning rate",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    rows = [
        {"prompt": r["prompt"], "ground_truth": r["response"].split(".")[0].split()[-1].strip("!,").upper()}
        for r in desk.answers(500)
    ]
    return desk.grpo(rows, "rule:exact_match")


@REWARDS.add(
    "grpo-swallowed-exception", GITHUB + "NVIDIA-NeMo/Gym/pull/2015",
    "The reward is 0.0 at each step and nothing is printed.",
    "The function looks up a key that does not exist; its except returns 0.0.",
    "The reward is one constant for all answers: the function catches its own errors and returns 0; call it by "
    "hand on a sample.",
    "the prompts are too hard; the KL coefficient",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    try:
        question = prompt["question"]
        return float(any(word in response for word in question.split()))
    except Exception:
        return 0.0
""")
    return desk.grpo(None, judge)


@REWARDS.add(
    "grpo-skipped-errors", GITHUB + "areal-project/AReaL/pull/1430",
    "The run goes through, yet the reward hardly moves.",
    "The function raises on nine answers in ten (it parses a number that is seldom there), and reward_on_error "
    "skip hides it.",
    "The reward function fails for most answers (reward/errors), and reward_on_error skip passes over them; "
    "mend the function.",
    "the reward is constant, the groups are too small, without a word on the errors",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    return float(response.index("wood")) / 10
""")
    return desk.grpo(None, judge, reward_on_error="skip")


@REWARDS.add(
    "grpo-easy-part-dominates", GITHUB + "huggingface/open-r1/pull/213",
    "The total reward rises at once and then stays; the quality of the answers does not change or falls.",
    "A format part (ends in an exclamation mark) has weight 5, the reward model 0.02.",
    "One easy part carries the whole reward; the reward model's part is a hundredth of the spread and does not "
    "count; balance the weights.",
    "the KL coefficient is too low",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    return float(response.rstrip().endswith("!"))
""")
    parts = [f"{judge}=5", f"{desk.world.reward(desk.size)}=0.02"]
    return desk.grpo(None, parts, train__learning_rate=1e-3, train__max_steps=30)


@REWARDS.add(
    "ppo-reward-0-100", GITHUB + "pytorch/rl/pull/3542",
    "The reward goes from 0 to 100, as the example's did. Within some steps the policy is far from the reference.",
    "The function returns 0 to 100 with reward_normalize none, so a KL coefficient of 0.1 a nat is nothing "
    "beside it.",
    "The reward's scale (tens) dwarfs the KL penalty and the value clip; normalise the reward or scale it to "
    "about 1.",
    "the critic learns too slowly",
    named=True,
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    parts = ("wood" in response or "pond" in response, "friend" in response, "." in response, len(response) > 20)
    return 25.0 * sum(parts)
""")
    return desk.ppo(None, judge, reward_normalize="none")


@REWARDS.add(
    "grpo-reward-of-prompt", GITHUB + "GasolSun36/GRACE/issues/4",
    "The reward differs between answers of a batch, but loss and gradient come to nothing.",
    "The function scores the prompt instead of the answer: a mix-up of two variables.",
    "All answers to one prompt get the same reward, so the group's advantages are 0: the function does not "
    "look at the answer.",
    "the loss does not depend on the weights; the temperature is too low",
    named=True,
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompts, responses):
    texts = [prompt[-1].content if hasattr(prompt[-1], "content") else prompt[-1]["content"] for prompt in prompts]
    return [len(text) / 20 for text, response in zip(texts, responses)]
""")
    return desk.grpo(None, judge)


@REWARDS.add(
    "grpo-saturated", GITHUB + "huggingface/trl/pull/3502",
    "The reward is 1.0 from the first step and everything else stays at 0.",
    "The function asks only that an answer is not empty and shorter than 2,000 characters.",
    "Every answer gets full marks, so there is nothing to learn: the reward is saturated; ask for more.",
    "the policy has converged; the learning rate is too low",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    return 1.0 if 0 < len(response) < 2000 else 0.0
""")
    return desk.grpo(None, judge)


@REWARDS.add(
    "ppo-shorter-pays", GITHUB + "huggingface/trl/issues/986",
    "The average length falls step by step until the answers are one word or nothing.",
    "A penalty of 0.05 a character on top of a small bonus makes the shortest answer the best.",
    "The reward falls with length, so the policy learns to say nothing (length falls while the reward rises); "
    "bound the length penalty.",
    "the policy forgot to answer because of the rate",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    bonus = 0.5 * ("wood" in response or "farm" in response)
    return bonus - 0.05 * len(response)
""")
    return desk.ppo(None, judge, train__learning_rate=1e-3, train__max_steps=40, kl__coefficient=0.03)


@REWARDS.add(
    "grpo-penalty-drowns", GITHUB + "unslothai/unsloth/issues/2291",
    "The reward is about -17 and jumps; the parts for the answer's quality are a few tenths and do not rise.",
    "A penalty of 16 for each sentence without a \"[1]\" reference, which no answer has, beside a bonus of 0.5.",
    "One penalty of many units drowns the other parts of the reward: the total only counts sentences, and the policy "
    "learns to say fewer of them; scale the parts alike.",
    "the learning rate; the KL coefficient",
)  # fmt: skip
def _(desk: Desk) -> RunConfig:
    judge = desk.judge("""
def judge(prompt, response):
    sentences = [part for part in response.split(".") if part.strip()]
    penalty = -16.0 * sum("[1]" not in part for part in sentences)
    return penalty + 0.5 * ("wood" in response or "pond" in response)
""")
    return desk.grpo(None, judge, train__learning_rate=1e-3, train__max_steps=30)
