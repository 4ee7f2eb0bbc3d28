"""The page "Learn": lessons with numbers to move, computed by the library through the interface."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response

from concordant.studio.folders import UnknownRun, folder_of, run_names
from concordant.studio.lesson_maths import Lesson, answer
from concordant.studio.lesson_run import Read
from concordant.studio.lessons import LESSONS
from concordant.studio.places import folder
from concordant.studio.render import HERE, page

router = APIRouter(tags=["learn"])
RECORDED = "a recorded run: RLOO without a KL penalty"


def plug(app: FastAPI) -> None:
    app.include_router(router)


@router.get("/learn", include_in_schema=False)
def learn_page(request: Request) -> Response:
    return page(request, "learn.html", "Learn", lessons=LESSONS)


@router.get("/learn/{name}", include_in_schema=False)
def lesson_page(request: Request, name: str) -> Response:
    lesson = _lesson(name)
    return page(request, "lesson.html", lesson.title, name=name, lesson=lesson)


@router.get("/api/learn/{name}")
def lesson(request: Request, name: str) -> dict[str, Any]:
    """What a lesson shows: facts, curves and a table. Inputs are given as ``?NAME=VALUE``; the others keep defaults.

    A lesson about a run takes ``?run=NAME``. Without it, the lesson shows a run that comes with the studio.
    """
    one = _lesson(name)
    shown = answer(one, request.query_params, _run(request) if one.reads_run else None)
    return {
        "facts": {key: _finite(value) for key, value in shown.facts.items()},
        "x": shown.x,
        "y": shown.y,
        "curves": [{"name": name, "x": x, "y": [_finite(v) for v in y]} for name, (x, y) in shown.curves.items()],
        "heads": shown.heads,
        "rows": [[_finite(value) for value in row] for row in shown.rows],
    }


@router.get("/api/learn")
def lessons() -> dict[str, Any]:
    """All lessons with their formulas and inputs."""
    return {
        name: {
            "title": one.title,
            "about": one.about,
            "formula": one.formula,
            "inputs": [asdict(i) for i in one.inputs],
            "reads_run": one.reads_run,
        }
        for name, one in LESSONS.items()
    }


@router.get("/api/learn-runs")
def lesson_runs(request: Request) -> dict[str, Any]:
    """The runs that a lesson about a run can show, and the name of the recorded one."""
    root, summaries = request.app.state.settings.runs, request.app.state.summaries
    found = []
    for name in run_names(root):
        try:
            if summaries.config(folder_of(root, name)).get("verb") == "ppo":
                found.append(name)
        except UnknownRun:  # removed in the meantime, or a link out of the folder
            continue
    return {"recorded": RECORDED, "runs": found}


def _run(request: Request) -> Read:
    name = request.query_params.get("run", "")
    place = folder(request, name) if name else HERE / "recorded"
    return Read(name or RECORDED, request.app.state.cache.of(place), request.app.state.samples.of(place))


def _lesson(name: str) -> Lesson:
    if name not in LESSONS:
        raise HTTPException(404, f'there is no lesson "{name[:80]}"')
    return LESSONS[name]


def _finite(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
