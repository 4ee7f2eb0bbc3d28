"""``concordant course``: the list of exercises, skeletons, checks, hints and solutions."""

from __future__ import annotations

from pathlib import Path

from concordant.config.checks import checked
from concordant.config.serving import CourseConfig
from concordant.core.errors import RunFailed, UserError
from concordant.core.visible import say
from concordant.course import breaks
from concordant.course.breaks import BREAKS, Break
from concordant.course.catalogue import EXERCISES
from concordant.course.check import check
from concordant.course.exercise import Exercise
from concordant.runs.atomic import write_text
from concordant.runs.writable import check_file


@checked
def take_course(config: CourseConfig) -> Path | None:
    """Do one action of the course. Raises RunFailed for a file that does not pass."""
    if config.action == "list":
        say(contents())
        return None
    if config.file and config.action not in ("start", "check"):
        raise UserError(f"{config.action} reads no file; leave {config.file} out")
    if config.exercise in BREAKS:
        return _break(BREAKS[config.exercise], config)
    if config.exercise not in EXERCISES:
        raise UserError(f"there is no exercise {config.exercise}; the exercises are 1 to {max(BREAKS)}")
    return _exercise(EXERCISES[config.exercise], config)


def contents() -> str:
    """The list of the exercises, under the phases of the seed's plan."""
    lines: list[str] = []
    phase = ""
    for exercise in EXERCISES.values():
        if exercise.phase != phase:
            phase = exercise.phase
            lines += ["", phase]
        lines.append(f"  {exercise.number}  {exercise.title}")
    lines += ["", "Break and repair", *(f"  {b.number}  {b.title.partition(': ')[2]}" for b in BREAKS.values())]
    lines += ["", "concordant course start 1 writes the skeleton of exercise 1 to exercise_1.py,"]
    lines += ["concordant course check 1 checks it; hint 1 and solution 1 help."]
    return "\n".join(lines[1:])


def _exercise(exercise: Exercise, config: CourseConfig) -> Path | None:
    file = Path(config.file or f"exercise_{exercise.number}.py").expanduser()
    if config.action == "start":
        if file.exists():
            raise UserError(f"{file} is there already, and is not replaced; give another file")
        check_file(str(file))
        write_text(file, exercise.skeleton)
        return file
    if config.action == "answer":
        raise UserError("answer is for break and repair; the solution of an exercise is shown by solution")
    if config.action != "check":
        say(exercise.hint if config.action == "hint" else exercise.solution)
        return None
    verdict = check(exercise, file)
    if not verdict.passed:
        raise RunFailed(f"{exercise.title}: {verdict.says}")
    say(f"{exercise.title}: {verdict.says}")
    return None


def _break(task: Break, config: CourseConfig) -> Path | None:
    folder = Path(f"exercise_{task.number}")
    if config.action == "start":
        breaks.train(task, Path(config.file).expanduser() if config.file else folder)
        return Path(config.file or folder)
    if config.action == "hint":
        say(task.hint)
    elif config.action == "check":
        if not config.file:
            raise UserError("give the doctor's rule that you suspect: `concordant course check 8 RULE`")
        verdict = breaks.judged(task, config.file)
        if not verdict.passed:
            raise RunFailed(verdict.says)
        say(verdict.says)
    else:
        say("\n".join(breaks.answer(task, folder)))
    return None
