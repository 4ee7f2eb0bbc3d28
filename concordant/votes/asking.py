"""Which pair a rater is asked about next, inside the caller's transaction.

A seat is given to a rater for the arena's lease. Two transactions never give one seat to two raters: SQLite has one
writer at a time, and a server locks the row of the seat and lets others pass it by (SKIP LOCKED).

The statements of a rater's turn are made once, when this file is loaded: to build one takes several times as long as
a database needs to answer it.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.sql.selectable import NamedFromClause

from concordant.core.seeding import derive, python_stream
from concordant.votes.rows import Arena, Asked, Turn
from concordant.votes.schema import pairs, seats, votes

_ARENA: sa.BindParameter[int] = sa.bindparam("arena")
_RATER: sa.BindParameter[int] = sa.bindparam("rater")
_NOW: sa.BindParameter[float] = sa.bindparam("now")
_ENDS: sa.BindParameter[float] = sa.bindparam("ends")


def _is_open(seat: NamedFromClause) -> tuple[sa.ColumnElement[bool] | sa.TextClause, ...]:
    """Seats that nobody holds, of pairs that this rater has no seat of and has not voted on or skipped.

    "NOT done" stands as text, because SQLAlchemy writes "done = 0" for SQLite, and SQLite takes the index
    ``seats_free`` only for the words with which the index was made. Without it, each turn reads and sorts all seats.
    """
    own = seats.alias("own")
    voted = sa.exists().where(votes.c.rater_id == _RATER, votes.c.pair_id == seat.c.pair_id, votes.c.undone.is_(None))
    seated = sa.exists().where(own.c.rater_id == _RATER, own.c.pair_id == seat.c.pair_id)
    gold = sa.exists().where(pairs.c.id == seat.c.pair_id, pairs.c.gold.is_not(None))
    return (
        seat.c.arena_id == _ARENA,
        sa.text(f"NOT {seat.name}.done"),
        sa.or_(seat.c.rater_id.is_(None), seat.c.until < _NOW),
        ~voted,
        ~seated,
        ~gold,
    )


def _so_far() -> sa.Select[int, str | None]:
    """How many pairs the rater has voted on, and the key of the latest vote.

    Votes and pairs are not joined, because SQLite would begin with the pairs and look at all of the arena.
    """
    in_arena = sa.exists().where(pairs.c.id == votes.c.pair_id, pairs.c.arena_id == _ARENA)
    mine = sa.select(sa.func.count().label("done"), sa.func.max(votes.c.id).label("last")).select_from(votes)
    own = mine.where(votes.c.rater_id == _RATER, votes.c.undone.is_(None), in_arena).subquery()
    return sa.select(own.c.done, votes.c.key).select_from(own).outerjoin(votes, votes.c.id == own.c.last)


def _hold() -> sa.sql.dml.ReturningUpdate[int]:
    """The lease of the seat that this rater has already begins again; of several it is the one that came back by
    undoing its vote.
    """
    mine = seats.alias("mine")
    wanted = sa.select(mine.c.id).where(mine.c.rater_id == _RATER, ~mine.c.done, mine.c.arena_id == _ARENA)
    wanted = wanted.order_by(mine.c.until.desc(), mine.c.rank, mine.c.id).limit(1)
    still = seats.update().where(seats.c.id == wanted.scalar_subquery(), seats.c.rater_id == _RATER)
    return still.values(until=_ENDS).returning(seats.c.pair_id)


def _take() -> sa.sql.dml.ReturningUpdate[int]:
    """This rater gets the first open seat. SQLite has no locks of rows and needs none."""
    free = seats.alias("free")
    wanted = sa.select(free.c.id).where(*_is_open(free)).order_by(free.c.rank, free.c.id).limit(1)
    first = wanted.with_for_update(skip_locked=True).scalar_subquery()
    return seats.update().where(seats.c.id == first).values(rater_id=_RATER, until=_ENDS).returning(seats.c.pair_id)


def _new_gold() -> sa.Select[int]:
    """The first pair with a known answer that this rater has not seen."""
    seen = sa.exists().where(seats.c.rater_id == _RATER, seats.c.pair_id == pairs.c.id)
    new = sa.select(pairs.c.id).where(pairs.c.arena_id == _ARENA, pairs.c.gold.is_not(None), ~seen)
    return new.order_by(pairs.c.id).limit(1)


def _left() -> sa.Select[int]:
    own = sa.select(seats.c.pair_id).where(seats.c.rater_id == _RATER, ~seats.c.done, seats.c.arena_id == _ARENA)
    free = seats.alias("free")
    both = own.union(sa.select(free.c.pair_id).where(*_is_open(free)))
    return sa.select(sa.func.count()).select_from(both.subquery())


_SO_FAR, _HOLD, _TAKE, _NEW_GOLD, _LEFT = _so_far(), _hold(), _take(), _new_gold(), _left()
_PAIR = sa.select(pairs.c.key, pairs.c.prompt, pairs.c.answers).where(pairs.c.id == sa.bindparam("pair"))
_DONE = seats.update().where(seats.c.pair_id == sa.bindparam("pair"), seats.c.rater_id == _RATER).values(done=True)


def order_of(arena: Arena, pair: str, rater: int) -> bool:
    """Whether this rater sees the second answer on the left: a fair coin, fixed for the arena, the pair and the rater.

    A page that is opened again shows the same order, and no request can choose it.
    """
    return bool(derive(arena.seed, "votes/order", arena.name, pair, rater) & 1)


def ask(connection: sa.Connection, arena: Arena, rater: int, now: float) -> Turn:
    """The next pair of this rater, whose seat is now theirs."""
    done, last = so_far(connection, arena, rater)
    who = {"arena": arena.id, "rater": rater}
    until = now + arena.lease
    pair = connection.scalar(_HOLD, who | {"ends": until})
    if pair is None:
        pair = _gold(connection, arena, rater, until, done)
    if pair is None:
        pair = connection.scalar(_TAKE, who | {"ends": until, "now": now})
    if pair is None:
        return Turn(asked=None, last=last)
    key, prompt, answers = connection.execute(_PAIR, {"pair": pair}).one()
    first, second = json.loads(answers)
    left, right = (second, first) if order_of(arena, key, rater) else (first, second)
    return Turn(asked=Asked(pair=key, prompt=json.loads(prompt), left=left, right=right, done=done), last=last)


def give_back(connection: sa.Connection, pair: int, rater: int, *, free: bool) -> None:
    """After a vote the rater's seat is done. After a skip it is ``free`` for another rater."""
    if free:
        own = seats.update().where(seats.c.pair_id == pair, seats.c.rater_id == rater)
        connection.execute(own.values(rater_id=None, until=None))
    else:
        connection.execute(_DONE, {"pair": pair, "rater": rater})


def seat_of(connection: sa.Connection, arena: Arena, pair: int, rater: int, now: float) -> None:
    """The rater gets the seat of an undone vote again, or a new one where another rater has it by now."""
    values = {"done": False, "until": now + arena.lease}
    own = seats.update().where(seats.c.pair_id == pair, seats.c.rater_id == rater)
    if connection.execute(own.values(**values)).rowcount:
        return
    free = sa.select(seats.c.id).where(seats.c.pair_id == pair, ~seats.c.done, seats.c.rater_id.is_(None)).limit(1)
    number = connection.scalar(free.with_for_update(skip_locked=True))
    if number is not None:
        connection.execute(seats.update().where(seats.c.id == number).values(rater_id=rater, **values))
    else:
        new = {"arena_id": arena.id, "pair_id": pair, "rank": 0.0, "rater_id": rater}
        connection.execute(seats.insert().values(**new, **values))


def so_far(connection: sa.Connection, arena: Arena, rater: int) -> tuple[int, str]:
    """Pairs of the arena on which this rater has a vote that counts, skipped ones too; and the key of the latest of
    these votes, which undoing takes back, or "".
    """
    done, last = connection.execute(_SO_FAR, {"arena": arena.id, "rater": rater}).one()
    return done, last or ""


def seats_left(connection: sa.Connection, arena: Arena, rater: int, now: float) -> int:
    """Pairs that this rater has and has not voted on, and pairs with a seat that this rater can get."""
    return connection.scalar(_LEFT, {"arena": arena.id, "rater": rater, "now": now}) or 0


def _gold(connection: sa.Connection, arena: Arena, rater: int, until: float, done: int) -> int | None:
    """Now and then a pair whose answer is known, as long as there is one that is new to this rater."""
    if python_stream(arena.seed, "votes/gold", arena.name, rater, done).random() >= arena.gold_share:
        return None
    pair = connection.scalar(_NEW_GOLD, {"arena": arena.id, "rater": rater})
    if pair is not None:
        seat = {"arena_id": arena.id, "pair_id": pair, "rank": 0.0, "rater_id": rater}
        connection.execute(seats.insert().values(**seat, until=until, done=False))
    return pair
