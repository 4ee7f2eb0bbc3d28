"""The page "Ask": two answers side by side, and the part of the interface with which raters vote."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from concordant.studio.access import Guests
from concordant.studio.raters import Rater
from concordant.studio.render import page, refused
from concordant.studio.vote_desk import AWAY, VoteDesk, rater_of, vote_desk
from concordant.votes.database import Away
from concordant.votes.rows import LONGEST_KEY, LONGEST_REASON, Cast, Stored, Turn
from concordant.votes.store import Conflict

router = APIRouter(tags=["ask"])
NO_NUL = r"^[^\x00]*$"  # a server's text columns hold none, and refuse to look for one
ArenaName = Annotated[str, Field(max_length=80, description="name of an arena, as /api/ask/arenas lists it")]
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_KEY,
        pattern=NO_NUL,
        description="made by the page for this vote; the same in a repetition",
    ),
]
Desk = Annotated[VoteDesk, Depends(vote_desk)]
Voter = Annotated[Rater, Depends(rater_of)]


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    arena: ArenaName


class Vote(BaseModel):
    """A vote. The side is what the rater saw; the server knows which answer stood there."""

    model_config = ConfigDict(extra="forbid")
    arena: ArenaName
    key: Key
    pair: str = Field(max_length=64, pattern=NO_NUL, description="the pair that /api/ask/next gave")
    side: Literal["left", "right", "tie", "bad", "skip"] = Field(description="bad: both are bad; skip: no verdict")
    strength: Literal[1, 2, 3] | None = Field(None, description="slightly, clearly or much better")
    reason: str = Field("", max_length=LONGEST_REASON)


class Undo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    arena: ArenaName
    key: Key


def plug(app: FastAPI) -> None:
    desk = app.state.votes = VoteDesk(app.state.settings.vote_database)
    app.state.access.guests.append(Guests(("/ask", "/api/ask/"), desk.accepts, desk.learn))
    app.include_router(router)

    @app.exception_handler(Away)
    def away(request: Request, problem: Away) -> Response:
        return refused(request, 503, AWAY)

    @app.exception_handler(Conflict)
    def conflict(request: Request, problem: Conflict) -> Response:
        return refused(request, 409, str(problem))


@router.get("/ask", include_in_schema=False)
def ask_page(request: Request) -> Response:
    return page(request, "ask.html", "Ask")


@router.get("/api/ask/arenas")
def arenas(desk: Desk, rater: Voter) -> dict[str, Any]:
    """The rater's name, and every arena with its question, its instructions and how far this rater is."""
    if not desk.exists:
        return {"rater": rater[1], "arenas": []}
    store = desk.store()
    told = ("name", "question", "instructions")
    listed = [{k: getattr(a, k) for k in told} | store.progress(a, rater[0]) for a in store.arenas()]
    return {"rater": rater[1], "arenas": listed}


@router.post("/api/ask/next")
async def next_pair(wanted: Wanted, desk: Desk, rater: Voter) -> dict[str, Any]:
    """The pair that the rater is asked about now, or null; and the key of the rater's last vote.

    The same pair comes again until the rater votes, in the same order of its answers.
    """

    def work() -> Turn:
        store, arena = desk.of(wanted.arena)
        return store.turn(arena, rater[0])

    return asdict(await desk.work(work))


@router.post("/api/ask/vote")
async def vote(given: Vote, desk: Desk, rater: Voter) -> dict[str, Any]:
    """Store a vote. A repeated request stores nothing more. "other" is the key of a vote that stood already."""
    cast = Cast(key=given.key, pair=given.pair, side=given.side, strength=given.strength, reason=given.reason)

    def work() -> Stored:
        store, arena = desk.of(given.arena)
        return store.cast(arena, rater[0], cast)

    return asdict(await desk.work(work))


@router.post("/api/ask/undo")
async def undo(given: Undo, desk: Desk, rater: Voter) -> dict[str, Any]:
    """Take back a vote of this rater. Its pair is asked about again, and the old vote stays in the database, marked."""

    def work() -> Stored:
        store, arena = desk.of(given.arena)
        return store.undo(arena, rater[0], given.key)

    return asdict(await desk.work(work))
