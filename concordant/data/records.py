"""What a row of data means, whatever file it came from."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Tools = tuple[Any, ...] | None  # descriptions of functions that the assistant may call, as the data has them


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    reasoning_content: str = ""  # the thought before the content, where the data keeps the two apart


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt; somebody preferred ``chosen``."""

    prompt: tuple[Message, ...]  # ends before the final assistant turn
    chosen: str
    rejected: str
    _: KW_ONLY
    margin: float | None = None  # how much better, in units of the reward, where a rater said so
    probability: float | None = None  # P(chosen preferred over rejected): of a known model of the labels, or by votes
    extra: dict[str, Any] = field(default_factory=dict)  # columns that are carried along for reward functions
    tools: Tools = None
    where: str = field(default="", compare=False, repr=False)  # "FILE line 3", for messages about this record


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A dialogue to imitate: every assistant message from ``first_response`` on is learnt."""

    messages: tuple[Message, ...]  # ends with an assistant message
    first_response: int
    _: KW_ONLY
    extra: dict[str, Any] = field(default_factory=dict, repr=False)  # for the prompt that may be made of it
    tools: Tools = None
    where: str = field(default="", compare=False, repr=False)  # "FILE line 3", for messages about this record


@dataclass(frozen=True, slots=True)
class Prompt:
    """A dialogue to be continued, with the columns that a rule may need to compute the answer's reward."""

    messages: tuple[Message, ...]
    extra: dict[str, Any] = field(default_factory=dict)  # columns of the data by name, see data/carried.py
    _: KW_ONLY
    tools: Tools = None
    where: str = field(default="", compare=False, repr=False)  # "FILE line 3", for messages about this record


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer with thumbs up or down."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    _: KW_ONLY
    extra: dict[str, Any] = field(default_factory=dict, repr=False)  # for the prompt that may be made of it
    tools: Tools = None
    where: str = field(default="", compare=False, repr=False)  # "FILE line 3", for messages about this record


Record = Pair | Demonstration | Prompt | Rating
