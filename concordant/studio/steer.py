"""The page "Start a run", and the part of the interface that starts, stops and resumes. It asks for the token."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from concordant.config.names import METHODS
from concordant.core.errors import UserError
from concordant.studio.access import owner_only
from concordant.studio.form import arguments_of, form_of, shown_command
from concordant.studio.launch import Launcher, resume_arguments
from concordant.studio.places import folder
from concordant.studio.render import page

router = APIRouter(tags=["start and stop"])
Text = Annotated[str, Field(max_length=10_000)]


class NewRun(BaseModel):
    """What the form sends."""

    verb: str = Field(max_length=40, description="sft, reward, dpo or ppo")
    name: str = Field(max_length=200, description="name of the run: its folder below the folder of runs")
    preset: str = Field("", max_length=100, description="MODEL/MACHINE, or empty")
    values: dict[str, Text] = Field(description="values by dotted key, as on the command line", max_length=500)


class NamedRun(BaseModel):
    run: str = Field(max_length=1000, description="name of a run")


@router.get("/start", include_in_schema=False)
def start_page(request: Request) -> Response:
    return page(request, "start.html", "Start a run", verbs=METHODS, is_owner=request.state.role == "owner")


@router.get("/api/form")
def form(verb: Annotated[str, Query(description="sft, reward, dpo or ppo", max_length=40)]) -> dict[str, Any]:
    """Every key of a verb with its unit, range, default and help, from the config classes."""
    return form_of(verb)


@router.post("/api/command")
def command(request: Request, new: NewRun) -> dict[str, str]:
    """The command line for the values of the form, or what is wrong with them. Nothing is started."""
    try:
        output = request.app.state.launcher.place_for(new.name)
        return {"command": shown_command(arguments_of(new.verb, output, new.values, new.preset)), "problem": ""}
    except UserError as problem:
        return {"command": "", "problem": str(problem)}


@router.post("/api/runs/start", dependencies=[Depends(owner_only)])
def start(request: Request, new: NewRun) -> dict[str, Any]:
    """Start a run as a process of its own."""
    launcher: Launcher = request.app.state.launcher
    arguments = arguments_of(new.verb, launcher.place_for(new.name), new.values, new.preset)
    return {"run": new.name, "pid": launcher.start(new.name, arguments), "command": shown_command(arguments)}


@router.post("/api/runs/stop", dependencies=[Depends(owner_only)])
def stop(request: Request, named: NamedRun) -> dict[str, str]:
    """Ask a run to finish its step, to save and to end."""
    request.app.state.launcher.stop(named.run, folder(request, named.run))
    return {"run": named.run}


@router.post("/api/runs/resume", dependencies=[Depends(owner_only)])
def resume(request: Request, named: NamedRun) -> dict[str, Any]:
    """Continue a run that was stopped, has failed or has died."""
    place = folder(request, named.run)
    summary = request.app.state.summaries.of(named.run, place)
    if not summary.can_resume:
        raise UserError(f"{named.run} is {summary.life}; only a run that stopped, failed or died can be resumed")
    arguments = resume_arguments(place, summary.verb)
    pid = request.app.state.launcher.start(named.run, arguments)
    return {"run": named.run, "pid": pid, "command": shown_command(arguments)}


@router.get("/api/printed", dependencies=[Depends(owner_only)])
def printed(
    request: Request, run: Annotated[str, Query(description="name of a run that the studio started", max_length=200)]
) -> dict[str, Any]:
    """The end of what a run that the studio started has printed, and its exit code."""
    text, code = request.app.state.launcher.printed(run)
    return {"text": text, "exit_code": code}
