"""Workers that are forked from their driver, in place of a new Python each, which takes seconds to import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace


class ForkedHelper:
    """What ``subprocess.Popen`` is to ``start_here``: a helper that is forked from its driver."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdin: int) -> None:
        from concordant.engines.group import helper, torch_team

        assert list(command) == [sys.executable, "-m", torch_team.HELPER]
        self.command = command
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.environ |= env
            code = 1
            try:
                code = helper.main()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.command, timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def fork_helpers() -> None:
    """From now on, a team that this process starts has helpers that are forked, in place of a new Python each."""
    from concordant.engines.group import torch_team

    torch_team.subprocess = SimpleNamespace(
        Popen=ForkedHelper, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
