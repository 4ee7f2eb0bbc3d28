"""Ways to make data sick, as ``doctor_plant`` does runs: masks, ends, labels, the order of the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

import torch

from concordant.algorithms import ppo, sft, supervised
from concordant.core.trees import Branch, PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Pair

Plant = Callable[[], Any]  # gives a context manager
OfTree = Callable[[PromptTree, Random], PromptTree]


# -- trees: masks, ends, labels -------------------------------------------------------------------


def trees(change: OfTree, train_only: bool = False) -> Plant:
    """Every tree made from given answers is changed; ``train_only``: those of the first encoding alone."""

    @contextmanager
    def plant() -> Iterator[None]:
        random, seen = Random(0), [0]

        def broken(name: str) -> Callable[..., Any]:
            real = getattr(ChatEncoder, name)

            def encode(self: ChatEncoder, records: Sequence[Any]) -> Any:
                encoded = real(self, records)
                seen[0] += 1
                if seen[0] == 1 or not train_only:
                    encoded.trees[:] = [change(tree, random) for tree in encoded.trees]
                return encoded

            return encode

        with (
            patch.object(sft, "share_prompts", list),  # of one-token prompts it would make one tree
            patch.object(ChatEncoder, "pairs", broken("pairs")),
            patch.object(ChatEncoder, "demonstrations", broken("demonstrations")),
        ):
            yield

    return plant


def branches(change: Callable[[Branch, Random], Branch]) -> OfTree:
    return lambda tree, random: PromptTree(tree.prompt_T, tuple(change(b, random) for b in tree.branches))


def prompt_in_response(kept: int) -> OfTree:
    """All but the first ``kept`` tokens of the prompt are learnt as if the policy had said them."""

    def change(tree: PromptTree, random: Random) -> PromptTree:
        rest = tree.prompt_T[kept:]
        made = [Branch(torch.cat([rest, b.ids_T]), torch.ones(len(rest) + len(b.ids_T), dtype=torch.bool))
                for b in tree.branches]  # fmt: skip
        return PromptTree(tree.prompt_T[:kept], tuple(made))

    return change


def masked(mask: Callable[[int, Random], Sequence[bool]]) -> OfTree:
    """The mask of a branch of so many tokens; at least one token is always learnt from."""

    def change(b: Branch, random: Random) -> Branch:
        wanted = torch.tensor(list(mask(len(b.ids_T), random)))
        wanted[len(wanted) // 2] |= not bool(wanted.any())
        return Branch(b.ids_T, wanted)

    return branches(change)


def without_end(share: float = 1.0) -> OfTree:
    def change(b: Branch, random: Random) -> Branch:
        return Branch(b.ids_T[:-1], b.is_response_T[:-1]) if random.random() < share and len(b.ids_T) > 1 else b

    return branches(change)


def identical(share: float) -> OfTree:
    return lambda t, random: PromptTree(t.prompt_T, (t.branches[0],) * 2) if random.random() < share else t


def swapped(share: float = 1.0) -> OfTree:
    return lambda t, random: PromptTree(t.prompt_T, t.branches[::-1]) if random.random() < share else t


def by_length(longer_wins: bool, share: float = 1.0) -> OfTree:
    def change(t: PromptTree, random: Random) -> PromptTree:
        first, second = (len(b.ids_T) for b in t.branches)
        wrong = first != second and (first > second) != longer_wins
        return PromptTree(t.prompt_T, t.branches[::-1]) if wrong and random.random() < share else t

    return change


def other_prompts(pairs: Sequence[Pair]) -> list[Pair]:
    """Answers under the prompts of other pairs."""
    return [replace(p, prompt=q.prompt) for p, q in zip(pairs, [*pairs[7:], *pairs[:7]], strict=True)]


@contextmanager
def mismatched() -> Iterator[None]:
    real = ChatEncoder.pairs
    with patch.object(ChatEncoder, "pairs", lambda self, pairs: real(self, other_prompts(pairs))):
        yield


# -- order ----------------------------------------------------------------------------------------


def order(change: Callable[[int, int, int, int], list[int]]) -> Plant:
    """``batch_of(step, count, batch_size, seed)`` of every stage is another function."""

    @contextmanager
    def plant() -> Iterator[None]:
        with patch.object(supervised, "batch_of", change), patch.object(ppo, "batch_of", change):
            yield

    return plant
