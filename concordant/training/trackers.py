"""W&B, trackio and MLflow, as ``train.tracker`` names them. They get the config and the metrics, and no row of data.

Each of them works in a thread of its own: a server that does not answer keeps its own thread waiting and not the run.
Projects and addresses come from the tracker's own environment variables (``WANDB_MODE``, ``MLFLOW_TRACKING_URI`` …).
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from concordant.config.fields import unnest
from concordant.config.names import TrackerName
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.runs.atomic import write_text
from concordant.runs.folder import RunFolder
from concordant.runs.logs import read_json
from concordant.runs.names import TRACKERS
from concordant.training.writers import TensorBoard, Tracker

PROJECT = "concordant"  # where the tracker's own environment variable names none
WAITING_ROWS = 10_000  # rows that a tracker may be behind before it is dropped
PATIENCE = 30.0  # seconds that a tracker may take at the end of the run
_PARAMETERS_A_CALL = 100  # MLflow's limit
_LONGEST_PARAMETER = 500  # characters; MLflow's oldest limit


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker learns of the run."""

    name: str
    id: str  # stays the same when the run is resumed
    config: Mapping[str, Any]  # as in config.yaml


class WandB:
    """https://docs.wandb.ai. ``WANDB_MODE=offline`` writes to a folder, which ``wandb sync`` sends later."""

    def __init__(self, run: TrackedRun) -> None:
        wandb = importlib.import_module("wandb")
        # What the terminal shows is not sent. "step" is the axis, because a resumed run logs some steps again.
        settings = wandb.Settings(console="off", save_code=False, quiet=True)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project,
            id=run.id,
            name=run.name,
            resume="allow",
            config=dict(run.config),
            settings=settings,
            reinit="create_new",  # an earlier run of this process that never ended is not continued
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, "step": step})

    def close(self, done: bool = True) -> None:
        self._run.finish(exit_code=0 if done else 1)


class Trackio:
    """https://huggingface.co/docs/trackio. Local unless ``TRACKIO_SPACE_ID`` names a Space."""

    def __init__(self, run: TrackedRun) -> None:
        trackio = importlib.import_module("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = f"{run.name}-{run.id}"  # trackio knows a run by its name alone
        self._run = trackio.init(project=project, name=name, resume="allow", config=dict(run.config), embed=False)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, done: bool = True) -> None:
        self._run.finish()


class MLflow:
    """https://mlflow.org/docs. The server is the one of ``MLFLOW_TRACKING_URI``, else local files."""

    def __init__(self, run: TrackedRun) -> None:
        mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = self._client.search_runs([experiment], f"tags.`concordant.run` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {"concordant.run": run.id}
            self._id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            self._log_config(run.config)

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        return known.experiment_id if known else self._client.create_experiment(name)

    def _log_config(self, config: Mapping[str, Any]) -> None:
        texts = {key: str(value)[:_LONGEST_PARAMETER] for key, value in unnest(config).items()}
        parameters = [self._entities.Param(key, text) for key, text in texts.items()]
        for start in range(0, len(parameters), _PARAMETERS_A_CALL):
            self._client.log_batch(self._id, params=parameters[start : start + _PARAMETERS_A_CALL])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)  # milliseconds
        rows = [self._entities.Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=rows)

    def close(self, done: bool = True) -> None:
        self._client.set_terminated(self._id, "FINISHED" if done else "KILLED")


KINDS: dict[TrackerName, Callable[[TrackedRun], Tracker]] = {"wandb": WandB, "trackio": Trackio, "mlflow": MLflow}


class InThread:
    """A tracker that is made, fed and closed in a thread of its own. An error there is raised at the next call here.

    ``log`` never waits. ``close`` waits for ``PATIENCE`` seconds; a thread that hangs longer ends with the process.
    """

    def __init__(self, make: Callable[[], Tracker]) -> None:
        self._rows: queue.Queue[tuple[int, dict[str, float]] | bool] = queue.Queue(WAITING_ROWS)
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(make,), daemon=True, name="tracker")
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._put((step, {name: value for name, value in metrics.items() if name != "step" and math.isfinite(value)}))

    def close(self, done: bool = True) -> None:
        self._put(done)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise TimeoutError(f"it did not end within {PATIENCE:.0f} s")
        self._raise()

    def _put(self, item: tuple[int, dict[str, float]] | bool) -> None:
        self._raise()
        try:
            self._rows.put_nowait(item)
        except queue.Full:
            raise TimeoutError(f"{WAITING_ROWS:,} rows wait for it") from None

    def _raise(self) -> None:
        if isinstance(self._problem, Exception):
            raise self._problem
        if self._problem is not None:
            raise RuntimeError(f"{type(self._problem).__name__}: {self._problem}")

    def _work(self, make: Callable[[], Tracker]) -> None:
        try:
            tracker = make()
            while not isinstance(item := self._rows.get(), bool):
                tracker.log(*item)
            tracker.close(item)
        except BaseException as problem:  # a library may also call sys.exit
            self._problem = problem


def check_installed(names: Sequence[str]) -> None:
    """UserError that says what to install, for a tracker whose package is not here."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UserError(
            f"train.tracker {', '.join(missing)}: not installed; pip install {' '.join(missing)}, or all trackers: "
            'pip install "concordant[trackers]"'
        )


def makers_of(config: TrainConfig, folder: RunFolder, first_step: int) -> dict[str, Callable[[], Tracker]]:
    """Functions that make the run's trackers, by name. ``first_step`` is the first that this process trains."""
    makers: dict[str, Callable[[], Tracker]] = {}
    if config.tensorboard:
        makers["TensorBoard"] = lambda: TensorBoard(folder.tensorboard, first_step)
    run = functools.cache(lambda: _run_of(folder))  # made by the first tracker, so that an error is that tracker's
    for name in config.tracker:
        makers[name] = lambda kind=KINDS[name]: _start(kind, run())  # type: ignore[misc, index]
    return makers


def _start(kind: Callable[[TrackedRun], Tracker], run: TrackedRun) -> InThread:
    return InThread(lambda: kind(run))


def _run_of(folder: RunFolder) -> TrackedRun:
    """The run with its id in all its trackers; a new id where the folder has none yet."""
    path = folder.path / TRACKERS
    found = (read_json(path) or {}).get("id") if folder.resume else None
    if not isinstance(found, str) or not found.isalnum():
        found = secrets.token_hex(6)  # from no seed: two runs of one seed are two runs
        write_text(path, json.dumps({"id": found}) + "\n")
    return TrackedRun(name=folder.name, id=found, config=folder.config)
