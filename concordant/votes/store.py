"""The votes of one database: arenas, pairs and raters are added, raters are asked and vote, votes are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from concordant.core.errors import UserError, unknown_name
from concordant.votes.asking import ask, give_back, order_of, seat_of, seats_left, so_far
from concordant.votes.database import Database
from concordant.votes.rows import Arena, Cast, NewPair, Pair, Stored, Turn, Vote, choice_of, hash_of, new_token
from concordant.votes.schema import arenas, pairs, raters, seats, votes

AT_ONCE = 500  # rows that one statement inserts


def _before() -> sa.Select[Any]:
    """The pair of a vote, the vote that has its key already, and the key of this rater's vote that counts."""
    same, counting = votes.alias("same"), votes.alias("counting")
    is_same = same.c.key == sa.bindparam("key_of_vote")
    is_own = sa.and_(
        counting.c.pair_id == pairs.c.id, counting.c.rater_id == sa.bindparam("rater"), counting.c.undone.is_(None)
    )
    told = (same.c[name] for name in ("key", "pair_id", "rater_id", "choice", "strength", "reason"))
    found = sa.select(pairs.c.id.label("pair"), pairs.c.gold, counting.c.key.label("counting"), *told)
    found = found.select_from(pairs).outerjoin(same, is_same).outerjoin(counting, is_own)
    return found.where(pairs.c.arena_id == sa.bindparam("arena"), pairs.c.key == sa.bindparam("pair"))


_BEFORE = _before()  # made once, as the statements of asking.py


class Conflict(Exception):
    """One key came with two different votes. The second one was not stored."""


class Store:
    """Reads and changes the votes. Several threads and several processes may work on one database at once."""

    def __init__(self, place: str, clock: Callable[[], float] = time.time) -> None:
        self.database, self.clock = Database(place), clock

    # ---- arenas, pairs, raters

    def add_arena(self, arena: Arena) -> Arena:
        """The stored arena of this name, made if there is none.

        An arena keeps the settings that it was made with. Settings of ``arena`` that are not the default must be equal
        to them, else UserError.
        """
        wanted = {c.name: getattr(arena, c.name) for c in arenas.c if c.name != "id"}

        def work(connection: sa.Connection) -> Arena:
            row = connection.execute(sa.select(arenas).where(arenas.c.name == arena.name)).mappings().first()
            if row is None:
                number = connection.execute(arenas.insert().values(**wanted).returning(arenas.c.id)).scalar_one()
                return replace(arena, id=number)
            different = [n for n, value in wanted.items() if value not in (row[n], getattr(Arena(name=arena.name), n))]
            if different:
                had = ", ".join(f"{name}={row[name]!r}" for name in different)
                raise UserError(f'the arena "{arena.name}" exists with {had}; leave these as they are, or name another')
            return Arena(**row)

        return self.database.change(work)

    def arenas(self) -> list[Arena]:
        with self.database.read() as connection:
            return [Arena(**row) for row in connection.execute(sa.select(arenas).order_by(arenas.c.id)).mappings()]

    def arena(self, name: str) -> Arena:
        found = {arena.name: arena for arena in self.arenas()}
        if name not in found:
            raise unknown_name("arena", name, found)
        return found[name]

    def add_pairs(self, arena: Arena, new: Sequence[NewPair]) -> int:
        """Add pairs that the arena does not have yet; how many these are. Either all are added, or none."""

        def work(connection: sa.Connection) -> int:
            connection.execute(sa.select(arenas.c.id).where(arenas.c.id == arena.id).with_for_update())
            known = set(connection.scalars(sa.select(pairs.c.key).where(pairs.c.arena_id == arena.id)))
            fresh = list({pair.key: pair for pair in new if pair.key not in known}.values())
            for start in range(0, len(fresh), AT_ONCE):
                self._add(connection, arena, fresh[start : start + AT_ONCE])
            self.database.count(connection, pairs, seats)
            return len(fresh)

        return self.database.change(work)

    def _add(self, connection: sa.Connection, arena: Arena, new: Sequence[NewPair]) -> None:
        connection.execute(pairs.insert(), [pair.as_row(arena) for pair in new])
        found = sa.select(pairs.c.key, pairs.c.id).where(
            pairs.c.arena_id == arena.id, pairs.c.key.in_([pair.key for pair in new])
        )
        ids = dict(connection.execute(found).tuples().all())
        free = [
            {"arena_id": arena.id, "pair_id": ids[pair.key], "rank": pair.rank, "done": False}
            for pair in new
            if pair.gold is None  # a seat on a gold pair is made when somebody gets it
            for _ in range(arena.raters_per_pair)
        ]
        if free:
            connection.execute(seats.insert(), free)

    def rank(self, arena: Arena, rank: dict[str, float]) -> int:
        """Give pairs, by their keys, a new place in the order; how many seats moved. Seats that are done stay."""

        def work(connection: sa.Connection) -> int:
            moved = 0
            rows = connection.execute(sa.select(pairs.c.id, pairs.c.key).where(pairs.c.arena_id == arena.id)).all()
            for number, key in rows:
                if key in rank:
                    change = seats.update().where(seats.c.pair_id == number, ~seats.c.done)
                    moved += connection.execute(change.values(rank=rank[key])).rowcount
            return moved

        return self.database.change(work)

    def add_rater(self, name: str) -> str:
        """Add a rater, or give a known one a new token. The token is returned once, and only its hash is kept."""
        token = new_token()

        def work(connection: sa.Connection) -> str:
            values = {"token_hash": hash_of(token), "active": True}
            if not connection.execute(raters.update().where(raters.c.name == name).values(**values)).rowcount:
                connection.execute(raters.insert().values(name=name, **values))
            return token

        return self.database.change(work)

    def rater_named(self, name: str) -> tuple[int, str]:
        """Number and name of this rater. A new one gets a token that nobody knows."""

        def work(connection: sa.Connection) -> tuple[int, str]:
            number = connection.scalar(sa.select(raters.c.id).where(raters.c.name == name))
            if number is None:
                values = {"name": name, "token_hash": hash_of(new_token()), "active": True}
                number = connection.execute(raters.insert().values(**values).returning(raters.c.id)).scalar_one()
            return number, name

        return self.database.change(work)

    def retire(self, name: str) -> None:
        """Refuse the token of a rater from now on. Their votes stay."""

        def work(connection: sa.Connection) -> int:
            return connection.execute(raters.update().where(raters.c.name == name).values(active=False)).rowcount

        if not self.database.change(work):
            raise unknown_name("rater", name, self.raters())

    def raters(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.scalars(sa.select(raters.c.name).order_by(raters.c.name)))

    def tokens(self) -> dict[str, tuple[int, str]]:
        """The hash of each token that is accepted, with the number and the name of its rater."""
        with self.database.read() as connection:
            wanted = sa.select(raters.c.token_hash, raters.c.id, raters.c.name).where(raters.c.active)
            return {row.token_hash: (row.id, row.name) for row in connection.execute(wanted)}

    # ---- one rater's work

    def turn(self, arena: Arena, rater: int) -> Turn:
        """The pair that this rater is asked about now.

        The same pair comes again until the rater votes on it or its lease ends, in the same order of its answers.
        """
        return self.database.change(lambda connection: ask(connection, arena, rater, self.clock()))

    def cast(self, arena: Arena, rater: int, vote: Cast) -> Stored:
        """Store a vote. A repeated request stores nothing more and gets the same answer.

        A vote counts also after its lease has ended, because a rater's work is never thrown away. Raises UserError for
        an unknown pair or a vote without meaning, and ``Conflict`` if the key belongs to another vote.
        """
        vote = vote.checked()
        return self.database.change(lambda connection: self._cast(connection, arena, rater, vote))

    def cast_about(self, arena: Arena, rater: int, pair: NewPair, vote: Cast) -> Stored:
        """Store a vote on a pair that may be new to the arena. The rater gets a seat on it, which nobody else had."""
        vote = vote.checked()

        def work(connection: sa.Connection) -> Stored:
            wanted = sa.select(pairs.c.id).where(pairs.c.arena_id == arena.id, pairs.c.key == pair.key)
            if connection.scalar(wanted) is None:
                self._add(connection, arena, [pair])
                seat_of(connection, arena, connection.execute(wanted).scalar_one(), rater, self.clock())
            return self._cast(connection, arena, rater, vote)

        return self.database.change(work)

    def _cast(self, connection: sa.Connection, arena: Arena, rater: int, vote: Cast) -> Stored:
        about = {"arena": arena.id, "pair": vote.pair, "key_of_vote": vote.key, "rater": rater}
        found = connection.execute(_BEFORE, about).mappings().first()
        if found is None:
            raise UserError(f'no pair "{vote.pair}" in the arena "{arena.name}"')
        swapped = order_of(arena, vote.pair, rater) if vote.swapped is None else vote.swapped
        said = {
            "pair_id": found["pair"],
            "rater_id": rater,
            "choice": choice_of(vote.side, swapped),
            "strength": vote.strength,
            "reason": vote.reason,
        }
        counting = found["counting"] or ""
        if found["key"] is not None and any(found[name] != value for name, value in said.items()):
            raise Conflict(f'the key "{vote.key}" belongs to another vote')
        if found["key"] is None and not counting:
            connection.execute(votes.insert(), {"key": vote.key, "swapped": swapped, "cast": self.clock(), **said})
            give_back(connection, found["pair"], rater, free=vote.side == "skip" and found["gold"] is None)
            counting = vote.key
        is_this = counting == vote.key  # else the vote was undone, or two tabs voted: the first vote stands
        return Stored(key=vote.key, pair=vote.pair, counts=is_this, other="" if is_this else counting)

    def undo(self, arena: Arena, rater: int, key: str) -> Stored:
        """Take back the vote with this key. The vote stays in the database, and its pair is asked about again.

        A repeated request changes nothing more. Raises UserError if this rater has no such vote.
        """

        def work(connection: sa.Connection) -> Stored:
            columns = votes.c.id, votes.c.undone, pairs.c.id.label("pair"), pairs.c.key, pairs.c.gold
            found = sa.select(*columns).join(pairs, pairs.c.id == votes.c.pair_id)
            wanted = found.where(votes.c.key == key, votes.c.rater_id == rater, pairs.c.arena_id == arena.id)
            row = connection.execute(wanted).first()
            if row is None:
                raise UserError(f'no vote "{key}" of this rater in the arena "{arena.name}"')
            if row.undone is None:
                now = self.clock()
                change = votes.update().where(votes.c.id == row.id, votes.c.undone.is_(None))
                if connection.execute(change.values(undone=now)).rowcount:
                    seat_of(connection, arena, row.pair, rater, now)
            return Stored(key=key, pair=row.key, counts=False)

        return self.database.change(work)

    def progress(self, arena: Arena, rater: int) -> dict[str, int]:
        """``done``: pairs with a vote of this rater; ``left``: pairs that this rater can still get."""
        with self.database.read() as connection:
            left = seats_left(connection, arena, rater, self.clock())
            return {"done": so_far(connection, arena, rater)[0], "left": left}

    # ---- reading

    def read(self, arena: Arena) -> tuple[list[Pair], list[Vote]]:
        """All pairs and all votes that count, of one state of the database, in the order in which they came."""
        wanted = (
            sa.select(votes, raters.c.name.label("rater"))
            .join(raters, raters.c.id == votes.c.rater_id)
            .join(pairs, pairs.c.id == votes.c.pair_id)
            .where(pairs.c.arena_id == arena.id, votes.c.undone.is_(None))
            .order_by(votes.c.id)
        )
        with self.database.read() as connection:
            found = connection.execute(sa.select(pairs).where(pairs.c.arena_id == arena.id).order_by(pairs.c.id))
            all_pairs = [Pair.of(dict(row)) for row in found.mappings()]
            rows: Iterable[Any] = connection.execute(wanted).mappings()
            names = ("rater", "choice", "strength", "reason", "swapped", "cast")
            return all_pairs, [Vote(pair=row["pair_id"], **{name: row[name] for name in names}) for row in rows]

    def counts(self, arena: Arena) -> dict[str, int]:
        """Numbers of the arena's rows, the undone votes among them: nothing that was sent is missing here."""
        of_arena = sa.select(pairs.c.id).where(pairs.c.arena_id == arena.id)
        own = sa.select(sa.func.count()).select_from(votes).where(votes.c.pair_id.in_(of_arena))
        wanted = {
            "pairs": sa.select(sa.func.count()).select_from(pairs).where(pairs.c.arena_id == arena.id),
            "votes": own.where(votes.c.undone.is_(None)),
            "undone": own.where(votes.c.undone.is_not(None)),
            "open": sa.select(sa.func.count()).where(seats.c.arena_id == arena.id, ~seats.c.done),
        }
        with self.database.read() as connection:
            return {name: connection.scalar(count) or 0 for name, count in wanted.items()}
