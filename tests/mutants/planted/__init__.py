"""All planted bugs, in the order of the package's layers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.planted import (
    algorithms,
    config,
    core,
    course,
    data,
    doctor,
    engines,
    evaluation,
    feedback,
    kernels,
    models,
    pipeline,
    planning,
    report,
    runs,
    serve,
    stages,
    studio,
    training,
    votes,
)

_FOLDERS = (
    core, config, runs, planning, data, models, kernels, engines, training, algorithms, evaluation, feedback, report,
    doctor, stages, pipeline, serve, course, studio, votes,
)  # fmt: skip
MUTANTS: tuple[Mutant, ...] = tuple(mutant for folder in _FOLDERS for mutant in folder.MUTANTS)
