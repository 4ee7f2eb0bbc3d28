"""Every prompt of the world, and their one split into training and held-out prompts.

The split holds out *phrasings of questions*. For each question some frames are held out, with every opener, and so are
some of the follow-ups. The other frames ask the same question in training. The split does not depend on a seed, so a
model trained with one seed can be evaluated on the held-out prompts of any other seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from concordant.core.seeding import derive
from concordant.data.records import Message
from concordant.data.toytalk.phrases import OPENERS, QUESTIONS, SAME_ATTRIBUTE, SAME_THING, STATEMENTS, state
from concordant.data.toytalk.world import FACTS, HARMS, KIND, Question, questions, truth

Group = Literal["fact", "task", "harm", "follow-up"]
GROUPS: tuple[Group, ...] = ("fact", "task", "harm", "follow-up")

_HELD_FRAMES = 2  # held-out frames of each question, which has six
_HELD_FOLLOW_UPS = 4  # one follow-up in four is held out


@dataclass(frozen=True, slots=True)
class ToyPrompt:
    messages: tuple[Message, ...]
    question: Question
    held_out: bool


@cache
def prompts(group: Group, held_out: bool) -> tuple[ToyPrompt, ...]:
    """The prompts of a group on one side of the split, in a fixed order and without repeats."""
    if group == "follow-up":
        every = [*_follow_ups_to_another_thing(), *_follow_ups_on_the_same_thing()]
    else:
        every = [prompt for question in questions(group) for prompt in _direct(question)]
    return tuple(prompt for prompt in every if prompt.held_out == held_out)


def _direct(question: Question) -> list[ToyPrompt]:
    frames, held = _frames(question)
    return [
        ToyPrompt((Message("user", opener + _ask(frame, question)),), question, index in held)
        for index, frame in enumerate(frames)
        for opener in OPENERS
    ]


def _frames(question: Question) -> tuple[tuple[str, ...], set[int]]:
    """The frames that ask ``question``, and the numbers of the held-out ones."""
    frames = QUESTIONS["harm" if question.topic == "harm" else question.attribute]
    first = derive(0, "toytalk/held-out", question.subject, question.attribute) % len(frames)
    return frames, {(first + 2 * offset) % len(frames) for offset in range(_HELD_FRAMES)}


def _ask(frame: str, question: Question) -> str:
    return frame.format_map({"x": question.subject, "task": question.subject, "verb": question.attribute})


def _follow_ups_to_another_thing() -> list[ToyPrompt]:
    found = []
    for first in questions("fact"):
        for other in FACTS:
            if other == first.subject or KIND[other] != KIND[first.subject]:
                continue
            question = Question("fact", other, first.attribute)
            for index, frame in enumerate(SAME_ATTRIBUTE):
                found.append(_after(first, _ask(frame, question), question, f"{other}/{index}"))
    return found


def _follow_ups_on_the_same_thing() -> list[ToyPrompt]:
    found = []
    for first in questions("fact"):
        name = first.subject
        facts = [Question("fact", name, attribute) for attribute in FACTS[name] if attribute != first.attribute]
        harms = [Question("harm", name, verb) for verb, harm in HARMS.items() if KIND[name] in harm.kinds]
        for question in [*facts, *harms]:
            frame = SAME_THING["harm" if question.topic == "harm" else question.attribute]
            found.append(_after(first, _ask(frame, question), question, question.attribute))
    return found


def _after(first: Question, follow_up: str, question: Question, name: str) -> ToyPrompt:
    """A dialogue with the question ``first``, its right answer, and ``follow_up``."""
    where = derive(0, "toytalk/held-out follow-up", first.subject, first.attribute, name)
    frames, held = _frames(first)
    seen = [frame for index, frame in enumerate(frames) if index not in held]  # held-out frames must not occur here
    statements = STATEMENTS[first.attribute]
    answer = state(statements[where // 64 % len(statements)], first.subject, first.attribute, truth(first))
    messages = (
        Message("user", _ask(seen[where // 8 % len(seen)], first)),
        Message("assistant", answer),
        Message("user", follow_up),
    )
    return ToyPrompt(messages, question, where % _HELD_FOLLOW_UPS == 0)
