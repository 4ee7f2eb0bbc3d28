"""A planted bug: one exact place of the package, what stands there instead, and the tests that must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class OutOfDate(ValueError):
    """The code has moved, so a bug of the list cannot be planted any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    name: str  # words joined by hyphens
    file: str  # below concordant/
    old: str  # occurs exactly once in the file; whole lines or a part of a line
    new: str
    story: str  # a sentence: what a user would see
    tests: tuple[str, ...]  # below tests/: a file, or FILE::FUNCTION where the whole file takes long

    @property
    def folder(self) -> str:
        return self.file.partition("/")[0]

    def mutated(self, source: str) -> str:
        """``source``, the text of the file, with the bug in it. Raises OutOfDate where ``old`` does not occur once."""
        count = source.count(self.old)
        if count != 1:
            raise OutOfDate(
                f"{self.name}: concordant/{self.file} has the old text {count} times, expected once. The code has "
                f"moved: write the bug for the code as it is now, in tests/mutants/planted/{self.folder}.py"
            )
        return source.replace(self.old, self.new)

    def plant(self, root: Path) -> None:
        """Plant the bug in the copy of the repository at ``root``."""
        path = root / "concordant" / self.file
        path.write_text(self.mutated(path.read_text(encoding="utf-8")), encoding="utf-8")
