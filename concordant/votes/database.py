"""Opens the vote database: a SQLite file, or a server by its URL.

Every change is one transaction. SQLite runs in WAL mode, so that pages are read while a vote is written, and syncs
every transaction: a vote that was acknowledged is on the disk. A SQLite transaction takes the write lock at its start,
because one that reads first and then writes can be refused at any time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from concordant.core.errors import UserError
from concordant.votes.schema import VERSION, facts, metadata

Result = TypeVar("Result")
TRIES = 5  # of a transaction that lost a race against another one
WAIT = 30.0  # seconds for which SQLite waits for the lock
POOL = 16  # connections of a process to a server
FRESH = 1.0  # seconds for which a connection is not asked whether it is alive
_SINCE = "since"  # in the pool's record of a connection: when it was put back


class Away(Exception):
    """The database cannot be reached just now. Nothing was written; the same request may be sent again."""


class Database:
    """An open database. It may be used by several threads."""

    def __init__(self, place: str) -> None:
        """Open the file or the URL ``place`` and make the tables if there are none. Raises UserError."""
        self.place = shown(place)
        url = place if "://" in place else f"sqlite:///{os.path.expanduser(place)}"
        if url.startswith("postgresql://"):
            url = "postgresql+psycopg" + url.removeprefix("postgresql")
        self.is_sqlite = url.startswith("sqlite")
        try:
            options: dict[str, Any] = {"connect_args": {"timeout": WAIT, "check_same_thread": False}}
            if not self.is_sqlite:
                options = {"pool_size": POOL, "max_overflow": 0, "pool_timeout": WAIT}
            self.engine = sa.create_engine(url, **options)
            if self.is_sqlite:
                sa.event.listen(self.engine, "connect", _set_up)
                sa.event.listen(self.engine, "begin", _begin)
            else:
                sa.event.listen(self.engine, "checkin", _put_back)
                sa.event.listen(self.engine, "checkout", self._look_at)
            self._make_tables()
        except (ArgumentError, NoSuchModuleError):
            raise UserError(
                f"database: expected a file, or a URL such as postgresql://USER@HOST/NAME; given {self.place}"
            ) from None
        except ModuleNotFoundError as missing:
            raise UserError(f"database: {self.place} needs the package {missing.name}, of concordant[studio]") from None
        except DBAPIError as problem:
            raise UserError(f"database: cannot open {self.place}: {str(problem.orig).strip()}") from None

    def change(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run ``work`` in one transaction: all of it happens, or nothing.

        ``work`` runs again if another transaction was faster, so it must have no effect outside the database. Raises
        ``Away`` if the database cannot be reached.
        """
        for attempt in range(TRIES):
            try:
                with self.engine.begin() as connection:
                    return work(connection)
            except IntegrityError:  # another transaction wrote the row first, and the next try sees that row
                if attempt == TRIES - 1:
                    raise
            except DBAPIError as problem:
                if attempt == TRIES - 1 or not _is_race(problem):
                    raise Away(str(problem.orig).strip()) from None
            except sa.exc.TimeoutError as problem:
                raise Away(str(problem)) from None
            time.sleep(0.01 * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def count(self, connection: sa.Connection, *tables: sa.Table) -> None:
        """Let a server look at the tables after many rows were added.

        It plans a statement by what it knows of the sizes, and finds out by itself only after a minute or more. Until
        then it takes the tables for small, and looks at all free seats for each next pair.
        """
        if not self.is_sqlite:
            connection.exec_driver_sql(f"ANALYZE {', '.join(table.name for table in tables)}")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the database."""
        try:
            with self.engine.connect() as connection:
                own = {"reads": True} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
                yield connection.execution_options(**own)
        except (sa.exc.TimeoutError, DBAPIError) as problem:
            raise Away(str(problem).partition("\n")[0]) from None

    def _look_at(self, connection: Any, record: Any, proxy: object) -> None:
        """Make another connection in place of one that is dead. One that was in use a moment ago is not asked."""
        if time.monotonic() - record.info.get(_SINCE, math.inf) < FRESH:
            return
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except self.engine.dialect.loaded_dbapi.Error:
            raise sa.exc.DisconnectionError from None

    def close(self) -> None:
        self.engine.dispose()

    def _make_tables(self) -> None:
        for attempt in range(TRIES):  # of two servers that start together, one makes the tables
            try:
                with self.engine.begin() as connection:
                    metadata.create_all(connection)
                    found = connection.scalar(sa.select(facts.c.value).where(facts.c.name == "version"))
                    if found is None:
                        connection.execute(facts.insert().values(name="version", value=str(VERSION)))
                break
            except DBAPIError:
                if attempt == TRIES - 1:
                    raise
                time.sleep(0.05 * 2**attempt)
        if found is not None and found != str(VERSION):
            raise UserError(f"database: {self.place} has tables of version {found}; expected {VERSION}")


def shown(place: str) -> str:
    """The place without its password."""
    try:
        return sa.make_url(place).render_as_string(hide_password=True) if "://" in place else place
    except ArgumentError:
        return place.partition("://")[0] + "://…"


def _set_up(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own; _begin does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _put_back(connection: Any, record: Any) -> None:
    record.info[_SINCE] = time.monotonic()


def _is_race(problem: DBAPIError) -> bool:
    """Whether the transaction lost a race: a deadlock, or SQLite's lock."""
    state = getattr(problem.orig, "sqlstate", None)
    return state in ("40001", "40P01") or "locked" in str(problem.orig)
