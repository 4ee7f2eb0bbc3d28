"""Runs the tests of many copies of the repository, each in a process of its own.

Loading torch and transformers takes longer than most tests. So they are loaded once, and this process is forked for
each copy: the child finds the package and the tests of its copy, and no other child sees them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
# Tests read these beside the package. Hidden folders, results of runs and compiled files are left out.
COPIED = ("concordant", "tests", "bench", "docs", "examples", "README.md", "CHANGELOG.md", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__")
LOADED = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "datasets",
    "matplotlib.figure",
    "hypothesis",
    "pytest",
)
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """Tests to run in a copy of the repository that ``change`` has changed; ``of`` says for whom."""

    of: T
    tests: Sequence[str]  # below tests/
    change: Callable[[Path], None] = lambda root: None


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: bool  # every test passed
    by: str  # the first test that failed, the time limit, or ""
    broken: str = ""  # why the tests could not run at all, else ""


@dataclass(slots=True, kw_only=True)
class _Running(Generic[T]):
    work: Work[T]
    folder: tempfile.TemporaryDirectory[str]
    started: float
    is_late: bool = False


def outcomes(works: Sequence[Work[T]], jobs: int, seconds: float) -> Iterator[tuple[T, Outcome]]:
    """The outcome of each work, as they end; ``jobs`` run at the same time, each for at most ``seconds``."""
    _load()
    waiting, running = deque(works), dict[int, _Running[T]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                pid, one = _start(waiting.popleft())
                running[pid] = one
            time.sleep(0.02)
            for pid, one in list(running.items()):
                if time.monotonic() - one.started > seconds and not one.is_late:
                    one.is_late = True
                    _kill(pid)
                if os.waitpid(pid, os.WNOHANG)[0]:
                    _kill(pid)  # what its tests have left behind
                    del running[pid]
                    yield one.work.of, _outcome(one, seconds)
    finally:
        for pid, one in running.items():
            _kill(pid)
            os.waitpid(pid, 0)
            one.folder.cleanup()


def read_outcome(code: int, output: str) -> Outcome:
    """What pytest's exit code and its output mean."""
    if code == 0:
        return Outcome(True, "")
    found = _FAILED.search(output)
    if code == 1 and found:
        return Outcome(False, found[1])
    return Outcome(False, "", f"pytest ended with code {code}:\n{output[-2000:]}")


def _load() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in LOADED:
        importlib.import_module(name)


def _start(work: Work[T]) -> tuple[int, _Running[T]]:
    folder = tempfile.TemporaryDirectory(prefix="mutant-")
    root = Path(folder.name) / "copy"
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=LEFT_OUT)
        elif source.exists():
            shutil.copy2(source, root / name)
    work.change(root)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            _run(root, work.tests)
        finally:
            os._exit(3)  # reached only where pytest itself breaks
    return pid, _Running(work=work, folder=folder, started=time.monotonic())


def _run(root: Path, tests: Sequence[str]) -> None:
    """In the child: run the tests of ``root``, write the exit code and the output beside it, and end."""
    os.setsid()
    said = os.open(root.parent / "said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(root)
    os.environ |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(root), *(place for place in sys.path if place and Path(place).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("concordant", "tests", "bench")]:
        del sys.modules[name]
    options = ["-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    code = importlib.import_module("pytest").main([*options, *(f"tests/{test}" for test in tests)])
    sys.stdout.flush()
    (root.parent / "code").write_text(str(int(code)), encoding="utf-8")
    os._exit(0)


def _outcome(one: _Running[T], seconds: float) -> Outcome:
    code, said = (Path(one.folder.name) / name for name in ("code", "said"))
    try:
        if one.is_late:
            return Outcome(False, f"the time limit of {seconds:g} s")
        output = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
        return read_outcome(int(code.read_text()) if code.exists() else -1, output)
    finally:
        one.folder.cleanup()


def _kill(pid: int) -> None:
    """End the child and every process that its tests have started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
