"""Votes on two answers of the page "Chat". They stand in the same database as all others, in an arena of their own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from concordant.core.errors import UserError
from concordant.data.convert import pair_id
from concordant.data.records import Message
from concordant.studio.access import owner_only
from concordant.studio.ask import NO_NUL, Desk, Key, Voter
from concordant.studio.turns import Turn
from concordant.votes.rows import Arena, Cast, NewPair, Stored

ARENA = "chat"
_NOBODY_ELSE = 1e10  # seconds of a lease: no other rater is ever asked about a talk of the owner

router = APIRouter(tags=["chat"])


class Side(BaseModel):
    model_config = ConfigDict(extra="forbid")
    policy: str = Field(max_length=200, pattern=NO_NUL)
    answer: str = Field(max_length=20_000)


class ChatVote(BaseModel):
    """Two answers to one dialogue, as the page showed them, and which one is better."""

    model_config = ConfigDict(extra="forbid")
    key: Key
    messages: list[Turn] = Field(min_length=1, max_length=200)
    left: Side
    right: Side
    side: Literal["left", "right", "tie", "bad"] = Field(description="bad: both are bad")


@router.post("/api/chat/vote", dependencies=[Depends(owner_only)])
async def chat_vote(given: ChatVote, desk: Desk, rater: Voter) -> dict[str, Any]:
    """Store the owner's vote on two answers, in the arena "chat". A repeated request stores nothing more.

    /api/ask/undo takes the vote back. The names of the policies are on the page, so that this vote is not blind.
    """
    left, right = given.left, given.right
    if left.answer.strip() == right.answer.strip():
        raise UserError("both answers are the same")
    prompt = tuple(Message(turn.role, turn.content) for turn in given.messages)
    first, second = sorted((left, right), key=lambda one: (one.answer, one.policy))  # one pair, whoever stood where
    pair = NewPair(
        key=pair_id(prompt, first.answer, second.answer),
        prompt=prompt,
        first=first.answer,
        second=second.answer,
        first_policy=first.policy,
        second_policy=second.policy,
    )
    cast = Cast(key=given.key, pair=pair.key, side=given.side, swapped=left is second)

    def work() -> Stored:
        store = desk.store()
        arena = store.add_arena(Arena(name=ARENA, lease=_NOBODY_ELSE))
        number = rater[0] or store.rater_named(rater[1])[0]  # the database may be made by this vote
        return store.cast_about(arena, number, pair, cast)

    return asdict(await desk.work(work)) | {"arena": ARENA}
