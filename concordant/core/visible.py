"""Text of unknown origin on a terminal: what would steer the terminal is shown as an escape and never sent.

Column and file names, keys, answers of a model and error messages may hold control characters. A terminal obeys these:
it clears its screen, sets its title, or writes to the clipboard.
"""

from __future__ import annotations

import re
import sys

# C0 but newline and tab, DEL, C1; marks that reverse the order of what is shown; halves of surrogate pairs.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with every character that steers a terminal as its Python escape, such as ``\\x1b``."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str, end: str = "\n") -> None:
    """Print to stdout: made visible where a terminal reads, as it is where a file or another program does."""
    shown = visible(text) if sys.stdout.isatty() else text.encode("utf-8", "backslashreplace").decode("utf-8")
    print(shown, end=end, flush=True)
