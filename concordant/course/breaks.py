"""Break and repair: runs with one planted bug, to be found from their curves and samples.

``start`` trains the run. What the doctor said of it is taken out of the folder, and ``answer`` asks the doctor again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from concordant.core.errors import RunFailed, UserError, unknown_name
from concordant.course.check import Verdict
from concordant.doctor import catalogue
from concordant.doctor.replay import diagnose
from concordant.runs.atomic import write_text
from concordant.runs.names import EVENTS, METRICS

SECONDS = 600.0  # that the run may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    number: int
    title: str
    verb: str
    options: dict[str, str]  # of the command, without its output
    rules: tuple[str, ...]  # the doctor's rules that name the bug
    repair: str  # options with which the run is healthy
    hint: str


_COMMON = {
    "data": "builtin:toytalk",
    "data.max_samples": "400",
    "data.max_response_tokens": "48",
    "data.too_long": "cut_response_end",
    "model.name": "builtin:tiny",
    "model.device": "cpu",
    "train.tensorboard": "false",
    "train.batch_size": "8",
    "train.evaluate_every": "10",
    "doctor.preflight": "false",
}
BREAKS: dict[int, Break] = {
    b.number: b
    for b in (
        Break(
            number=8,
            title="Break and repair: an SFT run whose answers are noise",
            verb="sft",
            options=_COMMON | {"train.max_steps": "40", "train.learning_rate": "0.3"},
            rules=("learning_rate_too_high", "rate_unusual"),
            repair="--train.learning_rate 0.002",
            hint="Look at loss and grad_norm of the first ten steps: does the loss go down at all, or up first?",
        ),
        Break(
            number=9,
            title="Break and repair: a reward model that stays at a coin's accuracy",
            verb="reward",
            options=_COMMON | {"train.max_steps": "60", "train.learning_rate": "1e-8"},
            rules=("learning_rate_too_low",),
            repair="--train.learning_rate 0.001",
            hint="The loss is log 2 = 0.693 at the start. Look at how far it is from there after 60 steps, and why.",
        ),
        Break(
            number=10,
            title="Break and repair: an SFT run that becomes better at each step, and its answers become worse",
            verb="sft",
            options=_COMMON | {"data.max_samples": "24", "train.max_steps": "120", "train.learning_rate": "0.004"},
            rules=("overfitting",),
            repair="--data.max_samples 400",
            hint="Lay loss and eval/loss over each other. At which step do they part, and what was learnt by then?",
        ),
        Break(
            number=11,
            title="Break and repair: a reward model that ranks well, and its scores are nearly equal",
            verb="reward",
            options=_COMMON | {"train.max_steps": "90", "train.learning_rate": "0.001", "label_smoothing": "0.45"},
            rules=("smoothing_too_high",),
            repair="--label_smoothing 0",
            hint="Compare accuracy with the margin and with the loss. Which loss is content with so small a margin?",
        ),
    )
}


def train(task: Break, output: Path) -> None:
    """Train the run of ``task`` into ``output``, silently, and hide what the doctor said of it."""
    if output.exists():
        raise UserError(f"{output} is there already; remove it, or give another folder")
    options = [f"--{key}={value}" for key, value in task.options.items()]
    command = [sys.executable, "-m", "concordant", task.verb, *options, "--output", str(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the run did not come to its end in {SECONDS:g} s") from None
    if not (output / METRICS).is_file():
        raise RunFailed(f"the run did not start: {done.stderr.strip()[-300:]}")
    _hide(output / EVENTS)


def _hide(events: Path) -> None:
    """Take the doctor's findings out of a log of events."""
    if events.is_file():
        rows = [
            line for line in events.read_text(encoding="utf-8").splitlines() if json.loads(line)["kind"] != "finding"
        ]
        write_text(events, "".join(f"{line}\n" for line in rows))


def judged(task: Break, guess: str) -> Verdict:
    """The verdict on a learner's guess, the name of a rule of the doctor."""
    if guess not in catalogue.names():
        raise unknown_name("rule of the doctor", guess, catalogue.names())
    if guess in task.rules:
        return Verdict(True, f"Right. Train again with {task.repair}, and compare the curves.")
    return Verdict(False, f"{guess} is not what is wrong here. {task.hint}")


def answer(task: Break, output: Path) -> list[str]:
    """What the doctor says of the run, and the repair."""
    if not output.is_dir():
        raise UserError(f"{output} is not there; train the run by `concordant course start {task.number}`")
    lines = [f"{f.severity} {f.rule}: {f.seen}" for f in diagnose(output)]
    return [*lines, f"repair: {task.repair}"]
