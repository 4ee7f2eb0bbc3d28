"""The section of the report about the axes of the proxy and the disagreement of its ensemble."""

from __future__ import annotations

import numpy as np

from concordant.evaluation.bootstrap import mean_of
from concordant.evaluation.records import Evaluation
from concordant.report.blocks import Block, Heading, Paragraph, Table
from concordant.report.wording import with_interval
from concordant.runs.metrics import DISAGREEMENT


def axes_blocks(evaluation: Evaluation) -> list[Block]:
    """A table of every policy's mean of each axis; empty if the proxy has no axes with names and no ensemble."""
    names = list(evaluation.first.parts)
    if not names or not all(run.parts for runs in evaluation.answers.values() for run in runs):
        return []
    heads = ["disagreement" if name == DISAGREEMENT else name for name in names]
    rows = []
    for policy, runs in evaluation.answers.items():
        means = [
            mean_of(np.asarray([run.parts[name] for run in runs]).mean(axis=0), evaluation.bootstrap, evaluation.seed)
            for name in names
        ]
        rows.append((policy, *map(with_interval, means)))
    said = (
        "An axis is a part of the proxy that has a name. The disagreement is the standard deviation of an answer's"
        " score over the members of an ensemble. Where it grows, the members no longer say the same, and the proxy is"
        " less to be trusted."
    )
    return [Heading("Axes of the proxy"), Table(("policy", *heads), tuple(rows)), Paragraph(said)]
