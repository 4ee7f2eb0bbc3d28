"""Exactly one vote a rater and pair, whatever is sent, how often, and by how many at once; nothing is lost."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.votes.asking import _SO_FAR, _TAKE
from concordant.votes.rows import Arena, Cast, NewPair
from concordant.votes.store import Conflict, Store


def made(tmp_path, pairs=6, raters=2, **settings):
    store = Store(str(tmp_path / "votes.db"))
    arena = store.add_arena(Arena(name="main", **settings))
    prompt = (Message("user", "Where?"),)
    new = [NewPair(key=f"p{i}", prompt=prompt, first=f"a{i}\0", second=f"b{i}") for i in range(pairs)]
    assert store.add_pairs(arena, new) == pairs and store.add_pairs(arena, new) == 0
    people = [store.rater_named(f"rater {i}")[0] for i in range(raters)]
    return store, arena, people


def test_a_repeated_request_stores_one_vote_and_undo_keeps_the_old_row(tmp_path):
    store, arena, (ann, _) = made(tmp_path)
    asked = store.turn(arena, ann).asked
    assert store.turn(arena, ann).asked == asked
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
    assert store.turn(arena, ann).asked.pair == asked.pair
    assert store.cast(arena, ann, Cast(key="k3", pair=asked.pair, side="tie")).counts
    assert store.counts(arena) == {"pairs": 6, "votes": 1, "undone": 1, "open": 5}
    assert [cast.choice for cast in store.read(arena)[1]] == ["tie"]


def test_many_raters_at_once_vote_once_on_each_pair_and_no_pair_gets_more_than_its_raters(tmp_path):
    store, arena, people = made(tmp_path, pairs=12, raters=6, raters_per_pair=2)

    def work(rater):
        sent = []
        while asked := store.turn(arena, rater).asked:
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
    asked = store.turn(arena, ann).asked
    assert store.turn(arena, bob).asked is None
    now[0] += arena.lease + 1
    assert store.turn(arena, bob).asked.pair == asked.pair
    assert store.cast(arena, bob, Cast(key="b", pair="p0", side="skip")).counts
    assert store.turn(arena, bob).asked is None
    assert store.cast(arena, ann, Cast(key="a", pair="p0", side="bad")).counts


@pytest.mark.parametrize("side, strength", [("first", None), ("tie", 2), ("left", 4)])
def test_a_vote_without_meaning_is_refused(tmp_path, side, strength):
    store, arena, (ann, _) = made(tmp_path, pairs=1)
    with pytest.raises(UserError):
        store.cast(arena, ann, Cast(key="k", pair="p0", side=side, strength=strength))


@pytest.mark.parametrize(
    ("statement", "by"), [(_TAKE, "free USING INDEX seats_free"), (_SO_FAR, "votes USING INDEX one_")]
)
def test_a_turn_looks_at_what_is_the_raters_and_not_at_the_whole_arena(tmp_path, statement, by):
    """SQLite takes a partial index only for the words with which it was made, and may join from the wrong side."""
    store, _, _ = made(tmp_path, pairs=1)
    made_for = statement.compile(store.database.engine)
    with store.database.read() as connection:
        given = tuple(range(len(made_for.positiontup)))
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {made_for}", given)]
    assert any(by in step for step in plan), plan
    assert not any("B-TREE" in step or "SEARCH pairs USING COVERING" in step or "SCAN free" in step for step in plan)
