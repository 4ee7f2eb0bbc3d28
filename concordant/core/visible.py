"""Prints text of unknown origin safely: control characters are shown as escapes and never sent to the terminal.

Column and file names, keys, answers of a model and error messages may hold control characters. A terminal obeys control
characters: it clears its screen, sets its title, or writes to the clipboard.
"""

from __future__ import annotations

import re
import sys

# C0 except newline and tab, DEL, C1; marks that change the direction of text; halves of surrogate pairs.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with every character that controls a terminal replaced by its Python escape, such as ``\\x1b``."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str, end: str = "\n") -> None:
    """Print to stdout: with control characters as escapes on a terminal, unchanged to a file or another program."""
    shown = visible(text) if sys.stdout.isatty() else text.encode("utf-8", "backslashreplace").decode("utf-8")
    print(shown, end=end, flush=True)
