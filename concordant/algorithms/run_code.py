"""Python code in a process of its own, with limits on time, memory, files and processes.

The limits stop accidents, not attackers. The system knows no limit on the files of a folder together, and none on the
processes of root, so this process looks at both while the code runs. The code can read this user's files and use the
network, can write outside of its folder, and can leave the process group by ``os.setsid``. Code that knows this file
can also pretend to have passed. Untrusted models need a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS = 5  # processor time, and half of the wall time
MEMORY = 512 * 2**20  # bytes of address space
FILE_SIZE = 2**20  # bytes of one file
OPEN_FILES = 32
FOLDER_SIZE = 16 * 2**20  # bytes of all files together
FOLDER_FILES = 1000  # files and folders
PROCESSES = 0  # new processes and threads; for root of processes alone
LOOK = 0.1  # seconds between two looks at folder and processes

# The child lowers its own limits: code between fork and exec is not safe in a process that has threads.
_CHILD = """
import json, resource, sys
limits, answer, tests, passed = json.load(sys.stdin)
for name, most in limits.items():
    resource.setrlimit(getattr(resource, name), (most, most))
space = {"__name__": "__main__"}
exec(compile(answer, "answer", "exec"), space)
exec(compile(tests, "tests", "exec"), space)
open(passed, "w").close()
"""


def passes(answer: str, tests: str) -> bool:
    """Whether ``answer`` and then ``tests`` run to their end within the limits. An early ``sys.exit`` does not pass."""
    limits = {
        "RLIMIT_CPU": SECONDS,
        "RLIMIT_AS": MEMORY,
        "RLIMIT_FSIZE": FILE_SIZE,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_NPROC": PROCESSES,
        "RLIMIT_CORE": 0,
    }
    with _folder() as folder:
        passed = secrets.token_hex(16)
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _CHILD],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        given: bytes | None = json.dumps([limits, answer, tests, passed]).encode()
        end, is_running, is_modest = time.monotonic() + 2 * SECONDS, True, True
        try:
            while is_running and is_modest and time.monotonic() < end:
                try:
                    child.communicate(given, timeout=LOOK)
                    is_running = False
                except subprocess.TimeoutExpired:
                    given = None  # the next call sends what is left of it
                is_modest = _is_modest(folder, child.pid, PROCESSES + is_running)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return is_modest and (Path(folder) / passed).exists()


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A new folder, removed afterwards. ``shutil.rmtree`` calls itself, too often for folders in folders."""
    folder = tempfile.mkdtemp()
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:
            subprocess.run(["rm", "-rf", folder], check=False)


def _is_modest(folder: str, group: int, processes: int) -> bool:
    """Whether the folder's files and the group's processes are few enough. Without ``/proc`` no process is counted."""
    size = count = 0
    left = [folder]
    while left:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:  # what is gone again counts nothing
            for entry in entries:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                else:
                    size += entry.stat(follow_symlinks=False).st_size
        if size > FOLDER_SIZE or count > FOLDER_FILES:
            return False
    return _processes(group) <= processes


def _processes(group: int) -> int:
    """How many processes of the group have not ended."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]  # a name may have spaces and brackets
            found += int(its_group) == group and state != "Z"
    return found
