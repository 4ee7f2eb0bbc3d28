"""Errors that a user can cause. A message says what was given and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE, FAILED, WRONG_USAGE, STOPPED = 0, 1, 2, 3  # exit codes of the command line; status.json has them too


class UserError(Exception):
    """Bad input or wrong usage. The command line prints the message without a traceback and exits with 2."""


class RunFailed(Exception):
    """A run that cannot go on, e.g. every loss is NaN. The command line prints the message and exits with 1."""


class RunStopped(Exception):
    """A run that was asked to stop and can be resumed. The command line prints the message and exits with 3."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' with the closest known name, whatever its capitals, or '' if no known name is close."""
    plain = {text.lower(): text for text in reversed(list(known))}
    match = [plain[text] for text in difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.6)]
    return f' Did you mean "{match[0]}"?' if match else ""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not in a table: it says the given name, the closest one and all known ones.

    ``hint``, with a space before it, takes the place of the closest one.
    """
    known = sorted(known)
    return UserError(f'unknown {kind} "{name}".{hint or nearest(name, known)} Known: {", ".join(known)}')
