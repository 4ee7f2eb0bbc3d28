"""The page "Votes": what the votes say, and the raters."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from concordant.core.errors import UserError
from concordant.studio import vote_runs
from concordant.studio.access import owner_only
from concordant.studio.render import page
from concordant.studio.vote_desk import VoteDesk, vote_desk
from concordant.votes.shown import needed_sentence

router = APIRouter(tags=["votes"])
Votes = Annotated[VoteDesk, Depends(vote_desk)]
OWNER = [Depends(owner_only)]


class NewRater(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[^\x00-\x1f\x7f]{1,80}$")


def plug(app: FastAPI) -> None:
    app.include_router(router)
    app.include_router(vote_runs.router)


@router.get("/votes", include_in_schema=False)
def votes_page(request: Request) -> Response:
    return page(request, "votes.html", "Votes")


@router.get("/api/votes/arenas")
def arenas(desk: Votes) -> list[dict[str, Any]]:
    """Every arena with its question, and the numbers of its pairs, votes and open seats."""
    if not desk.exists:
        return []
    store = desk.store()
    return [{"arena": a.name, "question": a.question} | store.counts(a) for a in store.arenas()]


@router.get("/api/votes/summary")
def votes_summary(
    desk: Votes, arena: Annotated[str, Query(description="name of an arena", max_length=80)]
) -> dict[str, Any]:
    """Agreement with its coverage, raters, position bias, ratings with intervals, wins, and the labels still needed."""
    found = desk.summary(arena)
    needed = found["standings"] and found["standings"]["needed"]
    return found | {"needed_sentence": needed_sentence(needed) if needed else ""}


@router.get("/api/votes/raters", dependencies=OWNER)
def raters(desk: Votes) -> list[str]:
    """The names of all raters."""
    return desk.store().raters() if desk.exists else []


@router.post("/api/votes/raters", dependencies=OWNER)
def add_rater(given: NewRater, request: Request, desk: Votes) -> dict[str, str]:
    """Add a rater, or give a known one a new link. The link is shown once; the database keeps a hash of its token."""
    token = desk.store().add_rater(given.name)
    desk.raters.forget()
    return {"rater": given.name, "link": f"{request.base_url}enter?token={token}"}


@router.post("/api/votes/raters/retire", dependencies=OWNER)
def retire(given: NewRater, desk: Votes) -> dict[str, str]:
    """Refuse the link of a rater from now on. The votes stay."""
    if not desk.exists:
        raise UserError(f"unknown rater {given.name}")
    desk.store().retire(given.name)
    desk.raters.forget()
    return {"rater": given.name}
