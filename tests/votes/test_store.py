"""Exactly one vote a rater and pair, whatever is sent, how often, and by how many at once; nothing is lost."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.votes.rows import Arena, Cast, NewPair
from concordant.votes.store import Conflict, Store


def made(tmp_path, pairs=6, raters=2, **settings):
    store = Store(str(tmp_path / "votes.db"))
    arena = store.add_arena(Arena(name="main", **settings))
    prompt = (Message("user", "Where?"),)
    new = [NewPair(key=f"p{i}", prompt=prompt, first=f"a{i}\0", second=f"b{i}") for i in range(pairs)]
    assert store.add_pairs(arena, new) == pairs and store.add_pairs(arena, new) == 0
    people = [store.rater_with(store.add_rater(f"rater {i}"))[0] for i in range(raters)]
    return store, arena, people


def test_a_repeated_request_stores_one_vote_and_undo_keeps_the_old_row(tmp_path):
    store, arena, (ann, _) = made(tmp_path)
    asked = store.next(arena, ann)
    assert store.next(arena, ann) == asked
    vote = Cast(key="k", pair=asked.pair, side="left", strength=3, reason="kind\0")
    assert store.cast(arena, ann, vote) == store.cast(arena, ann, vote)
    with pytest.raises(Conflict):
        store.cast(arena, ann, Cast(key="k", pair=asked.pair, side="right"))
    second_tab = store.cast(arena, ann, Cast(key="k2", pair=asked.pair, side="right"))
    assert (second_tab.counts, second_tab.other) == (False, "k")
    (cast,) = store.read(arena)[1]
    assert cast.side == "left" and {"first": "a", "second": "b"}[cast.choice] == asked.left[0]
    assert store.undo(arena, ann, "k") == store.undo(arena, ann, "k")
    assert not store.cast(arena, ann, vote).counts  # a late repetition of an undone vote
    assert store.next(arena, ann).pair == asked.pair
    assert store.cast(arena, ann, Cast(key="k3", pair=asked.pair, side="tie")).counts
    assert store.counts(arena) == {"pairs": 6, "votes": 1, "undone": 1, "open": 5}
    assert [cast.choice for cast in store.read(arena)[1]] == ["tie"]


def test_many_raters_at_once_vote_once_on_each_pair_and_no_pair_gets_more_than_its_raters(tmp_path):
    store, arena, people = made(tmp_path, pairs=12, raters=6, raters_per_pair=2)

    def work(rater):
        sent = []
        while asked := store.next(arena, rater):
            vote = Cast(key=f"{rater}-{asked.pair}", pair=asked.pair, side="left")
            for _ in range(2):
                assert store.cast(arena, rater, vote).counts
            sent.append(asked.pair)
        return sent

    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(work, people))
    assert all(len(set(own)) == len(own) for own in sent)
    assert set(Counter(pair for own in sent for pair in own).values()) == {2}
    assert store.counts(arena)["votes"] == 24


def test_a_lease_ends_a_skip_frees_the_seat_and_a_late_vote_still_counts(tmp_path):
    store, arena, (ann, bob) = made(tmp_path, pairs=1)
    now = [1000.0]
    store.clock = lambda: now[0]
    asked = store.next(arena, ann)
    assert store.next(arena, bob) is None
    now[0] += arena.lease + 1
    assert store.next(arena, bob).pair == asked.pair
    assert store.cast(arena, bob, Cast(key="b", pair="p0", side="skip")).counts
    assert store.next(arena, bob) is None
    assert store.cast(arena, ann, Cast(key="a", pair="p0", side="bad")).counts


@pytest.mark.parametrize("side, strength", [("first", None), ("tie", 2), ("left", 4)])
def test_a_vote_without_meaning_is_refused(tmp_path, side, strength):
    store, arena, (ann, _) = made(tmp_path, pairs=1)
    with pytest.raises(UserError):
        store.cast(arena, ann, Cast(key="k", pair="p0", side=side, strength=strength))
