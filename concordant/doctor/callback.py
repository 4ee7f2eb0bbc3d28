"""The doctor in the training loop. Each finding gives one line in the terminal and one in events.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from concordant.config.doctor import DoctorConfig
from concordant.core.errors import RunStopped
from concordant.doctor.finding import Finding, Severity, at_least
from concordant.doctor.monitor import Monitor, as_line
from concordant.doctor.replay import monitor_of, replayed, rows
from concordant.runs.folder import RunFolder
from concordant.runs.read import findings_of
from concordant.training.loop import Algorithm
from concordant.training.progress import current
from concordant.training.result import LoopResult


def look_again(folder: RunFolder) -> None:
    """Report what only the numbers show that were measured after the last step, such as held-out accuracy."""
    known = {event["rule"] for event in findings_of(folder.path)}
    for finding in replayed(folder.path).ranked():
        if finding.rule not in known:
            folder.log_event(finding.as_event())
            current().message(f"{folder.name}: {finding.severity}: {as_line(finding)}")


class Doctor:
    """A callback of ``training.loop``. It stops a run only if ``config.stop_on`` asks for this.

    The doctor reads only the logged rows. So a resumed run gives the same findings, and so does the run folder later.
    """

    def __init__(self, config: DoctorConfig, log_every: int = 1) -> None:
        self.config, self.log_every = config, log_every
        self.folder: RunFolder | None = None
        self.monitor = Monitor({})

    def start(self, algorithm: Algorithm, folder: RunFolder) -> None:
        """Read the run's settings and, for a resumed run, the rows that it has logged before."""
        self.folder, self.monitor = folder, monitor_of(folder.path)
        for row in rows(folder.path):
            self.monitor.see(row)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self.folder is not None
        if step % self.log_every and "seconds/evaluate" not in metrics:
            return
        found = self.monitor.see(metrics)
        for finding in found:
            self.folder.log_event(finding.as_event())
            current().message(f"{self.folder.name} step {step}: {finding.severity}: {as_line(finding)}")
        self._stop(found)

    def end(self, result: LoopResult) -> None:
        """Do nothing, because every finding is already in the folder."""

    def _stop(self, found: list[Finding]) -> None:
        grave = [f for f in found if self.config.stop_on and at_least(f.severity, cast(Severity, self.config.stop_on))]
        if grave:
            assert self.folder is not None
            rules = ", ".join(f.rule for f in grave)
            raise RunStopped(
                f"{self.folder.name}: stopped by doctor.stop_on {self.config.stop_on} ({rules}); the step is saved: "
                "apply the cure and start anew, or go on as it is with --resume auto"
            )
