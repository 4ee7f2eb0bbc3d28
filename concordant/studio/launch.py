"""Starts, stops and resumes runs. A run is a process of its own: it goes on when the studio is closed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

from concordant.core.errors import UserError
from concordant.runs.names import CONFIG, PIPELINE
from concordant.runs.status import read
from concordant.studio.folders import stamp
from concordant.studio.form import process_command

LOGS = ".studio"  # in the folder of runs: what started runs print
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,60}){0,2}")
_MOST_AT_ONCE = 4
_SHOWN = 4_000  # bytes of what a run printed last
_MOST_LOGS = 200  # files; the oldest go
_LARGEST, _KEPT = 2**23, 2**20  # bytes of a file; a larger one keeps its end


class Launcher:
    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._lock, self._sweeping = threading.Lock(), threading.Lock()
        self.sweep()

    def place_for(self, name: str) -> Path:
        """The folder of a new run.

        Raises:
            UserError: the name cannot be a folder below the folder of runs, or the folder is there already.
        """
        if not _NAME.fullmatch(name) or any(part.endswith(".") for part in name.split("/")):
            raise UserError(f'"{name[:80]}" cannot name a run; expected letters, digits, "-", "_" and ".", e.g. dpo-2')
        folder = self.runs / name
        if not folder.resolve().is_relative_to(self.runs.resolve()):
            raise UserError(f"{name} leads out of the folder of runs")
        if folder.exists() and any(folder.iterdir()) if folder.is_dir() else folder.exists():
            raise UserError(f"{name} is there already; choose another name")
        return folder

    def start(self, name: str, arguments: list[str]) -> int:
        """Run ``concordant`` with these words. Returns the id of the process."""
        with self._lock:
            self._started = {run: process for run, process in self._started.items() if process.poll() is None}
            if name in self._started:
                raise UserError(f"{name} has been started already")
            if len(self._started) >= _MOST_AT_ONCE:
                raise UserError(f"{_MOST_AT_ONCE} runs that the studio started are still running; stop one first")
            log = self.log_of(name)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
            self.sweep()
            with log.open("ab") as printed:  # appended, so that the file can be made shorter while the run prints
                process = subprocess.Popen(
                    process_command(arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the studio's terminal is not for the run
                )
            self._started[name] = process
            return process.pid

    def stop(self, name: str, folder: Path) -> None:
        """Ask a run to finish its step, save and end. A second call ends the process at once, as in a terminal."""
        reading = read(folder)
        if reading is None or reading.life != "running":
            raise UserError(f"{name} is not running on this machine")
        try:
            os.kill(reading.status.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError) as problem:
            raise UserError(f"{name} cannot be stopped: {problem.strerror}") from None

    def sweep(self) -> None:
        """Remove the oldest of what runs printed, and shorten what is too long."""
        with self._sweeping:
            logs = sorted((stamp(log)[2], log) for log in (self.runs / LOGS).glob("*.log"))
            running = {self.log_of(run) for run, process in list(self._started.items()) if process.poll() is None}
            for _, log in logs[:-_MOST_LOGS]:
                if log not in running:
                    log.unlink(missing_ok=True)
            for _, log in logs:
                _shorten(log)

    def printed(self, name: str) -> tuple[str, int | None]:
        """The end of what a started run printed, and its exit code; None while it runs or if it is not known."""
        with self._lock:
            process = self._started.get(name)
        code = process.poll() if process else None
        try:
            with self._sweeping:
                _shorten(self.log_of(name))
            with self.log_of(name).open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _SHOWN))
                return log.read().decode("utf-8", "replace"), code
        except (OSError, ValueError):  # nothing was printed; a name that no file can have
            return "", code

    def log_of(self, name: str) -> Path:
        return self.runs / LOGS / f"{name.replace('/', '+')}.log"


def _shorten(log: Path) -> None:
    """Keep the end of a file that is too long. What its run prints in this very moment may be lost."""
    if stamp(log)[1] <= _LARGEST:
        return
    with log.open("r+b") as file:
        file.seek(-_KEPT, os.SEEK_END)
        end = file.read()
        file.seek(0)
        file.write(end)
        file.truncate()


def resume_arguments(folder: Path, verb: str) -> list[str]:
    """The words of the command that continues the run in ``folder``."""
    if (folder / PIPELINE).is_file():
        return ["run", str(folder / PIPELINE), f"--output={folder}"]
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder.name} has no {CONFIG}, so its command is not known")
    return [verb, f"--config={folder / CONFIG}", f"--output={folder}", "--resume=auto"]
