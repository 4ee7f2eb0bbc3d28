"""A PostgreSQL server of its own for a bench or a test: made in an empty folder, and stopped at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("initdb", "pg_ctl", "postgres")


def tool(name: str) -> str:
    """The path of one of PostgreSQL's programs; "" if it is not on this machine."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(debian[-1]) if debian else shutil.which(name) or ""


def is_here() -> bool:
    return all(tool(name) for name in TOOLS)


@contextmanager
def postgres(connections: int = 100) -> Iterator[str]:
    """The URL of a new, empty database. The server listens at this machine's own address only.

    PostgreSQL refuses to run as root, so that root starts it as the user "nobody".
    """
    user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid} if os.getuid() == 0 else {}
    root = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user:
        shutil.chown(root, "nobody")
    data, log = root / "data", root / "log"

    def run(*words: str) -> None:
        with log.open("ab") as printed:
            subprocess.run(words, check=True, stdout=printed, stderr=printed, cwd=root, **user)  # type: ignore[call-overload]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        run(tool("initdb"), "-D", str(data), "-A", "trust", "-U", "votes", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-k {root} -h 127.0.0.1 -p {port} -N {connections}"
        run(tool("pg_ctl"), "-D", str(data), "-o", options, "-l", str(root / "server.log"), "-w", "start")
        try:
            yield f"postgresql://votes@127.0.0.1:{port}/postgres"
        finally:
            run(tool("pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)
