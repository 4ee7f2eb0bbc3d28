"""Two live processes that take turns, so that both are measured warm and neither is in the other's way.

A side is a process that says it is ready, then waits; for each line it is sent it works once and answers with a line of
JSON. Between turns it sleeps in a read. Needs nothing but Python: peers import it in their own environment.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 0.5  # seconds between turns, in which the last side's threads stop spinning, as they do between operations


class Turns:
    """A side's end. Whatever libraries print goes to stderr: stdout is the line to the driver."""

    def __init__(self) -> None:
        self._line = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def wait(self) -> None:
        """Until it is this side's turn; ends the process when there are no more."""
        if not sys.stdin.readline():
            self._line.close()
            os._exit(0)  # out of the middle of a trainer's loop

    def report(self, **numbers: Any) -> None:
        """What the turn gave."""
        self._line.write(json.dumps(numbers) + "\n")
        self._line.flush()


def peak_mib() -> float:
    """Most memory this process ever had. From /proc where there is one: what getrusage says is never less than the
    parent had when it started this process."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (x for x in status.read_text(encoding="ascii").splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Side:
    """The driver's end: one process, started and warmed up."""

    def __init__(
        self,
        name: str,
        python: Path,
        module: str,
        settings: Mapping[str, Any],
        path: Sequence[Path],
        log: Path,
        extra: Mapping[str, str] | None = None,  # environment variables of this side alone
    ) -> None:
        self.name, self._log = name, log
        threads = str(settings["threads"])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        environment |= extra or {}
        if settings["device"] == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", module, json.dumps(dict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        self.facts = self._read()

    def turn(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        time.sleep(PAUSE)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            end = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{self.name} ended with {code}; the end of {self._log}:\n{end}")
        return json.loads(line)
