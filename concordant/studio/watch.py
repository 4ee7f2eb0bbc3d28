"""The pages "Runs" and "Run", and the part of the interface that only reads run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from concordant.runs.facts import flat
from concordant.runs.logs import json_line
from concordant.studio import sample_rows, steer
from concordant.studio.charts import CHARTS, about_metric, curve
from concordant.studio.columns import Cache
from concordant.studio.folders import UnknownRun, folder_of, run_names
from concordant.studio.launch import Launcher, resume_arguments
from concordant.studio.live import MOST_STREAMS, changes
from concordant.studio.places import folder
from concordant.studio.render import page
from concordant.studio.summary import Summaries

router = APIRouter(tags=["runs"])
Run = Annotated[str, Query(description="name of a run: its path below the folder of runs", max_length=1000)]
Runs = Annotated[list[str], Query(alias="run", description="names of runs", min_length=1, max_length=12)]
Metrics = Annotated[list[str], Query(alias="metric", description="names of metrics", min_length=1, max_length=64)]


def plug(app: FastAPI) -> None:
    app.state.cache = Cache()
    app.state.summaries = Summaries(app.state.cache)
    app.state.samples = sample_rows.Samples()
    app.state.launcher = Launcher(app.state.settings.runs)
    app.state.streams = 0
    app.include_router(router)
    app.include_router(steer.router)


@router.get("/", include_in_schema=False)
def runs_page(request: Request) -> Response:
    root, here = request.app.state.settings.runs, Path.cwd()
    shown = root.relative_to(here) if root.is_relative_to(here) else root
    return page(request, "runs.html", "Runs", runs=str(shown))


@router.get("/run", include_in_schema=False)
def run_page(request: Request, run: Runs) -> Response:
    for name in run:
        folder(request, name)
    return page(request, "run.html", run[0] if len(run) == 1 else f"{len(run)} runs", runs=run)


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


@router.get("/api/run")
def run(request: Request, run: Run) -> dict[str, Any]:
    """One run: its summary, the doctor's findings, its settings, its metrics, and the command that continues it."""
    place, summaries = folder(request, run), request.app.state.summaries
    summary, columns = summaries.of(run, place), request.app.state.cache.of(place)
    command = ["concordant", *resume_arguments(place, summary.verb)] if summary.can_resume else []
    return _json(
        {
            "summary": summary.as_json(),
            "findings": summaries.findings(place),
            "config": dict(flat(summaries.config(place))),
            "metrics": [about_metric(name) for name in list(columns.columns) if name != "step"],
            "last": columns.last,
            "resume": command,
        }
    )


@router.get("/api/charts")
def charts(request: Request, run: Runs) -> list[dict[str, Any]]:
    """The charts that show something for at least one of these runs."""
    known = set()
    for name in run:
        known |= request.app.state.cache.of(folder(request, name)).columns.keys()
    shown = []
    for chart in CHARTS:
        metrics = [about_metric(name) for name in chart.metrics if name in known]
        if metrics and (chart.x == "step" or chart.x in known):
            x = about_metric(chart.x)
            shown.append({"title": chart.title, "about": chart.about, "x": x, "metrics": metrics})
    return shown


@router.get("/api/curves")
def curves(
    request: Request,
    run: Runs,
    metric: Metrics,
    x: Annotated[str, Query(description="metric of the horizontal axis", max_length=200)] = "step",
    points: Annotated[int, Query(description="about so many points of each curve", ge=10, le=20_000)] = 1000,
    smoothing: Annotated[float, Query(description="weight of the past in a moving average", ge=0, lt=1)] = 0.0,
) -> list[dict[str, Any]]:
    """The curves of these metrics of these runs, each made small without losing its peaks."""
    found = []
    for name in run:
        columns = request.app.state.cache.of(folder(request, name))
        for wanted in metric:
            if (one := curve(columns, wanted, x, points, smoothing)) is not None:
                found.append({"run": name, "metric": wanted, **one})
    return found


@router.get("/api/differences")
def differences(request: Request, run: Runs) -> list[dict[str, Any]]:
    """The settings in which these runs differ: for each key its value in every run, null where a run lacks it."""
    configs = {name: dict(flat(request.app.state.summaries.config(folder(request, name)))) for name in run}
    keys = sorted({key for config in configs.values() for key in config})
    values = {key: {name: config.get(key) for name, config in configs.items()} for key in keys}
    differ = [key for key, of in values.items() if len({repr(value) for value in of.values()}) > 1]
    return _json([{"key": key, "values": values[key]} for key in differ])


@router.get("/api/samples")
def samples(
    request: Request,
    run: Run,
    split: Annotated[Literal["", "train", "eval"], Query(description="held-out prompts, or answers learnt from")] = "",
    step: Annotated[int | None, Query(description="steps taken when the answer was sampled", ge=0)] = None,
    text: Annotated[str, Query(description="only prompts and answers that contain this", max_length=200)] = "",
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
    most: Annotated[int, Query(ge=1, le=200)] = 20,
) -> dict[str, Any]:
    """Prompts and answers of a run, a page at a time. "steps" lists all steps that have some."""
    rows = request.app.state.samples.of(folder(request, run))
    chosen = sample_rows.found(rows, split, step, text)
    of_split = sample_rows.found(rows, split, None, "")
    return _json(
        {"total": len(chosen), "steps": sample_rows.steps_of(of_split), "rows": chosen[start : start + most]},
    )


@router.get("/api/distribution")
def distribution(
    request: Request,
    run: Run,
    key: Annotated[Literal["reward", "gold", "kl", "advantage", "length"], Query()] = "reward",
) -> dict[str, Any]:
    """How the answers of samples.jsonl are distributed over training: quantiles at each step."""
    rows = request.app.state.samples.of(folder(request, run))
    return {"quantiles": sample_rows.QUANTILES, "steps": sample_rows.distribution(rows, key)}


@router.get("/api/stream", response_class=StreamingResponse)
def stream(request: Request, run: Runs) -> StreamingResponse:
    """Server-sent events: an event "changed" with a run's summary, whenever one of its files has changed."""
    state = request.app.state
    folders: dict[str, Path] = {name: folder(request, name) for name in run}
    if state.streams >= MOST_STREAMS:
        raise HTTPException(503, "Too many pages listen at once; close some.")
    return StreamingResponse(changes(request, state, folders), media_type="text/event-stream")


def _json(value: Any) -> Any:
    """``value`` as strict JSON can hold it: what a file holds may be NaN, or half a character."""
    text = json_line({"value": value}).encode("utf-8", "replace").decode()
    return json.loads(text)["value"]
