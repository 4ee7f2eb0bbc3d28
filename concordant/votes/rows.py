"""What goes into the vote database and comes out of it, as plain records."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from concordant.core.errors import UserError
from concordant.core.visible import visible
from concordant.data.convert import as_dict
from concordant.data.records import Message, Tools
from concordant.votes.schema import CHOICES, STRENGTHS, VERDICTS

Choice = Literal["first", "second", "tie", "bad", "skip"]
Side = Literal["left", "right", "tie", "bad", "skip"]
LONGEST_REASON = 2_000  # characters
LONGEST_KEY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """A question that raters are asked about many pairs."""

    name: str
    question: str = "Which answer is better?"
    instructions: str = ""  # text that raters may read before and while they vote
    raters_per_pair: int = 1
    gold_share: float = 0.1
    lease: float = 600.0  # seconds
    seed: int = 0
    id: int = 0  # 0: not stored yet


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPair:
    """A pair for an arena. ``rank``: pairs with a lower one are asked about earlier."""

    key: str
    prompt: tuple[Message, ...]
    first: str
    second: str
    first_policy: str = ""
    second_policy: str = ""
    gold: Literal["first", "second"] | None = None
    rank: float = 0.0
    tools: Tools = None

    def as_row(self, arena: Arena) -> dict[str, Any]:
        return {
            "arena_id": arena.id,
            "key": self.key,
            "prompt": json.dumps(as_dict(self.prompt)),
            "answers": json.dumps([self.first, self.second]),
            "first_policy": self.first_policy,
            "second_policy": self.second_policy,
            "gold": self.gold,
            "tools": json.dumps(list(self.tools)) if self.tools else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A pair as one rater sees it. It does not say which policy answered, or which answer is the first."""

    pair: str  # its key
    prompt: list[dict[str, str]]
    left: str
    right: str
    done: int  # pairs of the arena that this rater has voted on


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a rater gets who asks for work."""

    asked: Asked | None  # None: there is no pair left for this rater
    last: str  # key of the rater's latest vote that counts, which undoing takes back; "" if there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A vote as the page sends it. ``side`` is what the rater saw; the database knows which answer stood there."""

    key: str  # made by the page for this vote; the same in every repetition of the request
    pair: str
    side: Side
    strength: int | None = None
    reason: str = ""
    swapped: bool | None = None  # whether the second answer stood on the left; None: the order that ``turn`` gave

    def checked(self) -> Cast:
        """The vote with a reason that every database holds. Raises UserError for a vote that has no meaning."""
        if not (0 < len(self.key) <= LONGEST_KEY and self.key.isascii() and self.key.isprintable()):
            raise UserError(f"key: expected 1 to {LONGEST_KEY} printable ASCII characters")
        if self.side not in ("left", "right", "tie", "bad", "skip"):
            raise UserError(f'side: expected left, right, tie, bad or skip; given "{self.side}"')
        if self.strength is not None and (self.strength not in STRENGTHS or self.side not in ("left", "right")):
            raise UserError("strength: expected 1, 2 or 3 beside left or right, and none beside tie, bad or skip")
        return replace(self, reason=visible(self.reason[:LONGEST_REASON]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of a vote."""

    key: str
    pair: str
    counts: bool  # False: the vote was undone, or the rater has another vote on this pair
    other: str = ""  # the key of the vote that counts instead of this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One vote that counts, with what it is about."""

    pair: int
    rater: str
    choice: Choice
    strength: int | None
    reason: str
    swapped: bool
    cast: float

    @property
    def is_verdict(self) -> bool:
        return self.choice in VERDICTS

    @property
    def side(self) -> Side:
        """Where the chosen answer stood."""
        if self.choice not in ("first", "second"):
            return self.choice  # type: ignore[return-value]
        return "left" if (self.choice == "second") == self.swapped else "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A stored pair."""

    id: int
    key: str
    prompt: list[dict[str, str]]
    first: str
    second: str
    first_policy: str
    second_policy: str
    gold: str | None
    tools: list[Any] | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Pair:
        first, second = json.loads(row["answers"])
        return cls(
            id=row["id"],
            key=row["key"],
            prompt=json.loads(row["prompt"]),
            first=first,
            second=second,
            first_policy=row["first_policy"],
            second_policy=row["second_policy"],
            gold=row["gold"],
            tools=json.loads(row["tools"]) if row["tools"] else None,
        )


def messages(prompt: list[dict[str, str]]) -> tuple[Message, ...]:
    """The messages of a stored prompt."""
    return tuple(Message(**m) for m in prompt)  # type: ignore[arg-type]


def choice_of(side: Side, swapped: bool) -> Choice:
    """The answer that a rater chose by its place."""
    if side in ("left", "right"):
        return "first" if (side == "left") != swapped else "second"
    assert side in CHOICES
    return side  # type: ignore[return-value]


def new_token() -> str:
    """A rater's token: 128 random bits, as 22 letters that a URL may hold."""
    return secrets.token_urlsafe(16)


def hash_of(token: str) -> str:
    """What the database keeps of a token. A token is random, so that a slow hash would protect nothing more."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
