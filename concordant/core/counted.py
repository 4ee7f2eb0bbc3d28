"""A number of things in words: "1 step", "1,024 steps"."""

from __future__ import annotations


def counted(number: float, thing: str, things: str = "") -> str:
    """``number`` and the noun that fits it. ``things`` is the plural if it is not ``thing`` and an s."""
    text = f"{number:,}"
    return f"{text} {thing if text == '1' else things or f'{thing}s'}"
