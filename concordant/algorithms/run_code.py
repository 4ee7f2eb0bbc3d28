"""Python code in a process of its own, with limits on time, memory, files and processes.

The limits stop accidents, not attackers. The code can read this user's files and use the network, can fill the disk
with many small files until the time ends, and can leave the process group by ``os.setsid``. Root has no limit on
processes. Code that knows this file can also pretend to have passed. Untrusted models need a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 5  # processor time, and half of the wall time
MEMORY = 512 * 2**20  # bytes of address space
FILE_SIZE = 2**20  # bytes of one file
OPEN_FILES = 32
PROCESSES = 0  # new processes and threads

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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
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
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.communicate(json.dumps([limits, answer, tests, passed]).encode(), timeout=2 * SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return (Path(folder) / passed).exists()
