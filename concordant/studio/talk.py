"""The page "Chat": talk with any policy or adapter of the runs folder, one or two at once, with scores beside."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from concordant.core.errors import UserError, unknown_name
from concordant.models.locate import ModelKind, kind_of
from concordant.runs.logs import json_line
from concordant.runs.names import ADAPTER, MODEL
from concordant.studio import talk_votes
from concordant.studio.access import owner_only
from concordant.studio.folders import folder_of, run_names
from concordant.studio.render import page
from concordant.studio.turns import Turn

MOST_OPEN = 2  # policies in memory; the one that was used longest ago is closed
MOST_TOKENS = 512  # of an answer
SLOTS, CONTEXT, WAITING = 8, 2_048, 32
MOST_REWARDS = 5

router = APIRouter(tags=["chat"])


class Question(BaseModel):
    """A dialogue that a policy continues."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    policy: str = Field(max_length=1000, description="name of a policy, as /api/chat/models lists it")
    messages: list[Turn] = Field(min_length=1, max_length=200)
    temperature: float = Field(0.7, ge=0, le=10)
    max_tokens: int = Field(128, ge=1, le=MOST_TOKENS)
    seed: int | None = Field(None, ge=0, lt=2**63, description="seed of the random numbers; none: another each time")


class Answered(BaseModel):
    """A dialogue that ends with an answer, to be scored."""

    model_config = ConfigDict(extra="forbid")
    rewards: list[str] = Field(min_length=1, max_length=MOST_REWARDS, description="names of reward models")
    messages: list[Turn] = Field(min_length=1, max_length=201)


def plug(app: FastAPI) -> None:
    app.state.desk = Desk(app.state.settings.runs)
    app.include_router(router)
    app.include_router(talk_votes.router)


def models_of(runs: Path) -> dict[str, tuple[ModelKind, Path]]:
    """Every policy and reward model below the folder of runs, by name: ``RUN`` for its model, ``RUN (adapter)``."""
    found: dict[str, tuple[ModelKind, Path]] = {}
    for run in run_names(runs):
        try:
            folder = folder_of(runs, run)
        except UserError:  # removed in the meantime, or a link out of the folder
            continue
        for inside, name in ((MODEL, run), (ADAPTER, f"{run} (adapter)")):
            place = folder / inside
            if place.resolve().is_relative_to(runs.resolve()) and (kind := kind_of(place)):
                found[name] = (kind, place)
    return found


class Desk:
    """The models that the page has opened. A policy is opened when somebody asks it, each with a sampler of its own."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._open: OrderedDict[tuple[str, int], Any] = OrderedDict()  # by folder and its time: a Server
        self._rewards: OrderedDict[tuple[str, int], Any] = OrderedDict()  # the same: a RewardModel
        self._opening = asyncio.Lock()
        self._scoring = threading.Lock()

    def place(self, name: str, kind: ModelKind) -> Path:
        """The folder of the model ``name``. Raises UserError if there is no such model of this kind."""
        found = {n: place for n, (k, place) in models_of(self.runs).items() if k == kind}
        if name not in found:
            raise unknown_name("policy" if kind == "policy" else "reward model", name, found)
        return found[name]

    async def server(self, name: str) -> Any:
        """The open policy ``name``, with its sampler."""
        place = await asyncio.to_thread(self.place, name, "policy")
        async with self._opening:
            key = _key(place)
            if key not in self._open:
                self._open[key] = await asyncio.to_thread(_opened, place)
                self._open[key].open()
            self._open.move_to_end(key)
            while len(self._open) > MOST_OPEN:
                _, oldest = self._open.popitem(last=False)
                await asyncio.to_thread(oldest.close)
            return self._open[key]

    def score(self, names: Sequence[str], messages: Sequence[Any]) -> Any:
        """The score of the dialogue by the mean of the reward models ``names``, with their disagreement."""
        from concordant.engines.reward_model import RewardModel
        from concordant.serve.served import Scorers

        places = [self.place(name, "reward") for name in dict.fromkeys(names)]
        with self._scoring:
            for place in places:
                if _key(place) not in self._rewards:
                    self._rewards[_key(place)] = RewardModel.from_pretrained(place)
                self._rewards.move_to_end(_key(place))
            models = [self._rewards[_key(place)] for place in places]
            while len(self._rewards) > MOST_REWARDS:
                self._rewards.popitem(last=False)
            (found,) = Scorers(models).score([list(messages)])
        return found


def _key(place: Path) -> tuple[str, int]:
    """A model that is trained again is another model."""
    return str(place), os.stat(place).st_mtime_ns


def _opened(place: Path) -> Any:
    from concordant.config.model import ModelConfig
    from concordant.config.serving import ServeConfig
    from concordant.serve.app import Server
    from concordant.serve.served import open_served

    config = ServeConfig(model=ModelConfig(name=str(place)), name="policy", slots=SLOTS, context=CONTEXT)
    return Server(open_served(config), None, WAITING)


def desk_of(request: Request) -> Desk:
    return request.app.state.desk


Open = Annotated[Desk, Depends(desk_of)]


@router.get("/chat", include_in_schema=False)
def chat_page(request: Request) -> Response:
    return page(request, "talk.html", "Chat")


@router.get("/api/chat/models")
def chat_models(desk: Open) -> dict[str, list[str]]:
    """The policies and the reward models of the runs folder, by name."""
    found = models_of(desk.runs)
    kinds: dict[str, ModelKind] = {"policies": "policy", "rewards": "reward"}
    return {plural: [n for n, (k, _) in found.items() if k == kind] for plural, kind in kinds.items()}


@router.post("/api/chat", dependencies=[Depends(owner_only)])
async def chat(question: Question, desk: Open) -> Response:
    """Lines of JSON while the answer is sampled: ``text``, ``tokens`` with their probabilities, at last ``done``."""
    from concordant.serve.wire import ChatRequest, Wrong

    server = await desk.server(question.policy)
    asked = ChatRequest.model_validate(
        {
            "model": "policy",
            "messages": [turn.model_dump() for turn in question.messages],
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
            "seed": secrets.randbits(62) if question.seed is None else question.seed,
            "logprobs": True,
            "top_logprobs": 5,
            "stream": True,
        }
    )
    try:
        messages = [turn.message() for turn in asked.messages]
        prompt = await asyncio.to_thread(server.served.dialogue, messages)
        pending = server.ask(asked, [prompt], "studio")
    except Wrong as problem:
        raise UserError(str(problem)) from None
    return StreamingResponse(_lines(pending), media_type="application/x-ndjson")


async def _lines(pending: Any) -> AsyncIterator[str]:
    try:
        async for (choice,) in pending.news():
            listed = (choice["logprobs"] or {}).get("content", [])
            yield json_line({"text": choice["delta"].get("content", ""), "tokens": listed})
        yield json_line({"done": True, "failure": pending.failure})
    finally:
        pending.forget()


@router.post("/api/chat/score", dependencies=[Depends(owner_only)])
async def chat_score(answered: Answered, desk: Open) -> dict[str, Any]:
    """The score of the last message, and the spread of the reward models where several are named."""
    from concordant.data.records import Message

    messages = [Message(turn.role, turn.content) for turn in answered.messages]
    found = await asyncio.to_thread(desk.score, answered.rewards, messages)
    return {"score": found.score, "members": found.members, "disagreement": found.disagreement}
