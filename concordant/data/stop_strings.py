"""Stop strings: an answer ends with the first token after which its decoded text contains one of them.

Strings are looked for in the decoded text and not in tokens. So it makes no difference whether a string spans several
tokens, begins or ends inside a token, or has characters of several tokens. The text of special tokens counts. The
prompt is no part of an answer. Letters are compared as they are: no case is folded, and no accents are normalised.

The tokens of the answer stay whole, because a policy learns from the tokens that it chose. Its text ends before the
string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concordant.data.tokens import text_of

CHARACTER = 4  # the most bytes of a character in UTF-8, so the most tokens that one character takes


class StopStrings:
    """Finds ``strings`` in answers that are decoded by ``tokenizer``. An answer is looked at after each of its tokens.

    Only the end of the answer is decoded, so the time for a token does not grow with the answer.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        # A token with a text has at least one byte. One character more keeps a string away from the start of what is
        # decoded, where a decoder may drop a space.
        self.tokens = max((len(s.encode("utf-8", "surrogatepass")) for s in self.strings), default=0) + CHARACTER
        self._spoken: dict[int, bool] = {}  # whether a token has a text; ids behind the vocabulary have none

    def complete(self, ids: Sequence[int]) -> bool:
        """Whether the answer ``ids`` contains a stop string, if it contained none before its last token."""
        start, needed = len(ids), self.tokens
        while start and needed:
            start -= 1
            needed -= self._has_text(ids[start])
        found = self._in(self._from_whole_character(ids, start))
        # A decoder may show letters of a part that it does not show of the whole, after bytes that are no character.
        return found and self._in(text_of(self.tokenizer, ids))

    def _in(self, text: str) -> bool:
        return any(string in text for string in self.strings)

    def _has_text(self, token: int) -> bool:
        if token not in self._spoken:
            self._spoken[token] = bool(text_of(self.tokenizer, [token]))
        return self._spoken[token]

    def _from_whole_character(self, ids: Sequence[int], start: int) -> str:
        """The text from ``start``, or from up to three tokens earlier if a character began there.

        Some decoders give up all characters of a sequence of bytes that begins inside a character.
        """
        text = ""
        for first in range(start, max(start - CHARACTER, -1), -1):
            text = text_of(self.tokenizer, ids[first:])
            if not text.startswith("\ufffd"):
                break
        return text


def before_stop(
    tokenizer: Any, ids: Sequence[int], strings: Sequence[str], begun: bool = False
) -> tuple[list[int], str]:
    """What stands before the first stop string of an answer: whole tokens, and the letters of a token that it divides.

    Of a special token, which is not shown, no letters are given. All tokens and no letters if the answer contains no
    stop string. ``begun``: last letters that may be the beginning of a stop string are left out too. Text that is shown
    while it is sampled holds them back.
    """
    ids = list(ids)
    text = text_of(tokenizer, ids) if strings else ""
    ends = [at for string in strings if (at := text.find(string)) >= 0]
    end = min(ends) if ends else len(text) - (may_become_stop(text, strings) if begun else 0)
    if end == len(text):
        return ids, ""
    whole, start = len(ids), text
    while not (len(start) <= end and text.startswith(start)):
        whole -= 1
        start = text_of(tokenizer, ids[:whole])
    is_shown = bool(text_of(tokenizer, ids[whole : whole + 1], skip_special_tokens=True))
    return ids[:whole], text[len(start) : end] if is_shown else ""


def may_become_stop(text: str, strings: Sequence[str]) -> int:
    """The number of last letters of ``text`` that may be the beginning of a stop string, 0 if none may."""
    longest = max(map(len, strings), default=0)
    for letters in range(min(longest - 1, len(text)), 0, -1):
        if any(string.startswith(text[-letters:]) for string in strings):
            return letters
    return 0
