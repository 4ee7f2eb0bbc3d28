"""Constitutional AI's first half: answers are criticised by a principle and revised.  Bai et al. 2022 (2212.08073).

All answers go through a round together, because a writer answers many questions at once faster than one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from concordant.data.dialogue import Messages
from concordant.feedback.principles import Principle
from concordant.feedback.questions import critique, revision
from concordant.feedback.writers import Answered, Skip

Ask = Callable[[Sequence[Messages], str], "list[Answered]"]  # questions, and what they are called in the progress
ReviseText = Callable[[Messages, str, Principle], "str | None"]  # prompt, answer, principle; None: nothing to revise

EMPTY = "an empty answer of the critic"


@dataclass(slots=True)
class Draft:
    """A prompt and the versions of its answer."""

    prompt: Messages
    principles: list[Principle]  # one for each revision
    answers: list[str]  # the policy's answer, then each revision
    critiques: list[str]
    dropped: str = ""  # why there is no last version

    @property
    def last(self) -> str:
        return self.answers[-1]


def revise_in_words(drafts: Sequence[Draft], ask: Ask) -> None:
    """Let a writer criticise and revise every draft, once for each of its principles."""
    for turn in range(max((len(draft.principles) for draft in drafts), default=0)):
        left = [draft for draft in drafts if not draft.dropped]
        asked = [critique(d.prompt, d.last, d.principles[turn].critique) for d in left]
        told = _texts(left, ask(asked, f"critique {turn + 1}"))
        kept = [(d, question, text) for d, question, text in zip(left, asked, told, strict=True) if text is not None]
        again = [revision(question, text, d.principles[turn].revise) for d, question, text in kept]
        revised = _texts([d for d, _, _ in kept], ask(again, f"revision {turn + 1}"))
        for (draft, _, criticism), text in zip(kept, revised, strict=True):
            if text is not None:
                draft.critiques.append(criticism)
                draft.answers.append(text)


def revise_by_function(drafts: Sequence[Draft], function: ReviseText) -> None:
    """Let a Python function revise every draft. An answer that it leaves alone stays as it is."""
    for draft in drafts:
        for principle in draft.principles:
            text = function(draft.prompt, draft.last, principle)
            draft.critiques.append("")
            draft.answers.append(draft.last if text is None else text)
            if not draft.last.strip():
                draft.dropped = EMPTY
                break


def _texts(drafts: Sequence[Draft], answers: Sequence[Answered]) -> list[str | None]:
    """The text of each answer. A draft whose answer is missing or empty is dropped."""
    texts: list[str | None] = []
    for draft, answered in zip(drafts, answers, strict=True):
        text = None if isinstance(answered, Skip) else answered.text.strip()
        draft.dropped = answered.reason if isinstance(answered, Skip) else ("" if text else EMPTY)
        texts.append(text or None)
    return texts
