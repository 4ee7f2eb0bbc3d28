"""A trial of PPO's reward before the first step: what it pays for answers whose worth is known.

The data's own answers should get more than answers to other prompts, and a function should not pay more for an empty
answer or for a copy of the prompt. Each answer is scored as a step scores its answers, some of them a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev

import torch

from concordant.algorithms.evidence import correlation
from concordant.algorithms.reward_functions import FunctionReward
from concordant.algorithms.rewards import Answer, Reward, Scores, WeightedSum
from concordant.config.data import DataConfig
from concordant.core.errors import RunFailed, UserError
from concordant.data.carried import TRUTHS, Wanted
from concordant.data.convert import answers_of, prompt_of
from concordant.data.records import Pair, Prompt, Record
from concordant.data.splits import load_all
from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding
from concordant.doctor.looked_at import spread

FEW = 12  # prompts with known answers, at least
MODEL, FUNCTION = 128, 16  # prompts that a reward model, and that a function, is asked about: a judge may cost money
LARGEST = 2**26  # bytes of a file that is read again for its answers


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt with an answer that should be good, and with one that should be worse."""

    prompt: Prompt
    good: str
    worse: str
    is_pair: bool  # ``worse`` is the rejected answer, and not the answer to another prompt
    is_answer: bool = True  # ``good`` is a whole answer, and not only the truth that an answer should hold

    def answer(self, text: str) -> Answer:
        return Answer(self.prompt.messages, text, True, dict(self.prompt.extra), self.prompt.tools)

    @property
    def copy(self) -> str:
        return self.prompt.messages[-1].content


@dataclass(frozen=True, slots=True)
class Trial:
    """Scores of the same prompts' answers, by kind, and what each axis gave."""

    known: Sequence[Known]
    total: Mapping[str, Sequence[float]]  # by kind: good, worse, empty, copy; turned: ``good`` once more, turned round
    scores: Scores

    def share(self, kind: str, than: str, ties: float = 0.5) -> float:
        """The share of prompts whose answer of this kind gets more than the other; a tie counts ``ties``."""
        both = zip(self.total[kind], self.total[than], strict=True)
        return fmean((a > b) + ties * (a == b) for a, b in both)

    @property
    def spread(self) -> float:
        return pstdev([*self.total["good"], *self.total["worse"]])


def check_reward(reward: Reward, known: Sequence[Known]) -> list[Finding]:
    """All findings about the reward. Without known answers in the data there is nothing to try."""
    is_function = any(isinstance(axis, FunctionReward) for axis in reward.axes.values())
    count = FUNCTION if is_function else MODEL
    known = spread(known, count)
    if len(known) < FEW:
        return []
    try:
        trial = tried(reward, known)
    except (UserError, RunFailed):  # a function that fails on such an answer says so when the policy gives one
        return []
    if abstains := reward_abstains(trial):
        return [abstains]
    checks = [reward_random(reward, trial), one_reward_rules(reward, trial)]
    checks += [reward_of_length(trial)] if is_function else []
    checks += [reward_reversed(trial, is_function)]
    checks += [answers_empty(trial), copying_hacking(trial)] if is_function else []
    return [finding for finding in checks if finding is not None][:1]  # the first explains the others


def known_answers(prompts: Sequence[Prompt], data: DataConfig) -> list[Known]:
    """From the column with the truth, or from the answers of the data's file."""
    if truths := _truths(prompts):
        return _turned(truths, are_answers=False)
    by_messages = {prompt.messages: prompt for prompt in prompts}
    records = [record for record in _records(data) if prompt_of(record) in by_messages]
    pairs = [Known(by_messages[r.prompt], r.chosen, r.rejected, True) for r in records if isinstance(r, Pair)]
    own = [(by_messages[prompt_of(r)], text) for r in records for text in answers_of(r)[:1]]
    return pairs or _turned(own) or _turned(_truths([r for r in records if isinstance(r, Prompt)]), are_answers=False)


def _truths(prompts: Sequence[Prompt]) -> list[tuple[Prompt, str]]:
    given = ((p, next((str(p.extra[n]) for n in TRUTHS if isinstance(p.extra.get(n), str)), "")) for p in prompts)
    return [(prompt, text) for prompt, text in given if text]


def _turned(own: Sequence[tuple[Prompt, str]], are_answers: bool = True) -> list[Known]:
    """Each prompt with its answer and with that of the next one, where the two differ."""
    both = zip(own, [*own[1:], *own[:1]], strict=True)
    return [Known(p, text, other, False, are_answers) for (p, text), (_, other) in both if text != other]


def _records(data: DataConfig) -> Sequence[Record]:
    """The training records of a file that is not too large to be read again."""
    path = Path(data.path)
    if not path.is_file() or path.stat().st_size > LARGEST:
        return []
    try:
        return load_all(data, seed=0, wanted=Wanted(frozenset(TRUTHS))).train
    except UserError:
        return []


def tried(reward: Reward, known: Sequence[Known]) -> Trial:
    kinds = {
        "good": [k.answer(k.good) for k in known],
        "worse": [k.answer(k.worse) for k in known],
        "empty": [k.answer("") for k in known],
        "copy": [k.answer(k.copy) for k in known],
    }
    scores = reward([answer for answers in kinds.values() for answer in answers]).result()
    n = len(known)
    total = {kind: scores.total[i * n : (i + 1) * n] for i, kind in enumerate(kinds)}
    again = reward([*reversed(kinds["good"]), *reversed(kinds["worse"])]).result().total
    return Trial(known, total | {"turned": again[:n][::-1]}, scores)


def reward_abstains(trial: Trial) -> Finding | None:
    """Does the reward give no score to most of the data's own answers?"""
    n = len(trial.known)
    shares = {axis: fmean(score is None for score in given[: 2 * n]) for axis, given in trial.scores.given.items()}
    axis, share = max(shares.items(), key=lambda item: item[1])
    if share < limits("reward_abstains")["share"]:
        return None
    return Finding(
        "reward_abstains", "error",
        f"{axis} gives no score to {share:.0%} of the data's own answers",
        "the function fails for them, or leaves them out: it expects another form of answer",
        "Call the function with an answer of the data and see why; set reward_on_error fail to be told at once",
        weight=0.95, numbers={"share": share},
    )  # fmt: skip


def reward_random(reward: Reward, trial: Trial) -> Finding | None:
    """Do equal answers get equal scores, alone and in another order?"""
    at = limits("reward_random")
    first, turned = trial.total["good"], trial.total["turned"]
    off = fmean(abs(a - b) for a, b in zip(first, turned, strict=True))
    if off < at["share"] * trial.spread or off == 0:
        return None
    answers = [k.answer(k.good) for k in trial.known]
    same = partial(reward, answers)
    is_noise = same().result().total != same().result().total
    return Finding(
        "reward_random", "error",
        f"the same answers to the same prompts, scored twice, differ by {off:.2g} in reward, all answers by "
        f"{trial.spread:.2g}",
        "the reward is drawn by chance, or depends on something else than prompt and answer"
        if is_noise
        else "the scores depend on the order of the answers: the function gives them back in another order than it got "
        "them, or compares the answers of a batch",
        "Make the reward a function of prompt and answer alone: no random number, no dropout, no judge that samples"
        if is_noise
        else "Give the scores back in the order of the answers, each from its own prompt and answer alone",
        weight=0.95, numbers={"off": off, "spread": trial.spread},
    )  # fmt: skip


def one_reward_rules(reward: Reward, trial: Trial) -> Finding | None:
    """Is one of several rewards so much larger than the others that these mean nothing?"""
    if len(reward.axes) < 2 or not isinstance(reward.aggregate, WeightedSum):
        return None
    n, weights = len(trial.known), reward.aggregate.weights
    deviation = {axis: abs(weights[axis]) * pstdev(column[: 2 * n]) for axis, column in trial.scores.columns.items()}
    (small, least), *_, (large, most) = sorted(deviation.items(), key=lambda item: item[1])
    if not most or least > most / limits("one_reward_rules")["times"]:
        return None
    return Finding(
        "one_reward_rules", "warning",
        f"over the data's own answers {large} differs by {most:.2g}, and {small} by {least:.2g}",
        f"the rewards have different scales, and {large} drowns {small}",
        f"Divide each reward by its deviation: --reward {large}={1 / most:.2g}"
        + (f" --reward {small}={1 / least:.2g}" if least else f", and look why {small} pays the same for every answer"),
        weight=0.93, numbers={"large": most, "small": least},
    )  # fmt: skip


def reward_of_length(trial: Trial) -> Finding | None:
    """Is the reward of the data's answers their length, or against their length?"""
    at = limits("length_hacking")
    texts = [k.good for k in trial.known] + [k.worse for k in trial.known]
    length_B = torch.tensor([float(len(text)) for text in texts])
    by_length = correlation(torch.tensor([*trial.total["good"], *trial.total["worse"]]), length_B)
    if abs(by_length) < at["before"]:
        return None
    longer = by_length > 0
    return Finding(
        "length_hacking" if longer else "shortness_hacking", "warning",
        f"over the data's own answers reward and length correlate at {by_length:+.2f}",
        "the reward pays for length" if longer else "the reward pays for short answers: a penalty of length outweighs "
        "what the answers say",
        "Let the reward stop growing at a length that is enough" if longer
        else "Lower the penalty until a good long answer gets more than a bad short one",
        weight=0.92, numbers={"correlation": by_length},
    )  # fmt: skip


def answers_empty(trial: Trial) -> Finding | None:
    at = limits("answers_empty")["pays"]
    if trial.share("empty", "good", ties=1) < at or trial.share("empty", "worse", ties=0) < at:
        return None
    return Finding(
        "answers_empty", "error",
        f"an empty answer gets {fmean(trial.total['empty']):.2g}, the data's own answers get "
        f"{fmean(trial.total['good']):.2g}",
        "the reward pays for an empty answer, or punishes every other one",
        "Give an empty answer the lowest reward",
        weight=0.93, numbers={"empty": fmean(trial.total["empty"]), "good": fmean(trial.total["good"])},
    )  # fmt: skip


def copying_hacking(trial: Trial) -> Finding | None:
    if trial.share("copy", "good", ties=0) < limits("copying_hacking")["pays"]:
        return None
    return Finding(
        "copying_hacking", "error",
        f"a copy of the prompt gets {fmean(trial.total['copy']):.2g}, the data's own answers get "
        f"{fmean(trial.total['good']):.2g}",
        "the reward pays for words of the prompt: it compares the answer with the prompt, not with the known answer",
        "Pass the known answer to the comparison, or take the prompt's words out of what the reward counts",
        weight=0.93, numbers={"copy": fmean(trial.total["copy"]), "good": fmean(trial.total["good"])},
    )  # fmt: skip


def reward_reversed(trial: Trial, is_function: bool) -> Finding | None:
    """Does the reward prefer the worse answers, or is it as good as chance?"""
    at, right, n = limits("reward_reversed"), trial.share("good", "worse"), len(trial.known)
    what = "the rejected answer" if trial.known[0].is_pair else "the answer to another prompt"
    seen = f"in {right:.0%} of {n} prompts the data's own answer gets more than {what}"
    if right < (at["accuracy"] if n > FUNCTION else at["few"]):
        return Finding(
            "reward_reversed", "error", seen,
            "the reward's sign is reversed: a distance or a cost is paid, the head was saved with the wrong sign, or "
            "the reward model learnt from swapped labels",
            "Turn the sign round: --reward SOURCE=-1, or return minus the distance",
            weight=0.94, numbers={"accuracy": right},
        )  # fmt: skip
    if is_function or right > at["chance"]:  # a function may ask for a form that no answer of the data has
        return None
    return Finding(
        "reward_at_chance", "warning", seen,
        "the reward model is as good as a coin on the data's answers: its head is new or damaged, or it was trained "
        "for other text",
        "Train it with `concordant reward` on such pairs, and look at its held-out accuracy",
        weight=0.85, numbers={"accuracy": right},
    )  # fmt: skip
