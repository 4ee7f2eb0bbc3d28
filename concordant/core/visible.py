"""Prints text of unknown origin safely: control characters are shown as escapes and never sent to the terminal.

Column and file names, keys, answers of a model and error messages may hold control characters. A terminal obeys control
characters: it clears its screen, sets its title, or writes to the clipboard.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# C0 except newline and tab, DEL, C1; marks that change the direction of text; halves of surrogate pairs.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with every character that controls a terminal replaced by its Python escape, such as ``\\x1b``."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str, end: str = "\n") -> None:
    """Print to stdout: with control characters as escapes on a terminal, unchanged to a file or another program."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    shown = visible(text) if is_terminal else text.encode("utf-8", "backslashreplace").decode("utf-8")
    print(shown, end=end, flush=True)


class _VisibleRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return visible(super().getMessage())


@contextmanager
def all_messages_visible() -> Iterator[None]:
    """Inside the block, log records and warnings of every library send no control characters.

    Libraries quote what they read, such as a key of a model's configuration. Characters that a stream cannot hold, or
    bytes on the standard input that are no text, become escapes too.
    """
    factory, format_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def formatted(*args: Any, **kwargs: Any) -> str:
        return visible(format_warning(*args, **kwargs))

    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # other programs and tests put objects of their own in their place
            with suppress(io.UnsupportedOperation):  # the input cannot be changed after somebody has read from it
                stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_VisibleRecord)
    warnings.formatwarning = formatted
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = format_warning
