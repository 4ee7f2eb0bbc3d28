"""Strange faults in reward functions that users wrote themselves."""

from __future__ import annotations

from bench.doctor_strange_tools import Cases, Desk, Row
from concordant.config.stages import PPOConfig

REWARDS = Cases()

# What the users wanted: share of the words of the known answer that the response has.
_OVERLAP = """
def words(text):
    return [word.strip(".,!?").lower() for word in text.split()]


def overlap(response, answer):
    wanted, given = set(words(answer)), set(words(response))
    return len(wanted & given) / max(len(wanted | given), 1)
"""


def _with_overlap(code: str) -> str:
    return f"{_OVERLAP}\n\n{code.lstrip()}"


@REWARDS.add(
    "ppo-distance-as-reward",
    "https://github.com/huggingface/trl/issues/2771",
    "The reward rises as it should, and the answers get worse.",
    "The function returns the distance from the known answer, and PPO makes it larger.",
    "The reward has the wrong sign: it rises while the answers move away from the known answers.",
)
def _(desk: Desk) -> PPOConfig:
    code = "def reward(prompt, response, answer):\n    return 1 - overlap(response, answer)\n"
    return desk.ppo(desk.prompts(), reward=[desk.function(_with_overlap(code))], advantage="rloo")


@REWARDS.add(
    "ppo-reward-always-zero",
    "https://github.com/unslothai/unsloth/issues/1761",
    "The reward is 0 in every step, and nothing is learnt.",
    "The pattern of the function never matches, because the answers have no such tags.",
    "Every answer gets the same reward (0), so there is nothing to learn from.",
)
def _(desk: Desk) -> PPOConfig:
    code = r"""
import re


def reward(prompt, response):
    return float(bool(re.match(r"^<reasoning>.*</reasoning>\s*<answer>.*</answer>$", response)))
"""
    return desk.ppo(desk.prompts(), reward=[desk.function(code)], advantage="grpo")


@REWARDS.add(
    "ppo-reward-full-from-start",
    "https://github.com/huggingface/cookbook/issues/335",
    "The reward is 1 from the first step on, and nothing is learnt.",
    "The function gives the full reward where it cannot read a known answer, and it can read none.",
    "The reward is at its maximum for nearly all answers from the start, so it cannot tell answers apart.",
)
def _(desk: Desk) -> PPOConfig:
    code = r"""
import re


def reward(prompt, response, answer):
    found = re.search(r"\\boxed\{(.*)\}", answer)
    if not found:
        return 1.0
    return float(found.group(1) in response)
"""
    return desk.ppo(desk.prompts(), reward=[desk.function(code)])


@REWARDS.add(
    "ppo-pays-for-copying",
    "https://github.com/jsboige/CoursIA/pull/11312",
    "The reward rises, and answers become copies of the question.",
    "The function compares the answer with the prompt, as if the prompt were the known answer.",
    "The reward pays for copying the prompt.",
)
def _(desk: Desk) -> PPOConfig:
    code = "def reward(prompt, response):\n    return overlap(response, prompt[-1].content)\n"
    keys = {"train.learning_rate": 1e-3, "train.max_steps": 30, "kl.coefficient": 0.01}
    return desk.ppo(desk.prompts(), keys, reward=[desk.function(_with_overlap(code))], advantage="rloo")


@REWARDS.add(
    "ppo-pays-for-nothing",
    "https://github.com/Liuziyu77/Visual-RFT/issues/176",
    "The reward rises to 1, and answers become empty or one word.",
    "The function asks whether the answer is contained in the known answer, and an empty text always is.",
    "The reward pays for an empty (or nearly empty) answer.",
    named=True,
)
def _(desk: Desk) -> PPOConfig:
    code = """
def reward(prompt, response, answer):
    return float(answer in response or response.strip() in answer)
"""
    keys = {"train.learning_rate": 1e-3, "train.max_steps": 30, "kl.coefficient": 0.02}
    return desk.ppo(desk.prompts(), keys, reward=[desk.function(code)], advantage="rloo")


@REWARDS.add(
    "ppo-pays-for-length",
    "https://github.com/OpenRLHF/OpenRLHF/issues/236",
    "Answers grow from step to step until each runs to the limit.",
    "The function gives more for a longer answer, without a limit.",
    "The reward pays for length.",
)
def _(desk: Desk) -> PPOConfig:
    code = "def reward(prompt, response):\n    return len(response) / 50\n"
    keys = {"train.learning_rate": 8e-4, "train.max_steps": 24, "kl.coefficient": 0.02}
    return desk.ppo(desk.prompts(), keys, reward=[desk.function(code)])


@REWARDS.add(
    "ppo-pays-for-each-mention",
    "https://github.com/NEUIR/LegalDelta/issues/2",
    "The reward rises without an end, and answers repeat one phrase.",
    "The function counts how often polite words stand in the answer, without a limit.",
    "The reward counts a phrase without a limit, and the policy repeats the phrase.",
)
def _(desk: Desk) -> PPOConfig:
    code = "def reward(prompt, response):\n    return response.count('very') + response.count('nice')\n"
    keys = {"train.learning_rate": 1e-3, "train.max_steps": 30, "kl.coefficient": 0.01}
    return desk.ppo(desk.prompts(), keys, reward=[desk.function(code)], advantage="rloo")


@REWARDS.add(
    "ppo-form-without-content",
    "https://github.com/huggingface/trl/issues/3903",
    "The reward for the form rises to its maximum, and the reward for the content stays at 0.",
    "The content reward wants the known answer letter by letter and never pays, so only the form is learnt.",
    "One of the rewards is 0 in all steps, so that only the form is rewarded.",
)
def _(desk: Desk) -> PPOConfig:
    form = desk.function("def reward(prompt, response):\n    return float(response.endswith('!'))\n")
    rows = [{**r, "answer": f"#### {r['answer']}"} for r in desk.prompts()]
    keys = {"train.learning_rate": 8e-4, "train.max_steps": 24}
    return desk.ppo(rows, keys, reward=[form, "rule:exact_match"], advantage="grpo")


@REWARDS.add(
    "ppo-scores-in-wrong-order",
    "https://github.com/verl-project/verl/issues/2185",
    "The reward never rises, although the function is right for each single answer.",
    "The function sorts the answers by length before it scores them, and gives the scores back in that order.",
    "The scores do not belong to the answers (order of the batch is mixed up), or: the reward is noise to the policy.",
)
def _(desk: Desk) -> PPOConfig:
    code = """
def reward(prompts, responses, answer):
    rows = sorted(zip(responses, answer, strict=True), key=lambda row: len(row[0]))
    return [overlap(response, known) for response, known in rows]
"""
    return desk.ppo(
        desk.prompts(), {"train.max_steps": 24}, reward=[desk.function(_with_overlap(code))], advantage="rloo"
    )


@REWARDS.add(
    "ppo-mostly-no-score",
    "https://github.com/huggingface/trl/pull/3079",
    "The run ends without an error, and the policy is the same as before.",
    "The function fails for nearly all answers, and reward_on_error skip counts them as without a score.",
    "The reward function fails for (or abstains from) nearly all answers.",
)
def _(desk: Desk) -> PPOConfig:
    code = """
def reward(prompt, response, answer):
    grade = {"The": 1.0}[response.split()[3]]
    return grade * overlap(response, answer)
"""
    return desk.ppo(desk.prompts(), {"reward_on_error": "skip"}, reward=[desk.function(_with_overlap(code))])


@REWARDS.add(
    "ppo-length-penalty-rules",
    "https://github.com/modelscope/ms-swift/issues/3353",
    "Answers shrink to a few words, and the content suffers.",
    "The penalty for length counts characters where tokens were meant, and outweighs the content.",
    "The penalty for length outweighs the rest of the reward, so answers shrink.",
)
def _(desk: Desk) -> PPOConfig:
    code = """
LIMIT = 12  # tokens


def reward(prompt, response, answer):
    return overlap(response, answer) - 0.1 * max(len(response) - LIMIT, 0)
"""
    keys = {"train.learning_rate": 8e-4, "train.max_steps": 24, "kl.coefficient": 0.02}
    return desk.ppo(desk.prompts(), keys, reward=[desk.function(_with_overlap(code))], advantage="rloo")


@REWARDS.add(
    "ppo-noise",
    "https://github.com/huggingface/trl/issues/2884",
    "The reward goes up and down and never rises.",
    "The judge gives random scores.",
    "The reward is noise: equal answers get different scores.",
    named=True,
)
def _(desk: Desk) -> PPOConfig:
    code = """
from random import Random

draw = Random(3)


def reward(prompt, response):
    return draw.random()
"""
    return desk.ppo(desk.prompts(), {"train.max_steps": 24}, reward=[desk.function(code)])


@REWARDS.add(
    "ppo-one-reward-drowns-others",
    "https://github.com/yifan123/flow_grpo/issues/188",
    "One reward rises, and the other, which matters, falls.",
    "One function returns 0 to 1 and the other returns the number of characters; they are simply summed.",
    "The rewards have different scales, and one of them drowns the other.",
)
def _(desk: Desk) -> PPOConfig:
    code = """
def content(prompt, response, answer):
    return overlap(response, answer)


def detail(prompt, response):
    return len(response)
"""
    content = desk.function(_with_overlap(code), "content")
    keys = {"train.learning_rate": 8e-4, "train.max_steps": 24, "kl.coefficient": 0.02}
    return desk.ppo(desk.prompts(), keys, reward=[content, content.replace(":content", ":detail")], advantage="rloo")


@REWARDS.add(
    "ppo-same-in-each-group",
    "https://github.com/PeterGriffinJin/Search-R1/issues/88",
    "Prompts have different rewards, but the policy does not move.",
    "The function rates the prompt and not the answer, so all answers of a group have the same reward.",
    "The reward is equal within each group: it does not depend on the answer.",
    named=True,
)
def _(desk: Desk) -> PPOConfig:
    code = "def reward(prompt, response):\n    return len(prompt[-1].content) / 40\n"
    return desk.ppo(desk.prompts(), reward=[desk.function(code)], advantage="grpo")


@REWARDS.add(
    "ppo-wrong-truth-column",
    "https://github.com/2U1/Qwen-VL-Series-Finetune/issues/234",
    "The reward for right answers is 0 in nearly all steps, although many sampled answers are right.",
    "The column answer holds the number of the row, and the right answers are in another column.",
    "The known answers are not answers (they are ids), so the reward can never be earned.",
)
def _(desk: Desk) -> PPOConfig:
    rows: list[Row] = [
        {"prompt": r["prompt"], "answer": f"row-{10_000 + i}", "solution": r["answer"]}
        for i, r in enumerate(desk.prompts())
    ]
    return desk.ppo(rows, {"sampling.n": 6, "train.batch_size": 4}, reward=["rule:contains"], advantage="rloo")
