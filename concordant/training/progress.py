"""Shows progress: live bars on a terminal, and a plain line every few seconds elsewhere.

Progress goes to stderr, so that results on stdout can be piped. rich follows NO_COLOR. All stages share one display,
``current``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from concordant.core.alive import heard_by
from concordant.core.visible import visible

LONG = 2.0  # seconds; after them, a step shows how far the work within the step is, and other work gets a task

# metric -> its name beside the bar
SHOWN = {
    "loss": "loss",
    "token_accuracy": "accuracy",
    "accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
    "objective/score": "reward",
    "objective/kl": "KL",
}


class ProgressConsole(Console):
    """The console of progress lines. Where nobody reads them any more, as behind ``2>&1 | head``, the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # or the flush at exit fails again


class Display:
    """Shows any number of tasks at once. On a terminal it is live from the first task to the last."""

    def __init__(self, console: Console | None = None, seconds_between_lines: float = 5.0) -> None:
        self.console = console or ProgressConsole(stderr=True)
        self.prefix = ""  # e.g. "[2/6] dpo": which stage of a pipeline this is
        self.seconds_between_lines = seconds_between_lines
        self.live: Progress | None = None
        self._open_tasks = 0

    def message(self, text: str | Text) -> None:
        """Print a line that stays above the bars. Only rich's ``Text`` can have colours."""
        console = self.live.console if self.live else self.console
        plain = text.plain if isinstance(text, Text) else text
        shown = text if visible(plain) == plain else visible(plain)
        console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def task(self, name: str, total: int, done: int = 0) -> Task:
        """A context manager for a task of ``total`` steps, of which a resumed run has already ``done`` some."""
        if self.console.is_terminal and self.live is None:
            self.live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=4,
                transient=False,
            )
            self.live.start()
        self._open_tasks += 1
        return Task(self, visible(" ".join(filter(None, [self.prefix, name]))), total, done)

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Inside the block, work without steps of its own is shown as a task if it takes longer than ``LONG``."""
        started, shown = time.monotonic(), list[Task]()

        def hear(counted: str, done: int, total: int) -> None:
            if not shown and time.monotonic() - started >= LONG:
                shown.append(self.task(name, total, done))
            for task in shown:
                task.total, task.counted = total, counted
                task.update(done)

        try:
            with heard_by(hear):
                yield
        finally:
            for task in shown:
                task.update(task.total)
                task.close()

    def task_closed(self) -> None:
        self._open_tasks -= 1
        if self._open_tasks == 0:
            self.close()

    def close(self) -> None:
        """Remove the bars and restore the terminal. A later task starts a new display."""
        if self.live is not None:
            self.live.stop()
            self.live = None


class Task:
    """One bar, or one series of plain lines."""

    def __init__(self, display: Display, name: str, total: int, done: int) -> None:
        self.display, self.name, self.total = display, name, total
        self._started, self._first, self._done = time.monotonic(), done, done
        self._last_line, self._said = float("-inf"), done  # time of the last plain line, and the steps done then
        self._last_step = self._started  # when the step in progress began
        self.counted = ""  # what the steps are, where they are no training steps
        self._numbers = ""
        self._closed = False
        live = display.live
        self._bar = None if live is None else live.add_task(name, total=total, completed=done, numbers="")

    def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """Show that ``done`` steps are done. Of ``metrics``, those in ``SHOWN`` are shown."""
        self._done, self._last_step = done, time.monotonic()
        if metrics is not None:
            self._numbers = numbers(metrics)
        self._show()

    def alive(self, counted: str, done: int, total: int) -> None:
        """A listener of ``core/alive.py``: show how far the work within a long step is."""
        if time.monotonic() - self._last_step >= LONG:
            self._show(f"{done:,}/{total:,} {counted}")

    def _show(self, within: str = "") -> None:
        if self.display.live is not None and self._bar is not None:
            text = "  ".join(filter(None, [self.counted, self._numbers, within]))
            self.display.live.update(self._bar, completed=self._done, total=self.total, numbers=text)
        elif time.monotonic() - self._last_line >= self.display.seconds_between_lines:
            self._line(within)

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        self.update(self._done + 1, metrics)

    def close(self) -> None:
        """Close the task. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is None and self._done > self._said:
            self._line()
        self.display.task_closed()

    def __enter__(self) -> Task:
        self._heard = heard_by(self.alive)
        self._heard.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._heard.__exit__(kind, error, at)
        self.close()

    def _line(self, within: str = "") -> None:
        self._last_line, self._said = time.monotonic(), self._done
        elapsed, steps = self._last_line - self._started, self._done - self._first
        if self._done >= self.total:
            clock = f"took {duration(elapsed)}"
        else:
            clock = f"{duration(elapsed / steps * (self.total - self._done))} left" if steps else ""
        self.display.message(
            "  ".join(
                filter(None, [self.name, f"{self._done}/{self.total}", self.counted, self._numbers, within, clock])
            )
        )


def numbers(metrics: Mapping[str, float]) -> str:
    """The metrics of ``SHOWN`` as text, such as ``loss 0.693  KL 1.2``."""
    return "  ".join(f"{word} {metrics[name]:.4g}" for name, word in SHOWN.items() if name in metrics)


def duration(seconds: float) -> str:
    """A duration as text: ``42s``, ``3m07s`` or ``2h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


_current: ContextVar[Display | None] = ContextVar("display", default=None)


def current() -> Display:
    """The present display; the first call makes one."""
    display = _current.get()
    if display is None:
        display = Display()
        _current.set(display)
    return display


@contextmanager
def use(display: Display) -> Iterator[Display]:
    """Inside the block ``display`` is the current one, for the stages of a pipeline or the console of a test."""
    token = _current.set(display)
    try:
        yield display
    finally:
        display.close()
        _current.reset(token)
