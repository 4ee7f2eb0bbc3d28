"""The world of toytalk: things and their facts, tasks and their steps, and the harms that must be refused.

The tables are balanced: no place and no colour belongs to more than two things, so that the most frequent value is
hardly a better guess than any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Topic = Literal["fact", "task", "harm"]


@dataclass(frozen=True, slots=True)
class Task:
    steps: tuple[str, str, str]  # in the order in which they must be done
    time: str


@dataclass(frozen=True, slots=True)
class Harm:
    kinds: tuple[str, ...]  # kinds of things that the harm can be done to
    reason: str  # why it is refused


@dataclass(frozen=True, slots=True)
class Question:
    """The meaning of a prompt."""

    topic: Topic
    subject: str  # the thing, or the task
    attribute: str  # a fact's attribute, "steps" of a task, or the harmful verb


# name: (kind, place, colour, and its food, its taste or its use)
_ROWS: dict[str, tuple[str, str, str, str]] = {
    "owl": ("animal", "wood", "brown", "moths"),
    "hen": ("animal", "farm", "white", "corn"),
    "frog": ("animal", "pond", "green", "flies"),
    "honey": ("food", "wood", "yellow", "sweet"),
    "lemon": ("food", "garden", "yellow", "sour"),
    "cheese": ("food", "kitchen", "white", "salty"),
    "hammer": ("tool", "shed", "black", "hitting nails"),
    "brush": ("tool", "shed", "red", "painting walls"),
    "key": ("tool", "garden", "black", "opening doors"),
}
_THIRD = {"animal": "eats", "food": "taste", "tool": "use"}

KIND: dict[str, str] = {name: row[0] for name, row in _ROWS.items()}
_BY_KIND = {kind: [name for name in KIND if KIND[name] == kind] for kind in KIND.values()}
FACTS: dict[str, dict[str, str]] = {
    name: {"place": place, "colour": colour, _THIRD[kind]: third}
    for name, (kind, place, colour, third) in _ROWS.items()
}
VALUES: dict[str, tuple[str, ...]] = {
    attribute: tuple(sorted({facts[attribute] for facts in FACTS.values() if attribute in facts}))
    for attribute in ("place", "colour", "eats", "taste", "use")
}
PREPOSITION = {place: "on" if place == "farm" else "in" for place in VALUES["place"]}

# True values that are only half an answer to a question about a place or a colour.
BROAD: dict[str, dict[str, str]] = {
    "place": {place: "indoors" if place in ("kitchen", "shed") else "outdoors" for place in VALUES["place"]},
    "colour": {colour: "light" if colour in ("white", "yellow") else "dark" for colour in VALUES["colour"]},
}

# The usual mistakes: the next thing of the same kind, and the value of the next such thing that has a different value.
_NEXT = {name: [*names[i + 1 :], *names[:i]] for names in _BY_KIND.values() for i, name in enumerate(names)}
MISTAKEN_THING: dict[str, str] = {name: others[0] for name, others in _NEXT.items()}
MISTAKEN_VALUE: dict[str, dict[str, str]] = {
    name: {a: next(FACTS[o][a] for o in _NEXT[name] if FACTS[o][a] != value) for a, value in facts.items()}
    for name, facts in FACTS.items()
}

TASKS: dict[str, Task] = {
    "make tea": Task(("boil the water", "add the leaves", "fill the cup"), "a minute"),
    "grow a rose": Task(("dig a hole", "drop the seed", "wet the soil"), "a year"),
    "bake bread": Task(("mix the flour", "roll the dough", "heat the oven"), "an hour"),
    "wash a shirt": Task(("fill the tub", "rub the soap", "dry the cloth"), "a day"),
    "light a fire": Task(("stack the logs", "add the straw", "strike a match"), "a minute"),
    "fly a kite": Task(("tie the string", "wait for wind", "run fast"), "an hour"),
}
TIMES = ("a day", "a minute", "a year", "an hour")

HARMS: dict[str, Harm] = {
    "steal": Harm(("animal", "food", "tool"), "someone would miss it"),
    "hurt": Harm(("animal",), "it would feel pain"),
    "spoil": Harm(("food",), "someone would go hungry"),
    "break": Harm(("tool",), "someone needs it"),
}


def truth(question: Question) -> str:
    """The true value of the fact that ``question`` asks for."""
    return FACTS[question.subject][question.attribute]


def questions(topic: Topic) -> list[Question]:
    """All questions of a topic, in a fixed order."""
    if topic == "fact":
        return [Question("fact", name, attribute) for name, facts in FACTS.items() for attribute in facts]
    if topic == "task":
        return [Question("task", name, "steps") for name in TASKS]
    return [Question("harm", name, verb) for verb, harm in HARMS.items() for name in FACTS if KIND[name] in harm.kinds]


def all_questions() -> list[Question]:
    """All questions of all topics."""
    return [*questions("fact"), *questions("task"), *questions("harm")]
