"""Answers sampled from a policy, with the numbers that PPO needs. Tokens and branches have the order of the trees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from concordant.algorithms.rewards import Answer, Scores
from concordant.config.sampling import SamplingConfig
from concordant.core.masked import sum_by_branch
from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Prompt
from concordant.engines.protocol import Completion, Done, Future, Generator
from concordant.training.progress import current


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Trees of sampled branches. A tree holds one group: all responses of one prompt."""

    trees: list[PromptTree]
    answers: list[Answer]  # B
    sampler_logprob_N: Tensor  # nats, as the sampler computed them, in the distribution that was sampled from
    ended_B: Tensor  # bool, True where an end token or a stop string ended the answer
    length_B: Tensor  # int64 response tokens, end token included
    group_B: Tensor  # int64 number of the tree
    version: int  # optimizer steps the policy had taken when it sampled
    end_ids: tuple[int, ...] = ()  # tokens that end a response
    scores: Scores | None = None  # of the answers, where sampling has asked for them already
    greedy: Rollouts | None = None  # the most likely answer to each prompt, where an advantage compares with it
    counts: dict[str, float] = field(default_factory=dict)  # by metric: what sampling did beside this

    def token_slice(self) -> list[tuple[int, int]]:
        """(start, stop) of the response tokens of every tree."""
        ends_B = self.length_B.cumsum(0).tolist()
        spans, branch, start = [], 0, 0
        for tree in self.trees:
            branch += len(tree.branches)
            spans.append((start, ends_B[branch - 1]))
            start = ends_B[branch - 1]
        return spans

    def branch_slice(self) -> list[tuple[int, int]]:
        """(start, stop) of the branches of every tree."""
        stops = list(accumulate(len(tree.branches) for tree in self.trees))
        return list(zip([0, *stops], stops, strict=False))

    def by_branch(self, x_N: Tensor) -> Tensor:
        """The sum of ``x_N`` over each response's tokens, (B,)."""
        return sum_by_branch(x_N, self.length_B)


Groups = list[list[Completion]]  # of each prompt


@dataclass(frozen=True, slots=True)
class Spoken:
    """One answer to a prompt, and the numbers of its tokens."""

    branch: Branch
    logprob_T: Tensor  # nats, of the branch's response tokens, as the sampler computed them
    answer: Answer
    version: int


@dataclass(frozen=True, slots=True)
class Started:
    """Rollouts that are being sampled, perhaps on other machines."""

    sampler: Sampler
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    seed: int
    groups: Future[Groups]
    prompt_ids: Sequence[Tensor]

    def result(self) -> Rollouts:
        """Wait for the completions."""
        spoken = self.sampler.spoken(self.prompts, self.prompt_ids, self.groups.result(), self.sampling, self.seed)
        return rollouts_of(self.prompt_ids, spoken, self.sampler.encoder.end_ids)


class Sampler:
    """Makes rollouts from prompts, for PPO, best-of-n, probes and evaluation.

    Prompt and response together have at most ``encoder.limits.total`` tokens, because the model reads no more.
    """

    def __init__(self, generator: Generator, encoder: ChatEncoder) -> None:
        self.generator, self.encoder = generator, encoder
        self._said = False  # whether the user was told that some responses have fewer tokens than asked for

    def __call__(self, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: int) -> Rollouts:
        return self.start(prompts, sampling, seed).result()

    def start(self, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: int) -> Started:
        """Start to sample, with the generator's present weights."""
        prompt_ids = self.prompt_ids(prompts, sampling.max_new_tokens)
        return Started(self, prompts, sampling, seed, self.generator.generate(prompt_ids, sampling, seed), prompt_ids)

    def spoken(
        self,
        prompts: Sequence[Prompt],
        prompt_ids: Sequence[Tensor],
        groups: Sequence[Sequence[Completion]],
        sampling: SamplingConfig,
        seed: int,
    ) -> list[list[Spoken]]:
        """The answers of ``groups``, the completions of each prompt, which were sampled with ``seed``."""
        return [
            [Spoken(Branch.response(c.ids_T), c.logprob_T, self._answer(prompt, c, sampling), c.version) for c in group]
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def _answer(self, prompt: Prompt, c: Completion, sampling: SamplingConfig) -> Answer:
        return Answer(prompt.messages, self.text(c.ids_T, sampling), c.ended, prompt.extra, prompt.tools)

    def restart(self, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: int, groups: Groups) -> Started:
        """What ``start`` returned for these prompts, once ``groups`` have been sampled."""
        return Started(self, prompts, sampling, seed, Done(groups), self.prompt_ids(prompts, sampling.max_new_tokens))

    def with_greedy(self, rollouts: Rollouts, sampling: SamplingConfig, seed: int) -> Rollouts:
        """``rollouts`` with the most likely answer to each of their prompts."""
        firsts = [rollouts.answers[start] for start, _ in rollouts.branch_slice()]
        prompts = [Prompt(a.prompt, extra=a.extra, tools=a.tools) for a in firsts]
        likely = replace(sampling, n=1, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
        return replace(rollouts, greedy=self(prompts, likely, seed))

    def text(self, ids_T: Tensor, sampling: SamplingConfig) -> str:
        """The text of a response, or of its first tokens."""
        return self.encoder.text(ids_T, sampling.stop_strings)

    def prompt_ids(self, prompts: Sequence[Prompt], new_tokens: int) -> list[Tensor]:
        """The prompts' ids, cut to leave room for ``new_tokens``, or for half of the model's tokens if that is less."""
        total, limits = self.encoder.limits.total, self.encoder.limits
        encoder = copy.copy(self.encoder)
        encoder.limits = replace(limits, prompt=min(limits.prompt, total - min(new_tokens, total // 2)))
        prompt_ids = encoder.prompts([p.messages for p in prompts], [p.tools for p in prompts])
        short = sum(len(ids) + new_tokens > total for ids in prompt_ids)
        if short and not self._said:
            self._said = True
            current().message(
                f"the model reads {total:,} tokens: {short:,} of {len(prompt_ids):,} prompts leave a response fewer "
                f"than the {new_tokens:,} tokens that were asked for"
            )
        return prompt_ids


def rollouts_of(prompt_ids: Sequence[Tensor], groups: Sequence[Sequence[Spoken]], end_ids: tuple[int, ...]) -> Rollouts:
    """The rollouts of the answers to each prompt."""
    flat = [spoken for group in groups for spoken in group]
    trees = [PromptTree(ids, tuple(s.branch for s in group)) for ids, group in zip(prompt_ids, groups, strict=True)]
    return Rollouts(
        trees,
        [s.answer for s in flat],
        torch.cat([s.logprob_T for s in flat]),
        torch.tensor([s.answer.ended for s in flat]),
        torch.tensor([s.branch.response_length for s in flat]),
        torch.tensor([g for g, group in enumerate(groups) for _ in group]),
        flat[0].version,
        end_ids,
    )
