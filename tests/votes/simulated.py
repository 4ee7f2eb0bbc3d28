"""What the tests of votes share: an arena, raters, and a second process that votes."""

from __future__ import annotations

import sys

from concordant.data.records import Message
from concordant.votes.rows import Arena, Cast, NewPair
from concordant.votes.store import Store


def arena_with(place, pairs=6, raters=2, policies=("", ""), **settings):
    """A store with an arena "main" of ``pairs`` pairs, and the numbers of ``raters`` raters."""
    store = Store(place)
    arena = store.add_arena(Arena(name="main", **settings))
    new = [
        NewPair(
            key=f"p{i}", prompt=(Message("user", f"Where is {i}?"),), first=f"a{i}\0", second=f"b{i}",
            first_policy=policies[0], second_policy=policies[1],
        )
        for i in range(pairs)
    ]  # fmt: skip
    assert store.add_pairs(arena, new) == pairs and store.add_pairs(arena, new) == 0
    people = [store.rater_named(f"rater {i}")[0] for i in range(raters)]
    return store, arena, people


def vote_until_done(store, arena, rater, repeats=2):
    """Vote on everything that this rater is asked; each request is sent ``repeats`` times. The pairs, in order."""
    sent = []
    while asked := store.turn(arena, rater).asked:
        vote = Cast(key=f"{rater}-{asked.pair}", pair=asked.pair, side="left")
        for _ in range(repeats):
            assert store.cast(arena, rater, vote).counts
        sent.append(asked.pair)
    return sent


if __name__ == "__main__":  # a process of its own: the database, and the numbers of its raters
    own = Store(sys.argv[1])
    for number in sys.argv[2:]:
        vote_until_done(own, own.arena("main"), int(number))
