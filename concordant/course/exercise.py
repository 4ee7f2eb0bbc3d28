"""What an exercise is: a task, its files, what is observed of a learner's file, and the mistakes that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
Observed = dict[str, Any]  # by what was asked: numbers, texts, or nested lists of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A known mistake: the solution with ``old`` replaced by ``new`` behaves as a file with this mistake does."""

    name: str
    old: str
    new: str
    says: str  # what is wrong and why it matters; whole sentences

    def of(self, solution: str) -> str:
        assert solution.count(self.old) == 1, f"{self.name}: the solution has {self.old!r} not once"
        return solution.replace(self.old, self.new)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    number: int
    phase: str  # of the seed's plan
    name: str  # of its files
    title: str
    hint: str
    observe: Callable[[ModuleType], Observed]  # calls the learner's code; a key says in words what was asked
    mistakes: tuple[Mistake, ...]

    @property
    def skeleton(self) -> str:
        return (HERE / "skeletons" / f"{self.name}.py").read_text(encoding="utf-8")

    @property
    def solution(self) -> str:
        return (HERE / "solutions" / f"{self.name}.py").read_text(encoding="utf-8")
