"""Are votes lost or counted twice under load? ``python -m bench.votes``

Raters vote at once over HTTP. With PostgreSQL two processes of the studio serve one database, and one of them is killed
when half of the votes are in: its raters send the vote again, with the same key, to the other process. With SQLite one
process serves. One vote in ten is sent twice in any case. At the end every vote that a server has acknowledged must
stand in the database, once.

A rater thinks before each vote, for a time with an exponential distribution. Latency is that of single requests that
were answered; ``longest_vote`` is the longest time from a vote's first try to its acknowledgement, retries included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.postgres import is_here, postgres
from concordant.data.records import Message
from concordant.votes.rows import Arena, NewPair
from concordant.votes.store import Store

RESULTS = Path(__file__).parent / "results"
AWAY = (OSError, asyncio.IncompleteReadError, ValueError)  # what a killed server looks like to a client


@dataclass
class Load:
    """What the raters have seen."""

    total: int
    acknowledged: set[str] = field(default_factory=set)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"next": [], "vote": []})
    longest_vote: float = 0.0
    retries: int = 0
    half: asyncio.Event = field(default_factory=asyncio.Event)
    killed_cpu: float = 0.0  # processor seconds of the process that was killed


class Client:
    """One rater's connection, by HTTP/1.1. It goes to another server when its own does not answer."""

    def __init__(self, ports: list[int], number: int, token: str, load: Load) -> None:
        self.ports, self.at, self.token, self.load = ports, number % len(ports), token, load
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send until a server answers."""
        while True:
            try:
                started = time.perf_counter()
                status, found = await asyncio.wait_for(self._once(what, body), 30)
                if status == 200:
                    self.load.seconds[what].append(time.perf_counter() - started)
                    return found
                assert status in (429, 503), (status, found)
            except (*AWAY, TimeoutError):
                if self.writer:
                    self.writer.close()
                self.writer = None
                self.at = (self.at + 1) % len(self.ports)
            self.load.retries += 1
            await asyncio.sleep(0.2)

    async def _once(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        port = self.ports[self.at]
        if self.writer is None or self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        data = json.dumps(body).encode()
        head = f"POST /api/ask/{what} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {self.token}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        found = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), json.loads(found)


async def rate(client: Client, number: int, think: float, load: Load) -> None:
    """One rater votes until no pair is left."""
    stream = random.Random(number)
    await asyncio.sleep(stream.random() * think)  # raters do not come in one moment
    while asked := (await client.post("next", {"arena": "main"}))["asked"]:
        await asyncio.sleep(stream.expovariate(1 / think) if think else 0)
        key = f"{number}-{asked['pair']}-{stream.getrandbits(32):x}"
        side = stream.choice(["left", "right", "tie", "bad"])
        vote = {"arena": "main", "key": key, "pair": asked["pair"], "side": side}
        started = time.perf_counter()
        for _ in range(2 if stream.random() < 0.1 else 1):
            stored = await client.post("vote", vote)
            assert stored["counts"], stored
        load.longest_vote = max(load.longest_vote, time.perf_counter() - started)
        load.acknowledged.add(key)
        if len(load.acknowledged) >= load.total / 2:
            load.half.set()


def fill(place: str, raters: int, votes: int) -> list[str]:
    """An arena with a seat for every vote, two on each pair; the raters' tokens."""
    store = Store(place)
    arena = store.add_arena(Arena(name="main", raters_per_pair=2, gold_share=0.0, lease=3600.0))
    text = "An answer of usual length, with a few more words. " * 4
    new = [
        NewPair(key=f"p{i}", prompt=(Message("user", f"Question {i}?"),), first=f"{text}{i}a", second=f"{text}{i}b")
        for i in range(votes // 2)
    ]
    store.add_pairs(arena, new)
    tokens = [store.add_rater(f"rater {i}") for i in range(raters)]
    store.database.close()
    return tokens


def serve(port: int, place: str) -> None:
    """One process of the studio."""
    from concordant.core.addresses import listen
    from concordant.studio.command import server_of
    from concordant.studio.settings import Settings

    settings = Settings(runs=Path(tempfile.mkdtemp()), port=port, votes=place, requests_per_second=1e6)
    with listen("127.0.0.1", port) as listener:
        server_of(settings).run(sockets=[listener])


async def ready(ports: list[int]) -> None:
    for port in ports:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.1)


async def drive(ports: list[int], tokens: list[str], load: Load, think: float, victim: int | None) -> float:
    raters = [rate(Client(ports, i, token, load), i, think, load) for i, token in enumerate(tokens)]

    async def kill() -> None:
        await load.half.wait()
        if victim is not None:
            load.killed_cpu = sum(_cpu(victim))
            os.kill(victim, signal.SIGKILL)

    started = time.perf_counter()
    await asyncio.gather(*raters, kill())
    return time.perf_counter() - started


def measure(name: str, place: str, servers: int, raters: int, votes: int, think: float) -> dict[str, Any]:
    tokens = fill(place, raters, votes)
    ports = [18_700 + i for i in range(servers)]
    command = [sys.executable, "-m", "bench.votes", "--serve"]
    processes = [subprocess.Popen([*command, str(port), "--database", place]) for port in ports]
    load = Load(total=votes)
    try:
        asyncio.run(ready(ports))
        before = sum(sum(_cpu(process.pid)) for process in processes)
        seconds = asyncio.run(drive(ports, tokens, load, think, processes[0].pid if servers > 1 else None))
        cpu = load.killed_cpu + sum(_cpu(processes[-1].pid)) - before
    finally:
        for process in processes:
            process.kill()
            process.wait()
    store = Store(place)
    _, found = store.read(store.arena("main"))
    keys = _keys(store)
    requests = sum(map(len, load.seconds.values()))
    row: dict[str, Any] = {
        "database": name, "servers": servers, "killed": int(servers > 1), "raters": raters, "think_seconds": think,
        "votes": len(found), "acknowledged": len(load.acknowledged),
        "lost": len(load.acknowledged - keys) + max(0, votes - len(found)),
        "doubled": sum(n - 1 for n in Counter((vote.pair, vote.rater) for vote in found).values()),
        "retries": load.retries, "longest_vote": round(load.longest_vote, 3), "seconds": round(seconds, 1),
        "requests": requests, "server_cpu_ms_per_request": round(1000 * cpu / requests, 2),
        "load_average": os.getloadavg()[0],
    }  # fmt: skip
    for what, times in load.seconds.items():
        row |= {f"{what}_p{p}_ms": round(1000 * float(np.percentile(times, p)), 1) for p in (50, 99)}
    store.database.close()
    return row


def _keys(store: Store) -> set[str]:
    import sqlalchemy as sa

    from concordant.votes.schema import votes

    with store.database.read() as connection:
        return set(connection.scalars(sa.select(votes.c.key).where(votes.c.undone.is_(None))))


def _cpu(pid: int) -> tuple[float, float]:
    """User and system seconds of a running process, on Linux."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(parts[11]) / tick, int(parts[12]) / tick


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--votes", type=int, default=20_000)
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds before a vote")
    parser.add_argument("--only", choices=["postgresql", "sqlite"], default=None)
    parser.add_argument("--output", type=Path, default=RESULTS / "votes.json")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # the port of a process of the bench
    parser.add_argument("--database", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.database)
        return
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if given.only != "sqlite":
            if not is_here():
                sys.exit("PostgreSQL is not on this machine; --only sqlite runs the other half")
            rows.append(("postgresql", stack.enter_context(postgres()), 2))
        if given.only != "postgresql":
            rows.append(("sqlite", str(folder / "votes.sqlite"), 1))
        found = []
        for row in rows:
            found.append(measure(*row, given.raters, given.votes, given.think))
            print(json.dumps(found[-1]), flush=True)
    given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
