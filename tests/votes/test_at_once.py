"""Several processes and threads vote at once, on SQLite and on PostgreSQL: no vote is lost, none counts twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.postgres import is_here, postgres
from concordant.data.records import Message
from concordant.votes.database import Away
from concordant.votes.rows import Arena, Cast, NewPair
from concordant.votes.store import Store
from tests.votes.simulated import arena_with, vote_until_done


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request, tmp_path_factory):
    if request.param == "sqlite":
        yield str(tmp_path_factory.mktemp("votes") / "votes.db")
        return
    pytest.importorskip("psycopg")
    if not is_here():
        pytest.skip("PostgreSQL is not on this machine")
    with postgres() as url:
        yield url


def test_two_processes_and_two_threads_give_each_pair_its_raters_and_each_rater_one_vote(place):
    store, arena, people = arena_with(place, pairs=20, raters=6, raters_per_pair=3)
    command = [sys.executable, "-m", "tests.votes.simulated", place]
    others = [subprocess.Popen([*command, *map(str, people[i : i + 2])]) for i in (0, 2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rater: vote_until_done(store, arena, rater), people[4:]))
    assert [process.wait(60) for process in others] == [0, 0]
    for rater in people:  # what the others left to a slower one
        vote_until_done(store, arena, rater)
    found = store.read(arena)[1]
    assert max(Counter((vote.pair, vote.rater) for vote in found).values()) == 1
    assert Counter(Counter(vote.pair for vote in found).values()) == {3: 20}
    assert store.counts(arena) == {"pairs": 20, "votes": 60, "undone": 0, "open": 0}


def test_one_vote_in_many_requests_at_once_is_one_vote(place):
    """A double click: twelve requests of one rater on one pair, with one key and with keys of their own."""
    store = Store(place)
    arena = store.arena("main")
    rater = store.rater_named("somebody")[0]

    def send(i):
        return store.cast(arena, rater, Cast(key=f"double-{i % 4}", pair="p0", side="right"))

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(12)))
    keys = {answer.key if answer.counts else answer.other for answer in answers}
    assert len(keys) == 1  # every request is told the same vote
    assert sum(vote.rater == "somebody" for vote in store.read(arena)[1]) == 1
    with ThreadPoolExecutor(8) as pool:
        assert not any(s.counts for s in pool.map(lambda _: store.undo(arena, rater, *keys), range(8)))
    assert store.counts(arena)["undone"] == 1


def test_a_server_that_is_away_is_told_and_nothing_is_half_done():
    if not is_here():
        pytest.skip("PostgreSQL is not on this machine")
    with postgres() as url:
        store, arena, (ann, _) = arena_with(url, pairs=2)
    with pytest.raises(Away):
        store.cast(arena, ann, Cast(key="k", pair="p0", side="left"))


def test_a_server_knows_the_sizes_of_its_tables_when_pairs_were_added(place):
    """Without them it would look at all free seats for each next pair, until it finds out by itself."""
    store = Store(place)
    if store.database.is_sqlite:
        pytest.skip("SQLite needs no sizes for these statements")
    arena = store.add_arena(Arena(name="large"))
    new = [NewPair(key=f"p{i}", prompt=(Message("user", f"{i}?"),), first="a", second=f"{i}") for i in range(300)]
    assert store.add_pairs(arena, new) == 300
    with store.database.read() as connection:
        for table in ("pairs", "seats"):
            known = "SELECT reltuples, (SELECT count(*) FROM {0}) FROM pg_class WHERE relname = '{0}'"
            told, true = connection.exec_driver_sql(known.format(table)).one()
            assert told == true >= 300
