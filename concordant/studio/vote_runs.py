"""Runs that votes begin or end: policies answer for an arena, and votes become a policy, with the page of that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from concordant.config.data import DataConfig
from concordant.config.votes import VotesConfig
from concordant.config.yaml_io import dump_yaml
from concordant.core.errors import UserError
from concordant.runs.atomic import write_text
from concordant.runs.facts import flat
from concordant.runs.names import TO_LABEL
from concordant.studio.access import owner_only
from concordant.studio.clicks import Policy, Source, arena_plan, outcome, policy_plan
from concordant.studio.folders import UnknownRun, folder_of
from concordant.studio.form import shown_command
from concordant.studio.launch import LOGS, Launcher
from concordant.studio.places import folder
from concordant.studio.render import page
from concordant.studio.talk import Desk, desk_of
from concordant.studio.vote_desk import VoteDesk, vote_desk
from concordant.votes.incoming import read_pairs
from concordant.votes.rows import Arena

router = APIRouter(tags=["votes"])
Votes = Annotated[VoteDesk, Depends(vote_desk)]
Models = Annotated[Desk, Depends(desk_of)]
OWNER = [Depends(owner_only)]
ArenaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$", description="name of an arena")]
_LONGEST_ANSWER = 128  # tokens
RunName = Annotated[str, Field(max_length=200, description="name of the new run")]
DataPath = Annotated[str, Field(max_length=1000, description="data with prompts; empty: those of the policy's run")]


class NewArena(BaseModel):
    """An arena whose pairs are answers of policies, or the pairs of a run of `concordant collect`."""

    model_config = ConfigDict(extra="forbid")
    arena: ArenaName
    question: str = Field(VotesConfig.question, min_length=1, max_length=500)
    instructions: str = Field("", max_length=20_000)
    raters_per_pair: int = Field(1, ge=1, le=100)
    policies: list[str] = Field([], max_length=8, description="as /api/chat/models lists them; one answers twice")
    collected: str = Field("", max_length=1000, description="instead of policies: a run of collect, or best-of-n")
    data: DataPath = ""
    prompts: int = Field(60, ge=1, le=5_000, description="prompts that the policies answer")
    run: RunName = "arena-1"


class NewPolicy(BaseModel):
    """Votes that become a policy."""

    model_config = ConfigDict(extra="forbid")
    arena: ArenaName
    start: str = Field(max_length=1000, description="the policy that learns, as /api/chat/models lists it")
    method: Literal["dpo", "ppo"] = "dpo"
    data: DataPath = ""
    prompts: int = Field(60, ge=1, le=5_000, description="prompts that both policies answer for the arena")
    reward_steps: int = Field(60, ge=1, le=100_000)
    policy_steps: int = Field(60, ge=1, le=100_000)
    run: RunName = "votes-1"


@router.get("/votes/policy", include_in_schema=False)
def policy_page(request: Request) -> Response:
    return page(request, "clicks.html", "From clicks to a policy")


@router.post("/api/votes/arenas", dependencies=OWNER)
def new_arena(new: NewArena, request: Request, desk: Votes, models: Models) -> dict[str, Any]:
    """Bring pairs into an arena: at once from a run of collect, or by a run in which policies answer."""
    if bool(new.collected) == bool(new.policies):
        raise UserError("give the policies that answer, or a run of collect; and not both")
    if new.collected:
        pairs = read_pairs(DataConfig(str(folder(request, new.collected) / TO_LABEL)), gold=False)
        store = desk.store()
        made = Arena(name=new.arena, question=new.question, instructions=new.instructions)
        arena = store.add_arena(replace(made, raters_per_pair=new.raters_per_pair))
        return {"run": "", "added": store.add_pairs(arena, [replace(p, rank=float(i)) for i, p in enumerate(pairs)])}
    given: dict[str, Any] = {"question": new.question, "raters_per_pair": new.raters_per_pair}
    policies = [(name, models.place(name, "policy")) for name in dict.fromkeys(new.policies)]
    if new.instructions:
        given["instructions"] = str(_written(request, f"{new.arena}.instructions.txt", new.instructions))
    source = _source(request, policies[0], new.data, new.prompts)
    plan = arena_plan(desk.place, {"arena": new.arena, **given}, policies, source, 0)
    return _started(request, new.run, plan) | {"added": 0}


@router.post("/api/votes/policy", dependencies=OWNER)
def new_policy(new: NewPolicy, request: Request, desk: Votes, models: Models) -> dict[str, Any]:
    """Start the run that makes a reward model and a policy of the votes, and lets the policy enter the arena."""
    desk.of(new.arena)
    start = (new.start, models.place(new.start, "policy"))
    source = _source(request, start, new.data, new.prompts)
    steps = {"reward": new.reward_steps, "policy": new.policy_steps}
    name = f"{new.run}/{new.method}"
    return _started(request, new.run, policy_plan(desk.place, new.arena, start, name, new.method, source, steps))


@router.get("/api/votes/outcome")
def votes_outcome(
    request: Request, run: Annotated[str, Query(description="name of a run that /api/votes/policy started")]
) -> dict[str, Any]:
    """How far that run is, and what its report says: proxy, gold and length of the policy before and after."""
    try:
        place = folder_of(request.app.state.settings.runs, run)
    except UnknownRun:  # the run makes its folder in a moment
        return {"life": "unknown", "stage": "", "step": 0, "total": 0, "message": "", "outcome": None}
    told = request.app.state.summaries.of(run, place).as_json()
    return {key: told[key] for key in ("life", "stage", "step", "total", "message")} | {"outcome": outcome(place)}


def _source(request: Request, policy: Policy, data: str, prompts: int) -> Source:
    """The prompts and the limits of the run that made the policy, where ``data`` names no others."""
    run = policy[1].parent
    known = dict(flat(request.app.state.summaries.config(run)))
    data = data or str(known.get("data.path") or known.get("data") or "")
    if not data:
        raise UserError(f"the run of {policy[0]} does not say its data; give data with prompts")
    usual = DataConfig()
    limits = known.get("data.max_prompt_tokens"), known.get("data.max_response_tokens")
    return Source(
        data=data,
        prompts=prompts,
        prompt_tokens=limits[0] if isinstance(limits[0], int) else usual.max_prompt_tokens,
        answer_tokens=min(limits[1] if isinstance(limits[1], int) else usual.max_response_tokens, _LONGEST_ANSWER),
        precision=str(known.get("model.precision", "auto")),
    )


def _started(request: Request, run: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Start a pipeline as a run. What the command refuses stands in what the run printed."""
    launcher: Launcher = request.app.state.launcher
    output = launcher.place_for(run)
    file = _written(request, launcher.log_of(run).with_suffix(".yaml").name, dump_yaml(plan))
    words = ["run", str(file), f"--output={output}"]
    return {"run": run, "pid": launcher.start(run, words), "command": shown_command(words)}


def _written(request: Request, name: str, text: str) -> Path:
    """A file beside what started runs print."""
    file: Path = request.app.state.settings.runs / LOGS / name
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    return file
