"""Which pair a rater is asked about next, inside the caller's transaction.

A seat is given to a rater for the arena's lease. Two transactions never give one seat to two raters: SQLite has one
writer at a time, and a server locks the row of the seat and lets others pass it by (SKIP LOCKED).
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from concordant.core.seeding import derive, python_stream
from concordant.votes.rows import Arena, Asked
from concordant.votes.schema import pairs, seats, votes


def order_of(arena: Arena, pair: str, rater: int) -> bool:
    """Whether this rater sees the second answer on the left: a fair coin, fixed for the arena, the pair and the rater.

    A page that is opened again shows the same order, and no request can choose it.
    """
    return bool(derive(arena.seed, "votes/order", arena.name, pair, rater) & 1)


def ask(connection: sa.Connection, arena: Arena, rater: int, now: float, is_sqlite: bool) -> Asked | None:
    """The next pair of this rater, whose seat is now theirs."""
    done = voted(connection, arena, rater)
    pair = _held(connection, arena, rater, now)
    if pair is None:
        pair = _gold(connection, arena, rater, now, done) or _free(connection, arena, rater, now, is_sqlite)
    if pair is None:
        return None
    row = connection.execute(sa.select(pairs).where(pairs.c.id == pair)).mappings().one()
    first, second = json.loads(row["answers"])
    left, right = (second, first) if order_of(arena, row["key"], rater) else (first, second)
    return Asked(
        pair=row["key"],
        prompt=json.loads(row["prompt"]),
        left=left,
        right=right,
        done=done,
    )


def give_back(connection: sa.Connection, pair: int, rater: int, *, free: bool) -> None:
    """After a vote the rater's seat is done. After a skip it is ``free`` for another rater."""
    own = seats.update().where(seats.c.pair_id == pair, seats.c.rater_id == rater)
    connection.execute(own.values(rater_id=None, until=None) if free else own.values(done=True))


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


def voted(connection: sa.Connection, arena: Arena, rater: int) -> int:
    """Pairs of the arena on which this rater has a vote that counts, skipped ones too."""
    mine = sa.select(sa.func.count()).select_from(votes).join(pairs, pairs.c.id == votes.c.pair_id)
    return connection.scalar(mine.where(*_is_mine(rater), pairs.c.arena_id == arena.id)) or 0


def seats_left(connection: sa.Connection, arena: Arena, rater: int, now: float) -> int:
    """Pairs that this rater has and has not voted on, and pairs with a seat that this rater can get."""
    own = sa.select(seats.c.pair_id).where(seats.c.rater_id == rater, ~seats.c.done, seats.c.arena_id == arena.id)
    free = sa.select(seats.c.pair_id).where(*_open_to(arena, rater, now))
    return connection.scalar(sa.select(sa.func.count()).select_from(own.union(free).subquery())) or 0


def _is_mine(rater: int) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return votes.c.rater_id == rater, votes.c.undone.is_(None)


def _held(connection: sa.Connection, arena: Arena, rater: int, now: float) -> int | None:
    """The pair that this rater has already: of several the one that came back by undoing its vote. Its lease begins
    again.
    """
    mine = (
        sa.select(seats.c.id, seats.c.pair_id)
        .where(seats.c.rater_id == rater, ~seats.c.done, seats.c.arena_id == arena.id)
        .order_by(seats.c.until.desc(), seats.c.rank, seats.c.id)
        .limit(1)
    )
    row = connection.execute(mine).first()
    if row is None:
        return None
    still = seats.update().where(seats.c.id == row.id, seats.c.rater_id == rater)
    return row.pair_id if connection.execute(still.values(until=now + arena.lease)).rowcount else None


def _gold(connection: sa.Connection, arena: Arena, rater: int, now: float, done: int) -> int | None:
    """Now and then a pair whose answer is known, as long as there is one that is new to this rater."""
    if python_stream(arena.seed, "votes/gold", arena.name, rater, done).random() >= arena.gold_share:
        return None
    seen = sa.select(seats.c.pair_id).where(seats.c.rater_id == rater)
    new = sa.select(pairs.c.id).where(pairs.c.arena_id == arena.id, pairs.c.gold.is_not(None), pairs.c.id.not_in(seen))
    pair = connection.scalar(new.order_by(pairs.c.id).limit(1))
    if pair is not None:
        seat = {"arena_id": arena.id, "pair_id": pair, "rank": 0.0, "rater_id": rater}
        connection.execute(seats.insert().values(**seat, until=now + arena.lease, done=False))
    return pair


def _open_to(arena: Arena, rater: int, now: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Seats that nobody holds, of pairs that this rater has no seat of and has not voted on or skipped."""
    voted = sa.select(votes.c.pair_id).where(*_is_mine(rater))
    seated = sa.select(seats.c.pair_id).where(seats.c.rater_id == rater)
    return (
        seats.c.arena_id == arena.id,
        ~seats.c.done,
        sa.or_(seats.c.rater_id.is_(None), seats.c.until < now),
        seats.c.pair_id.not_in(voted.union(seated)),
        seats.c.pair_id.not_in(sa.select(pairs.c.id).where(pairs.c.arena_id == arena.id, pairs.c.gold.is_not(None))),
    )


def _free(connection: sa.Connection, arena: Arena, rater: int, now: float, is_sqlite: bool) -> int | None:
    free = sa.select(seats.c.id, seats.c.pair_id).where(*_open_to(arena, rater, now))
    free = free.order_by(seats.c.rank, seats.c.id).limit(1)
    row = connection.execute(free if is_sqlite else free.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    connection.execute(seats.update().where(seats.c.id == row.id).values(rater_id=rater, until=now + arena.lease))
    return row.pair_id
