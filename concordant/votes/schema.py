"""The tables of the vote database.

A pair has two answers, *first* and *second*. Every rater sees them in an order of their own; ``swapped`` says that the
second one stood on the left. A seat is a place for one rater on a pair: a pair that k raters shall see has k seats. A
vote is never deleted and never changed: undoing one fills its ``undone`` column, and the next vote is a new row.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

VERSION = 1  # of the tables; a database of another version is refused
CHOICES = ("first", "second", "tie", "bad", "skip")  # bad: both answers are bad; skip: no verdict
VERDICTS = CHOICES[:-1]
STRENGTHS = (1, 2, 3)  # slightly, clearly, much better

metadata = MetaData()


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True)


facts = Table("facts", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

arenas = Table(
    "arenas",
    metadata,
    _id(),
    Column("name", String(80), nullable=False, unique=True),
    Column("question", Text, nullable=False),
    Column("instructions", Text, nullable=False),
    Column("raters_per_pair", Integer, nullable=False),
    Column("gold_share", Float, nullable=False),  # of a rater's pairs, while there are gold pairs that are new to them
    Column("lease", Float, nullable=False),  # seconds for which a seat is kept for a rater who does not vote
    Column("seed", Integer, nullable=False),
)

pairs = Table(
    "pairs",
    metadata,
    _id(),
    Column("arena_id", ForeignKey("arenas.id"), nullable=False),
    Column("key", String(64), nullable=False),  # of data/convert.py::pair_id, or the id that a file gave
    # JSON with escapes, because a server's text columns hold no NUL and no half of a character, and an answer may.
    Column("prompt", Text, nullable=False),  # messages
    Column("answers", Text, nullable=False),  # the first and the second
    Column("first_policy", String(200), nullable=False),  # "" where it is not known
    Column("second_policy", String(200), nullable=False),
    Column("gold", String(10)),  # the known answer of a pair that only tests raters; null for all others
    Column("tools", Text),  # JSON
    UniqueConstraint("arena_id", "key"),
    Index("gold_pairs", "arena_id", sqlite_where=text("gold IS NOT NULL"), postgresql_where=text("gold IS NOT NULL")),
    CheckConstraint("gold IN ('first', 'second')"),
)

raters = Table(
    "raters",
    metadata,
    _id(),
    Column("name", String(80), nullable=False, unique=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("active", Boolean, nullable=False),
)

seats = Table(
    "seats",
    metadata,
    _id(),
    Column("arena_id", ForeignKey("arenas.id"), nullable=False),
    Column("pair_id", ForeignKey("pairs.id"), nullable=False),
    Column("rank", Float, nullable=False),  # seats with a lower rank are given out earlier
    Column("rater_id", ForeignKey("raters.id")),  # who has it now, or has voted; null: it is free
    Column("until", Float),  # unix seconds; later, another rater may have the seat
    Column("done", Boolean, nullable=False),
    UniqueConstraint("pair_id", "rater_id"),
    Index("seats_free", "arena_id", "rank", "id", sqlite_where=text("NOT done"), postgresql_where=text("NOT done")),
    Index("seats_of", "rater_id", "done"),
)

votes = Table(
    "votes",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),  # made by the page; a repeated request has the same key
    Column("pair_id", ForeignKey("pairs.id"), nullable=False),
    Column("rater_id", ForeignKey("raters.id"), nullable=False),
    Column("choice", String(10), nullable=False),
    Column("strength", Integer),
    Column("reason", Text, nullable=False),
    Column("swapped", Boolean, nullable=False),
    Column("cast", Float, nullable=False),  # unix seconds
    Column("undone", Float),  # unix seconds; null: the vote counts
    CheckConstraint("choice IN ('first', 'second', 'tie', 'bad', 'skip')"),
    CheckConstraint("strength BETWEEN 1 AND 3"),
    # The promise of the whole package, held by the database itself: one vote that counts, a rater and pair.
    Index(
        "one_vote",
        "rater_id",
        "pair_id",
        unique=True,
        sqlite_where=text("undone IS NULL"),
        postgresql_where=text("undone IS NULL"),
    ),
    Index("votes_of_pair", "pair_id"),
)
