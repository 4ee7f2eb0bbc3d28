"""The pages "Runs" and "Run", and the part of the interface that they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response

from concordant.studio.columns import Cache
from concordant.studio.folders import UnknownRun, folder_of, run_names
from concordant.studio.render import page
from concordant.studio.summary import Summaries

router = APIRouter(tags=["runs"])


def plug(app: FastAPI) -> None:
    app.state.cache = Cache()
    app.state.summaries = Summaries(app.state.cache)
    app.include_router(router)


def folder(request: Request, run: str) -> Path:
    """The folder of the run that a request names. Raises the error 404 if there is none."""
    try:
        return folder_of(request.app.state.settings.runs, run)
    except UnknownRun as problem:
        raise HTTPException(404, str(problem)) from None


@router.get("/", include_in_schema=False)
def runs_page(request: Request) -> Response:
    return page(request, "runs.html", "Runs", runs=str(request.app.state.settings.runs))


@router.get("/api/runs")
def runs(request: Request) -> list[dict[str, Any]]:
    """Every run below the folder of runs: status, step, time left, and the number of the doctor's findings."""
    root, summaries = request.app.state.settings.runs, request.app.state.summaries
    found = []
    for name in run_names(root):
        try:
            found.append(summaries.of(name, folder_of(root, name)).as_json())
        except UnknownRun:  # removed in the meantime, or a link out of the folder
            continue
    return found
