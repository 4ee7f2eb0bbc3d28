"""Dynamic sampling: prompts whose answers all have the same reward teach nothing, so others are put in their place.

Yu et al. 2025, 2503.14476 (DAPO) §3.2. Which prompts come instead depends on the seed, the step and the try alone, so a
resumed run draws the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from concordant.algorithms.rewards import Reward, Scores
from concordant.algorithms.rollouts import Rollouts, Sampler
from concordant.config.sampling import SamplingConfig
from concordant.core.seeding import derive, python_stream
from concordant.data.records import Prompt

Group = tuple[Rollouts, int]  # all answers to one prompt: the rollouts that hold them, and the number of their tree


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSampling:
    """Replaces prompts at most ``tries`` times a step."""

    tries: int
    sampler: Sampler
    reward: Reward
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    seed: int

    def __call__(self, rollouts: Rollouts, numbers: Sequence[int], step: int) -> Rollouts:
        """``rollouts`` of the prompts ``numbers`` with other groups where a group's rewards were all equal.

        The result has its scores. Groups for which no try found a better one stay as they are.
        """
        calls = [self._scored(rollouts)]
        groups, used = _groups(calls[0]), [*numbers]
        counts = {"dynamic_sampling/tries": 0.0, "dynamic_sampling/replaced": 0.0}
        for attempt in range(1, self.tries + 1):
            places = [place for place, group in enumerate(groups) if _is_tied(*group)]
            if not places:
                break
            new = self._others(used, len(places), step, attempt)
            used += new
            seed = derive(self.seed, "ppo/again", step, attempt)
            calls.append(self._scored(self.sampler([self.prompts[i] for i in new], self.sampling, seed)))
            useful = [group for group in _groups(calls[-1]) if not _is_tied(*group)]
            for place, group in zip(places, useful, strict=False):
                groups[place] = group
            counts["dynamic_sampling/tries"] += 1
            counts["dynamic_sampling/replaced"] += len(useful)
        return replace(together(groups, calls), counts=counts)

    def _scored(self, rollouts: Rollouts) -> Rollouts:
        return replace(rollouts, scores=self.reward(rollouts.answers).result())

    def _others(self, used: Sequence[int], count: int, step: int, attempt: int) -> list[int]:
        """The numbers of prompts that this step has not used yet, as long as there are enough of them."""
        taken = set(used)
        unused = [i for i in range(len(self.prompts)) if i not in taken]
        stream = python_stream(self.seed, "ppo/again", step, attempt)
        if len(unused) >= count:
            return stream.sample(unused, count)
        return stream.choices(range(len(self.prompts)), k=count)


def _groups(rollouts: Rollouts) -> list[Group]:
    return [(rollouts, number) for number in range(len(rollouts.trees))]


def _is_tied(rollouts: Rollouts, number: int) -> bool:
    """Whether all answers of this tree that have a score have the same one."""
    assert rollouts.scores is not None
    rows = range(*rollouts.branch_slice()[number])
    return len({rollouts.scores.total[i] for i in rows if rollouts.scores.scored[i]}) < 2


def together(groups: Sequence[Group], calls: Sequence[Rollouts] = ()) -> Rollouts:
    """Rollouts of these groups, in this order.

    A field whose name ends in _N has a number for each response token, one in _B for each branch. Errors of a reward
    and missing scores are counted over all ``calls``, also where an answer was replaced.
    """
    spans = {id(r): (r.branch_slice(), r.token_slice()) for r, _ in groups}

    def of(name: str) -> Any:
        parts = [(getattr(r, name), *(spans[id(r)][k][g] for k in (0, 1))) for r, g in groups]
        if name.endswith("_N"):
            return torch.cat([values[slice(*tokens)] for values, _, tokens in parts])
        return torch.cat([values[slice(*branches)] for values, branches, _ in parts])

    first = groups[0][0]
    changed = {f.name: of(f.name) for f in fields(Rollouts) if f.name.endswith(("_N", "_B"))}
    changed["group_B"] = torch.tensor([i for i, (r, g) in enumerate(groups) for _ in r.trees[g].branches])
    rows = [(r, i) for r, g in groups for i in range(*spans[id(r)][0][g])]
    scores = _scores([(r.scores, i) for r, i in rows if r.scores is not None], [r.scores for r in calls if r.scores])
    trees, answers = [r.trees[g] for r, g in groups], [r.answers[i] for r, i in rows]
    return replace(first, trees=trees, answers=answers, scores=scores, **changed)


def _scores(rows: Sequence[tuple[Scores, int]], calls: Sequence[Scores]) -> Scores | None:
    if not rows:
        return None
    first = rows[0][0]
    return Scores(
        given={name: [s.given[name][i] for s, i in rows] for name in first.given},
        columns={name: [s.columns[name][i] for s, i in rows] for name in first.columns},
        total=[s.total[i] for s, i in rows],
        abstained=sum(s.abstained for s in calls),
        errors=sum(s.errors for s in calls),
        parts={name: [s.parts[name][i] for s, i in rows] for name in first.parts},
    )
