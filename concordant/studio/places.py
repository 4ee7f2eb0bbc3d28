"""The run that a request names."""

from __future__ import annotations

from pathlib import Path

from fastapi import HTTPException, Request

from concordant.studio.folders import UnknownRun, folder_of


def folder(request: Request, run: str) -> Path:
    """The folder of the run ``run``. Raises the error 404 if there is none."""
    try:
        return folder_of(request.app.state.settings.runs, run)
    except UnknownRun as problem:
        raise HTTPException(404, str(problem)) from None
