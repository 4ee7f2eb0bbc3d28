"""Evidence: cheap numbers of a batch by which the doctor tells one cause from another.

They depend on the batch alone, so a resumed run logs the same numbers.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from concordant.algorithms.rollouts import Rollouts
from concordant.core.objective import Outputs
from concordant.core.trees import Branch, PromptTree
from concordant.engines.protocol import Scorer
from concordant.evaluation.metrics import repetition, words

PHRASE = 3  # words in a phrase; phrases that many answers share are counted


def of_trees(trees: Sequence[PromptTree], end_ids: Collection[int]) -> dict[str, float]:
    """Evidence of a batch of given answers: do masks begin and end with the answers, and which examples are there?"""
    branches = [b for tree in trees for b in tree.branches]
    evidence = {
        "doctor/data/starts": _share(bool(b.is_response_T[0]) for b in branches),
        "doctor/data/ends": _share(int(b.ids_T[-1]) in end_ids for b in branches),
        "doctor/data/end_learnt": _share(bool(b.is_response_T[-1]) for b in branches),
        "doctor/data/response_share": sum(b.response_length for b in branches) / sum(len(b.ids_T) for b in branches),
        "doctor/data/prompt_tokens": sum(len(t.prompt_T) for t in trees) / len(trees),
        "doctor/data/learnt_tokens": sum(b.response_length for b in branches) / len(branches),
    }
    return evidence | examples(trees)


def of_reference(reference: Scorer) -> float:
    """The mean log-prob, in nats, that ``reference`` gives to three fixed tokens.

    The number must be the same at every step. If it changes, the doctor says that the reference is not frozen.
    """
    tree = PromptTree(torch.tensor([0]), (Branch.response([1, 2, 3]),))
    logprob_N = reference.forward([tree], Outputs(logprob=True)).result().logprob_N
    assert logprob_N is not None
    return float(logprob_N.mean())


def of_pairs(trees: Sequence[PromptTree]) -> dict[str, float]:
    """Evidence of a batch of pairs: equal answers, and how far length alone explains the labels."""
    sides = [(tree.branches[0].ids_T, tree.branches[1].ids_T) for tree in trees]
    longer = [float(len(c) > len(r)) + 0.5 * float(len(c) == len(r)) for c, r in sides]
    return {
        "doctor/data/identical": _share(torch.equal(c, r) for c, r in sides),
        "doctor/data/chosen_longer": sum(longer) / len(longer),
    }


def examples(trees: Sequence[PromptTree], prompts_only: bool = False) -> dict[str, float]:
    """Numbers that identify the examples of a batch in any order, and its first example.

    The same examples always give the same numbers.
    """
    names = [_name(tree, prompts_only) for tree in trees]
    return {
        "doctor/data/batch_id": float(sum(names) % 2**32),
        "doctor/data/first_id": float(names[0]),
        "doctor/data/duplicates": 1 - len(set(names)) / len(names),
    }


def _name(tree: PromptTree, prompts_only: bool) -> int:
    name = zlib.crc32(tree.prompt_T.numpy().tobytes())
    for branch in () if prompts_only else tree.branches:
        name = zlib.crc32(branch.ids_T.numpy().tobytes(), name)
    return name


def of_rollouts(rollouts: Rollouts, score_B: Tensor, old_N: Tensor) -> dict[str, float]:
    """Evidence of sampled answers.

    It tells whether sampler and learner agree, whether reward goes with length or repetition, and how much answers are
    alike.
    """
    gap_N = rollouts.sampler_logprob_N - old_N
    texts = [words(a.response) for a in rollouts.answers]
    prompts = [words(a.prompt[-1].content if a.prompt else "") for a in rollouts.answers]
    grams = [{tuple(w[i : i + PHRASE]) for i in range(len(w) - PHRASE + 1)} for w in texts]
    shared = Counter(gram for found in grams for gram in found)
    repeated = [repetition([a.response]) or 0.0 for a in rollouts.answers]
    return (
        {
            "doctor/rollout/logprob_gap": float(gap_N.abs().mean()),
            "doctor/rollout/logprob_bias": float(gap_N.mean()),
            "doctor/response/after_end": _after_end(rollouts),
            "doctor/response/repetition": sum(repeated) / len(repeated),
            "doctor/response/distinct": len({a.response for a in rollouts.answers}) / len(rollouts.answers),
            "doctor/response/top_phrase": max(shared.values(), default=0) / len(rollouts.answers),
            "doctor/response/empty": _share(not text for text in texts),
            "doctor/response/copies": sum(map(copied, texts, prompts)) / len(texts),
            "doctor/reward/length_correlation": correlation(score_B, rollouts.length_B.float()),
            "doctor/reward/repetition_correlation": correlation(score_B, torch.tensor(repeated)),
        }
        | examples(rollouts.trees, prompts_only=True)
        | _within_groups(rollouts, score_B)
    )


def _within_groups(rollouts: Rollouts, score_B: Tensor) -> dict[str, float]:
    """How far the rewards of answers to one prompt are apart, and those of answers that are the same word for word.

    Both are standard deviations in reward units. A number is left out where there is nothing to compare.
    """
    groups = rollouts.group_B.tolist()
    answers = [(group, a.response) for group, a in zip(groups, rollouts.answers, strict=True)]
    deviations = {
        "doctor/reward/group_std": _deviation(score_B, groups),
        "doctor/reward/same_answer": _deviation(score_B, answers),
    }
    return {name: value for name, value in deviations.items() if value is not None}


def _deviation(score_B: Tensor, names: Sequence[Hashable]) -> float | None:
    """The root of the mean variance of scores that have the same name; None where no name occurs twice."""
    places = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    several = [score_B[found] for found in places.values() if len(found) > 1]
    if not several:
        return None
    return float(torch.stack([scores.var(correction=0) for scores in several]).mean().sqrt())


def copied(answer: Sequence[str], prompt: Sequence[str]) -> float:
    """The share of the answer's sequences of three words that the prompt has too; 0 for a shorter answer."""
    known = {tuple(prompt[i : i + PHRASE]) for i in range(len(prompt) - PHRASE + 1)}
    grams = [tuple(answer[i : i + PHRASE]) for i in range(len(answer) - PHRASE + 1)]
    return sum(gram in known for gram in grams) / max(1, len(grams))


def _after_end(rollouts: Rollouts) -> float:
    """Share of the response tokens that come after an end token in their turn. It is 0 unless padding counts as
    response.
    """
    ends = torch.tensor(rollouts.end_ids, dtype=torch.int64)
    turns = [ids_T for tree in rollouts.trees for b in tree.branches for ids_T in turns_of(b)]
    first = [torch.isin(ids_T, ends).nonzero() for ids_T in turns]
    behind = [len(ids_T) - 1 - int(at[0]) for ids_T, at in zip(turns, first, strict=True) if len(at)]
    return sum(behind) / sum(len(ids_T) for ids_T in turns)


def turns_of(branch: Branch) -> list[Tensor]:
    """The ids of each turn of the policy: response tokens without another token between them."""
    if branch.is_response_T.all():
        return [branch.ids_T]
    places_T = branch.is_response_T.nonzero()[:, 0]
    starts_T = (places_T.diff() > 1).nonzero()[:, 0] + 1
    return [branch.ids_T[part_T] for part_T in places_T.tensor_split(starts_T)]


def agreement(columns_P: Sequence[Sequence[float]]) -> float:
    """Mean correlation between the parts of a reward over the same answers, taken over all pairs of parts."""
    pairs = list(combinations([torch.tensor(column) for column in columns_P], 2))
    return sum(correlation(a, b) for a, b in pairs) / len(pairs)


def correlation(x_B: Tensor, y_B: Tensor) -> float:
    """Pearson's correlation; 0 if one of them does not vary by more than rounding."""
    if is_flat(x_B) or is_flat(y_B):
        return 0.0
    x_B, y_B = x_B.double() - x_B.double().mean(), y_B.double() - y_B.double().mean()
    return float((x_B * y_B).sum() / (x_B.square().sum() * y_B.square().sum()).sqrt())


def is_flat(x_B: Tensor) -> bool:
    """Whether the numbers differ by no more than rounding."""
    spread = float(x_B.max() - x_B.min()) if len(x_B) else 0.0
    return spread <= 1e-6 * float(x_B.abs().max()) if spread else True


def explained_variance(value_N: Tensor, return_N: Tensor) -> float:
    """1 - variance of (return - value) / variance of the return: 1 is a perfect critic, 0 one that says the mean.

    0 where all returns are equal, because there is no variance to explain.
    """
    if is_flat(return_N):
        return 0.0
    return float(1 - (return_N - value_N).var(correction=0) / return_N.var(correction=0))


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return sum(listed) / len(listed)
