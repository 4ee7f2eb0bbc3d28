"""The text of a response while it is sampled, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class GrowingText:
    """Gives the text of a growing response in pieces that are never taken back.

    A character of several tokens comes after its last token. Text that may be the beginning of a stop string comes when
    it is known not to be one. ``read(ids, begun)`` gives the text of all tokens so far; ``begun`` is true while the
    response goes on, and then last letters that may become a stop string are left out.
    """

    def __init__(self, read: Callable[[Sequence[int], bool], str]) -> None:
        self.read = read
        self.given = ""

    def more(self, ids: Sequence[int]) -> str:
        """The new text after the tokens ``ids``, which are all tokens so far."""
        text = self.read(ids, True)
        if text.endswith("\ufffd") or not text.startswith(self.given):
            return ""
        new, self.given = text[len(self.given) :], text
        return new

    def rest(self, ids: Sequence[int]) -> str:
        """The text that is still to come, now that the response has ended. ``given`` is then the whole text."""
        text = self.read(ids, False)
        new = text[len(self.given) :] if text.startswith(self.given) else ""
        self.given = text
        return new
