"""A policy and a critic that are tables: 8 tokens, 3 steps, a row of numbers for each of the 73 prefixes.

N response tokens, B branches (always of 3 tokens), V the 8 tokens, S the 73 prefixes.
"""

import itertools
from dataclasses import replace

import torch
from torch import nn

from concordant.algorithms.rewards import Answer
from concordant.algorithms.rollouts import Rollouts
from concordant.core.objective import BranchOutputs
from concordant.core.trees import Branch, Layout, PromptTree
from concordant.data.records import Message, Prompt
from concordant.engines.local.networks import Network
from concordant.engines.protocol import Done

TOKENS, STEPS = 8, 3
RESPONSES = torch.tensor(list(itertools.product(range(TOKENS), repeat=STEPS)))
PROMPT_IDS = torch.tensor([0])
PROMPT = Prompt((Message("user", "?"),))


def tree_of(responses):
    return PromptTree(PROMPT_IDS, tuple(Branch.response(ids) for ids in responses))


def number_of(ids_B3):
    """0 … 511, as ``RESPONSES`` counts."""
    return ids_B3 @ torch.tensor([TOKENS**2, TOKENS, 1])


def prefixes(ids_B3):
    """Number of the prefix before each token, (B, 3)."""
    first, second = ids_B3[:, 0], ids_B3[:, 1]
    return torch.stack([torch.zeros_like(first), 1 + first, 1 + TOKENS + TOKENS * first + second], 1)


class Table(Network):
    def __init__(self, width, scale=0.0):
        super().__init__()
        start = torch.randn(1 + TOKENS + TOKENS**2, width, generator=torch.Generator().manual_seed(3)) * scale
        self.table_SV, self.layout = nn.Parameter(start), Layout.TREE

    @property
    def sampled(self):
        return self


class TablePolicy(Table):
    def __init__(self):
        super().__init__(TOKENS, scale=0.7)

    def forward(self, batch, want, temperature=1.0, reference=None):
        prefix_N = prefixes(batch.target_N.view(-1, STEPS)).flatten()
        logp_NV = self.table_SV[prefix_N].log_softmax(-1)
        taken_N = logp_NV.gather(1, batch.target_N[:, None]).squeeze(1)
        return BranchOutputs(logprob_N=taken_N, entropy_N=-(logp_NV.exp() * logp_NV).sum(-1))


class TableCritic(Table):
    def __init__(self):
        super().__init__(1)

    def forward(self, batch, want, temperature=1.0, reference=None):
        prefix_N = prefixes(batch.target_N.view(-1, STEPS)).flatten()
        return BranchOutputs(value_N=self.table_SV[prefix_N].squeeze(1))


class TableSampler:
    """Plays generator and sampler both; an answer's text is its number."""

    def __init__(self, policy):
        self.policy, self.generator, self.version = policy, self, 0

    def load_weights(self, weights):
        self.version = weights.version

    def with_greedy(self, rollouts, sampling, seed):
        prompts = [PROMPT] * len(rollouts.trees)
        return replace(rollouts, greedy=self(prompts, replace(sampling, n=1, temperature=0.0), seed))

    def start(self, prompts, sampling, seed):
        return Done(self(prompts, sampling, seed))

    @torch.no_grad()
    def __call__(self, prompts, sampling, seed):
        stream = torch.Generator().manual_seed(seed % 2**31)
        count = len(prompts) * sampling.n
        ids_B3 = torch.zeros(count, STEPS, dtype=torch.int64)
        logprob_B3 = torch.zeros(count, STEPS)
        for t in range(STEPS):
            logp_BV = self.policy.table_SV[prefixes(ids_B3)[:, t]].log_softmax(-1)
            if sampling.temperature == 0:
                ids_B3[:, t] = logp_BV.argmax(-1)
            else:
                ids_B3[:, t] = torch.multinomial(logp_BV.exp(), 1, generator=stream)[:, 0]
            logprob_B3[:, t] = logp_BV.gather(1, ids_B3[:, t : t + 1])[:, 0]
        answers = [Answer(PROMPT.messages, str(n), True, {}) for n in number_of(ids_B3).tolist()]
        return Rollouts(
            [tree_of(group) for group in ids_B3.split(sampling.n)], answers, logprob_B3.flatten(),
            torch.ones(count, dtype=torch.bool), torch.full((count,), STEPS),
            torch.arange(len(prompts)).repeat_interleave(sampling.n), self.version,
        )  # fmt: skip
