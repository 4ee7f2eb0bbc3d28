"""How good a trained model truly is, by a measure that no rule of the doctor uses.

Policies of DPO and PPO answer held-out prompts of toytalk, and the gold judge scores the answers. A policy of SFT may
be too young to answer at all, so it is measured by the nats that it gives to good held-out answers. A reward model is
measured by the share of held-out pairs that it ranks as the gold judge does. Every value is a mean over one prompt,
higher is better, and the prompts and their order are always the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.doctor_world import model
from concordant.config.data import DataConfig
from concordant.config.sampling import SamplingConfig
from concordant.core.masked import sum_by_branch
from concordant.core.objective import Outputs
from concordant.core.seeding import derive
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Prompt
from concordant.data.toytalk import gold_score
from concordant.data.toytalk.generate import heldout_pairs
from concordant.engines import roles
from concordant.engines.reward_model import RewardModel
from concordant.models.load import Policy
from concordant.stages import common

LONGEST = 110  # characters of an answer, as in the small world
SAMPLING = SamplingConfig(n=2, max_new_tokens=48, slots=128)
MEASURES = {"sft": "nats of good answers", "reward": "clean accuracy", "dpo": "gold", "ppo": "gold"}
ERRORS = 2.0  # standard errors of the mean that a difference must have to count


@dataclass(frozen=True, slots=True)
class Ruler:
    """Held-out prompts with their answers, better ones first."""

    prompts: Sequence[tuple[Message, ...]]
    pairs: Sequence[Sequence[tuple[str, str]]]  # of each prompt: (better, worse) by the gold judge

    @classmethod
    def make(cls, prompts: int = 0) -> Ruler:
        """All held-out prompts of one message whose answers are short, or the first ``prompts`` of them."""
        found: dict[tuple[Message, ...], list[tuple[str, str]]] = {}
        for pair in heldout_pairs("demo", 0):
            is_short = max(len(pair.chosen), len(pair.rejected)) <= LONGEST
            gold = [gold_score(pair.prompt, text) for text in (pair.chosen, pair.rejected)]
            if len(pair.prompt) == 1 and is_short and gold[0] != gold[1]:
                texts = (pair.chosen, pair.rejected) if gold[0] > gold[1] else (pair.rejected, pair.chosen)
                found.setdefault(pair.prompt, []).append(texts)
        kept = list(found)[: prompts or len(found)]
        return cls(kept, [found[prompt] for prompt in kept])

    def measure(self, stage: str, folder: Path) -> list[float]:
        """The quality of the model in ``folder``, a value a prompt."""
        if stage == "reward":
            return self._accuracy(RewardModel.from_pretrained(folder))
        policy = roles.open_policy(model(folder), [])
        encoder = ChatEncoder(policy.tokenizer, common.limits_of(DataConfig(), policy))
        return self._nats(policy, encoder) if stage == "sft" else self._gold(policy, encoder)

    def _accuracy(self, reward_model: RewardModel) -> list[float]:
        texts = [[text for pair in pairs for text in pair] for pairs in self.pairs]
        scores = reward_model.score_responses(self.prompts, texts)
        return [mean([float(a > b) for a, b in zip(row[::2], row[1::2], strict=True)]) for row in scores]

    def _nats(self, policy: Policy, encoder: ChatEncoder) -> list[float]:
        """Minus the nats of all tokens of one good answer, so that other tokenizers can be compared."""
        trees = encoder.trees(self.prompts, [[pairs[0][0]] for pairs in self.pairs]).trees
        scorer = roles.policy_scorer(policy, model(policy.name))
        logprob_N = scorer.forward(trees, Outputs(logprob=True)).result().logprob_N
        assert logprob_N is not None and len(trees) == len(self.prompts)
        lengths = [b.response_length for tree in trees for b in tree.branches]
        return [float(x) for x in sum_by_branch(logprob_N, logprob_N.new_tensor(lengths).long())]

    def _gold(self, policy: Policy, encoder: ChatEncoder) -> list[float]:
        sampler = common.sampler_of(policy, encoder, model(policy.name))
        rollouts = sampler([Prompt(p) for p in self.prompts], SAMPLING, derive(0, "bench/doctor_cures"))
        gold = [gold_score(answer.prompt, answer.response) for answer in rollouts.answers]
        return [mean(gold[i : i + SAMPLING.n]) for i in range(0, len(gold), SAMPLING.n)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def compared(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """The mean difference, after minus before, over the same prompts, and its standard error."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    middle = mean(differences)
    variance = sum((d - middle) ** 2 for d in differences) / max(1, len(differences) - 1)
    return middle, math.sqrt(variance / len(differences))


def verdict(before: Sequence[float], after: Sequence[float]) -> str:
    """``better`` or ``worse`` by more than two standard errors, else ``equal``. What is not finite is the worst."""
    if not all(map(math.isfinite, after)):
        return "equal" if not all(map(math.isfinite, before)) else "worse"
    if not all(map(math.isfinite, before)):
        return "better"
    difference, error = compared(before, after)
    if abs(difference) <= ERRORS * error or difference == 0:
        return "equal"
    return "better" if difference > 0 else "worse"
