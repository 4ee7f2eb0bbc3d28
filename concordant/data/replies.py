"""What a chat template writes between two turns of the assistant when somebody else speaks there.

A policy's turn ends with its end token. Behind it stand the rest of that turn, the reply, and the beginning of the next
turn, as the template writes them. These ids are the ones that a demonstration of the same dialogue has at this place.
"""

from __future__ import annotations

from collections.abc import Sequence

from concordant.core.errors import UserError
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Tools
from concordant.data.template import ChatTemplate, Refusal, refused
from concordant.data.tokens import ids_of, text_of

Talk = tuple[tuple[Message, ...], Tools]  # a dialogue whose last message is a reply, and the tools of its prompt


class ReplyEncoder:
    """Encodes replies for the tokenizer of ``encoder``."""

    def __init__(self, encoder: ChatEncoder) -> None:
        self.tokenizer, self.ends = encoder.tokenizer, frozenset(encoder.end_ids)
        self._template = ChatTemplate(encoder.tokenizer)
        self._template.learn_form()

    def __call__(self, talks: Sequence[Talk]) -> list[list[int]]:
        """For each dialogue, the ids behind the end token of the last but one message, an answer.

        Raises UserError where the template refuses a dialogue, leaves the reply out, or writes no end token.
        """
        found = self._behind(talks)
        # A template may write an answer otherwise when others follow, for example without its thought. The policy goes
        # on behind what it said. So what the template writes behind a short answer is put there.
        others = [i for i, ids in enumerate(found) if ids is None]
        short = self._behind([((*_SHORT, talks[i][0][-1]), talks[i][1]) for i in others])
        for i, ids in zip(others, short, strict=True):
            found[i] = ids
        for (messages, _), ids in zip(talks, found, strict=True):
            if ids is None:
                raise UserError(
                    "the chat template writes no end token behind an answer, or writes the answer otherwise when a "
                    f"message of the role {messages[-1].role} follows; an environment needs a template that keeps it"
                )
        return [ids for ids in found if ids is not None]

    def cut(self, text: str, tokens: int) -> str:
        """The text, or its first ``tokens`` tokens if it has more. Raises ValueError for a text that has no ids."""
        text.encode()  # a tokenizer's own error for half of a surrogate pair does not say what is wrong
        (ids,) = ids_of(self.tokenizer, [text])
        return text if len(ids) <= tokens else text_of(self.tokenizer, ids[:tokens])

    def _behind(self, talks: Sequence[Talk]) -> list[list[int] | None]:
        closed = self._rendered([(messages[:-1], tools) for messages, tools in talks], open_turn=False)
        opened = self._rendered(talks, open_turn=True)
        for (messages, _), text in zip(talks, opened, strict=True):
            if messages[-1].content.strip() not in text:
                raise UserError(f"the chat template leaves out messages of the role {messages[-1].role}")
        found: list[list[int] | None] = []
        for before, after in zip(ids_of(self.tokenizer, closed), ids_of(self.tokenizer, opened), strict=True):
            end = next((place for place in reversed(range(len(before))) if before[place] in self.ends), None)
            found.append(None if end is None or after[: end + 1] != before[: end + 1] else after[end + 1 :])
        return found

    def _rendered(self, talks: Sequence[Talk], open_turn: bool) -> list[str]:
        texts = self._template.render(talks, open_turn)
        for (messages, _), text in zip(talks, texts, strict=True):
            if isinstance(text, Refusal):
                raise refused(messages, text)
        return [text for text in texts if isinstance(text, str)]


_SHORT = (Message("user", "Q"), Message("assistant", "A"))
