"""The only training loop. It steps, logs, evaluates, saves, resumes and stops early, for every algorithm."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from concordant.config.train import TrainConfig
from concordant.core.counted import counted
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.core.seeding import generators_put_back, reseed
from concordant.engines.memory import enough_memory
from concordant.engines.protocol import Role
from concordant.engines.state_files import write_state
from concordant.runs.folder import RunFolder
from concordant.runs.inputs import Inputs
from concordant.runs.metrics import told
from concordant.runs.names import BAD_BATCH
from concordant.training import checkpoint
from concordant.training.environment import environment
from concordant.training.exports import Write, publish, results_at
from concordant.training.interrupt import StopRequest
from concordant.training.progress import Display, current
from concordant.training.result import LoopResult, write_result
from concordant.training.saver import Saver
from concordant.training.schedule import learning_rate
from concordant.training.trackers import makers_of
from concordant.training.writers import Trackers

_LESS_MEMORY = "lower train.micro_batch_tokens, sampling.slots or train.batch_size"
TRAIN_SAMPLES_EVERY = 20  # steps between logged training samples, so that samples.jsonl of a long run stays small
PAST_LIMIT = "eval/past_limit"
MAX_SKIPPED_IN_A_ROW = 5  # a run ends after so many steps in a row without a finite loss and gradient


class Algorithm(Protocol):
    """An algorithm that the loop trains.

    The next step depends only on the state of the roles and on ``numbers``. Random numbers come from named streams or
    from the process's own generators, which the loop seeds again before each step.
    """

    @property
    def roles(self) -> Mapping[str, Role]:
        """The roles by name; each has a folder in a checkpoint. The first one is exported with its best weights."""
        ...

    total_steps: int
    metric: str  # the held-out metric that chooses the best weights, e.g. "eval/loss"
    greater_is_better: bool

    def step(self, step: int, learning_rate: float) -> dict[str, float]:
        """Do optimizer step number ``step``, counted from 0, and return its metrics. For PPO it is a rollout step.

        ``tokens`` and ``samples`` count only this step. ``skipped`` is above 0 if an update was left out because the
        loss or the gradient was not finite.
        """
        ...

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics on held-out data after ``step`` steps, named ``eval/…``; empty without held-out data.

        With ``PAST_LIMIT`` above 0 the run ends, and these weights are not the best ones.
        """
        ...

    def samples(self, step: int) -> list[dict[str, Any]]:
        """Rows for samples.jsonl at an evaluation; may be empty."""
        ...

    def train_samples(self) -> list[dict[str, Any]]:
        """Rows for samples.jsonl with answers that the last step sampled and learnt from; empty if it sampled none."""
        ...

    @property
    def exports(self) -> Mapping[str, Write]:
        """The results by their folder in the run folder, each with the function that writes it; the main one last."""
        ...

    def last_batch(self) -> dict[str, Any]:
        """The last step's training batch, as nested dicts and lists of tensors and plain values, to find an error."""
        ...

    def numbers(self) -> dict[str, Any]:
        """State of the algorithm outside its roles, as plain values that JSON can hold."""
        ...

    def load_numbers(self, numbers: Mapping[str, Any]) -> None: ...


class Callback(Protocol):
    """Watches a run, as the doctor does. If it raises RunStopped or RunFailed, the run ends."""

    def start(self, algorithm: Algorithm, folder: RunFolder) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after every step, with its metrics. After an evaluation they include the evaluation's metrics."""
        ...

    def end(self, result: LoopResult) -> None: ...


@dataclass(slots=True, kw_only=True)
class LoopState:
    """The state of the loop itself, which is part of every checkpoint."""

    step: int = 0  # steps taken
    tokens: float = 0
    samples: float = 0
    best_step: int | None = None
    best_value: float | None = None
    stale_evaluations: int = 0  # evaluations since the best one
    kept_step: int | None = None  # step of the weights that the first role keeps; None if it keeps none
    skipped: int = 0  # steps in which an update was left out
    skipped_in_a_row: int = 0
    past_limit: bool = False  # an evaluation passed a limit of the algorithm, which ends the run


def run_loop(
    algorithm: Algorithm, config: TrainConfig, folder: RunFolder, seed: int, callbacks: Sequence[Callback] = ()
) -> LoopResult:
    """Train to the end, then export the best or the last weights into ``folder``.

    Raises:
        RunStopped: a signal asked the run to stop; a checkpoint has been saved.
        RunFailed: too many steps in a row had a loss or gradient that was not finite.
    """
    return _Loop(algorithm, config, folder, seed, callbacks, current()).run()


class _Loop:
    def __init__(
        self,
        algorithm: Algorithm,
        config: TrainConfig,
        folder: RunFolder,
        seed: int,
        callbacks: Sequence[Callback],
        display: Display,
    ) -> None:
        self.algorithm, self.config, self.folder, self.seed = algorithm, config, folder, seed
        self.callbacks, self.display = callbacks, display
        self.total = algorithm.total_steps
        self.state = LoopState()
        self.main = next(iter(algorithm.roles.values()))  # the role that is exported
        self.saver = Saver(folder.checkpoints, config)
        folder.inputs.settings |= {"seed": seed, "total_steps": self.total}
        folder.inputs.environment = environment(torch.get_num_threads())

    def run(self) -> LoopResult:
        with generators_put_back():
            return self._run()

    def _run(self) -> LoopResult:
        if self.total < 1:
            raise UserError(
                "there is no step to train: the data has fewer examples than one batch; lower train.batch_size"
            )
        with_best = self.config.keep_best and self.config.evaluate_every > 0
        roles = self.algorithm.roles.values()
        checkpoint_bytes = sum(role.checkpoint_bytes(with_best and role is self.main) for role in roles)
        little_room = self.saver.check_room(checkpoint_bytes, self.main.export_bytes())
        if little_room:
            self.display.message(self._where(little_room))
        if self.folder.resume:
            self._resume()
            self.folder.write_config()
        trackers = Trackers(makers_of(self.config, self.folder, self.state.step + 1), self.display.message)
        for callback in self.callbacks:
            callback.start(self.algorithm, self.folder)
        self.folder.status.update("training", self.state.step, self.total)
        metrics: dict[str, float] = {}
        try:
            with (
                StopRequest() as stop,
                self.display.task(self.folder.name, self.total, self.state.step) as bar,
            ):
                while not self._finished:
                    metrics = self._step(trackers)
                    bar.update(self.state.step, metrics)
                    self.folder.status.update("training", self.state.step)
                    if stop.requested and not self._finished:
                        self._save()
                        raise RunStopped(self._where("stopped on request; continue with --resume auto"))
                if self.saver.is_on:  # a later --resume then finds the run complete and can export again
                    self._save_or_say()
        finally:
            trackers.close(self._finished)
        return self._finish(metrics)

    @property
    def _finished(self) -> bool:
        return self.state.step >= self.total or self._out_of_patience or self.state.past_limit

    @property
    def _out_of_patience(self) -> bool:
        return 0 < self.config.early_stopping <= self.state.stale_evaluations

    def _step(self, trackers: Trackers) -> dict[str, float]:
        """Train one step and log it. Evaluate and save if they are due."""
        state, rate = self.state, learning_rate(self.config, self.state.step, self.total)
        reseed(self.seed, "loop/step", state.step)
        started = time.perf_counter()
        with enough_memory(f"taking step {state.step + 1}", _LESS_MEMORY):
            own = self.algorithm.step(state.step, rate)
        seconds = time.perf_counter() - started
        tokens, samples = own.pop("tokens", 0), own.pop("samples", 0)
        state.step += 1
        state.tokens += tokens
        state.samples += samples
        metrics = {
            "step": state.step,
            "tokens": state.tokens,
            "samples": state.samples,
            "learning_rate": rate,
            **own,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "seconds/step": seconds,
        }
        evaluate = state.step == self.total or _due(state.step, self.config.evaluate_every)
        if evaluate:
            metrics |= self._evaluate()
        if state.step == 1 or _due(state.step, TRAIN_SAMPLES_EVERY):
            self.folder.log_samples({"step": state.step, **row} for row in self.algorithm.train_samples())
        if evaluate or _due(state.step, self.config.log_every):
            self.folder.log_metrics(metrics)
            trackers.log(state.step, metrics)
        self._tell(metrics)
        self._count_skipped(metrics)
        if self.saver.due(state.step):
            self._save_or_say()
        return metrics

    def _tell(self, metrics: Mapping[str, float]) -> None:
        try:
            for callback in self.callbacks:
                callback.step(self.state.step, metrics)
        except RunStopped:  # the run can be resumed, so this step must be saved
            self._save()
            raise

    def _evaluate(self) -> dict[str, float]:
        reseed(self.seed, "loop/evaluate", self.state.step)
        started = time.perf_counter()
        with self.folder.status.during("evaluating"), enough_memory("evaluating", _LESS_MEMORY):
            metrics = self.algorithm.evaluate(self.state.step)
        rows = self.algorithm.samples(self.state.step)
        self.folder.log_samples({"step": self.state.step, **row} for row in rows)
        if metrics:
            self.state.past_limit = metrics.get(PAST_LIMIT, 0) > 0
            better = not self.state.past_limit and self._is_better(metrics[self.algorithm.metric])
            self._remember(metrics[self.algorithm.metric], better)
            listed = "  ".join(f"{name} {told(name, metrics)}" for name in metrics)
            self.display.message(self._where(f"{listed}{'  (best)' if better else ''}"))
        return metrics | {"seconds/evaluate": time.perf_counter() - started}

    def _is_better(self, value: float) -> bool:
        """Whether ``value`` is better than the best so far. NaN and an equal value are not better."""
        best = self.state.best_value
        if math.isnan(value) or best is None:
            return best is None and not math.isnan(value)
        return value > best if self.algorithm.greater_is_better else value < best

    def _remember(self, value: float, better: bool) -> None:
        state = self.state
        if not better:
            state.stale_evaluations += 1
            return
        state.best_step, state.best_value, state.stale_evaluations = state.step, value, 0
        if self.config.keep_best and state.step < self.total:
            self.main.keep()
            state.kept_step = state.step
        else:  # the model already has the weights of the last step
            self.main.forget()
            state.kept_step = None

    def _count_skipped(self, metrics: Mapping[str, float]) -> None:
        state = self.state
        if not metrics.get("skipped", 0) > 0:
            state.skipped_in_a_row = 0
            return
        state.skipped += 1
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            cure = "lower train.learning_rate, or set model.precision fp32 to rule out overflow"
            what = f"the loss or the gradient was not finite {state.skipped_in_a_row} times in a row"
            raise RunFailed(self._where(f"{what}; the last batch is in {self._dump(metrics)}; {cure}"))

    def _dump(self, metrics: Mapping[str, float]) -> str:
        """Write the last step's batch and metrics in the form of a checkpoint; returns the folder."""
        batch = {"batch": lambda folder: write_state(folder, self.algorithm.last_batch())}
        try:
            return str(
                checkpoint.save(self.folder.path / BAD_BATCH, self.state.step, batch, {"metrics": dict(metrics)})
            )
        except OSError as problem:
            return f"no file ({problem})"

    def _finish(self, metrics: dict[str, float]) -> LoopResult:
        state, exported = self.state, self.state.step
        if not metrics:
            self.display.message(self._where("the run is complete; nothing left to train"))
        if state.skipped:
            left_out = f"{counted(state.skipped, 'step')} left an update out: the loss or the gradient was not finite"
            self.display.message(self._where(left_out))
        if state.kept_step is not None and state.kept_step != state.step:
            self.main.restore()
            exported = state.kept_step
            self.display.message(self._where(f"kept the weights of step {state.kept_step}, the best evaluation"))
        result = LoopResult(
            steps=state.step,
            model=self._export(exported),
            exported_step=exported,
            best_step=state.best_step,
            best_value=state.best_value,
            stopped_early=state.step < self.total,
            metrics=metrics,
        )
        problem = write_result(self.folder, result, self.total, self.algorithm.metric)
        if problem:  # the model is there, and only its description is missing
            self.display.message(self._where(problem))
        for callback in self.callbacks:
            callback.end(result)
        return result

    def _export(self, step: int) -> Path:
        try:
            with self.folder.status.during("saving"):
                results = results_at(self.folder.path, step, self.total)
                return publish(self.folder, self.algorithm.exports, results)
        except (OSError, SafetensorError) as problem:  # safetensors raises SafetensorError when the disk is full
            way_out = "make room" + (", then --resume auto writes it" if self.saver.has(self.state.step) else "")
            raise RunFailed(self._where(f"the model could not be written ({problem}); {way_out}")) from None

    def _save(self) -> None:
        if self.saver.has(self.state.step):
            return
        try:
            numbers = {
                "loop": asdict(self.state),
                "offsets": self.folder.offsets(),
                "algorithm": self.algorithm.numbers(),
            }
            roles = {name: role.save for name, role in self.algorithm.roles.items()}
            with self.folder.status.during("saving"):
                self.saver.save(self.state.step, roles, numbers, self.folder.inputs.as_json())
        except OSError as problem:
            raise RunFailed(
                self._where(f"the checkpoint could not be saved ({problem}); older ones are kept")
            ) from None

    def _save_or_say(self) -> None:
        """Save a checkpoint. If the disk is full, say so and go on without it."""
        try:
            self._save()
        except RunFailed as problem:
            self.display.message(str(problem))

    def _resume(self) -> None:
        path, problems = checkpoint.newest_valid(self.folder.checkpoints)
        if path is None and problems:
            way_out = "remove the folder to start again, or choose another --output"
            raise UserError(f"no checkpoint in {self.folder.checkpoints} is whole: {'; '.join(problems)}. {way_out}")
        for problem in problems:
            self.display.message(f"{problem}; falling back to an older checkpoint")
        if path is None:
            self.display.message(f"{self.folder.path}: no checkpoint to continue from; starting at step 0")
            self.folder.rewind({})
            return
        changes = self.folder.changes_since(Inputs.from_json(checkpoint.read_about(path)), str(path))
        saved = checkpoint.load(path)
        self.state = LoopState(**saved["loop"])
        for name, role in self.algorithm.roles.items():
            role.load(path / name)
        self.algorithm.load_numbers(saved["algorithm"])
        self.folder.rewind(saved["offsets"])
        checkpoint.set_aside(self.folder.checkpoints, self.state.step)
        self.saver.loaded(self.state.step)
        self.display.message(self._where(f"continuing from {path}"))
        for line in self.folder.note(changes):
            self.display.message(self._where(line))

    def _where(self, text: str) -> str:
        return f"{self.folder.name} step {self.state.step}/{self.total}: {text}"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
