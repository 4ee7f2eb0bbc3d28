"""Runs in a process of its own: loads a learner's file, observes it, and writes what was seen as JSON.

python -m concordant.course.runner NUMBER FILE RESULT
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from concordant.course.catalogue import exercise_of
from concordant.course.exercise import Exercise


def main(number: str, file: str, result: str) -> None:
    torch.set_num_threads(1)
    Path(result).write_text(json.dumps(seen(exercise_of(int(number)), Path(file))), encoding="utf-8")


def seen(exercise: Exercise, file: Path) -> dict[str, Any]:
    """``{"observed": …}``, or ``{"error": …, "line": …}`` for a file that raises."""
    try:
        return {"observed": exercise.observe(load(file))}
    except NotImplementedError as missing:
        return {"error": f"this part is not written yet: {missing}", "line": _line_in(missing, file)}
    except BaseException as error:  # whatever the learner's file raises is the learner's to read
        return {"error": f"{type(error).__name__}: {error}", "line": _line_in(error, file)}


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("learner", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["learner"] = module
    spec.loader.exec_module(module)
    return module


def _line_in(error: BaseException, file: Path) -> int:
    """The last line of the file that the error came through; 0 if it came through none."""
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    return lines[-1] or 0 if lines else 0


if __name__ == "__main__":
    main(*sys.argv[1:])
