"""The page "Learn": lessons with numbers to move, computed by the library through the interface."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response

from concordant.studio.lesson_maths import answer
from concordant.studio.lessons import LESSONS
from concordant.studio.render import page

router = APIRouter(tags=["learn"])


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
    """What a lesson shows: facts, curves and a table. Inputs are given as ``?NAME=VALUE``; the others keep defaults."""
    shown = answer(_lesson(name), request.query_params)
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
        }
        for name, one in LESSONS.items()
    }


def _lesson(name: str) -> Any:
    if name not in LESSONS:
        raise HTTPException(404, f'there is no lesson "{name[:80]}"')
    return LESSONS[name]


def _finite(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
