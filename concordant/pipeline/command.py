"""``concordant run FILE.yaml`` for pipelines, and ``concordant demo``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concordant.config.parse import split_options
from concordant.config.yaml_io import dump_yaml, load_yaml
from concordant.core.errors import UserError
from concordant.core.visible import say
from concordant.runs.names import REPORT_MARKDOWN

DEMO = Path(__file__).resolve().parent.parent / "demo.yaml"

HELP = """usage: concordant run FILE.yaml [--output DIR] [--data FILE_OR_ID] [--KEY=VALUE] [--stages.NAME.KEY=VALUE]
       concordant run RUN/config.yaml --output DIR [--KEY=VALUE]

example: concordant run examples/hh_rlhf.yaml --data hh-rlhf/ --output runs/hh

Runs a pipeline of stages, which can use the results of other stages. A stage whose inputs have not changed is not run
again, and a stopped stage continues. --KEY replaces a key of the file outside "stages", --stages.NAME.KEY a key of one
stage. --print_config prints all stages with every default.

With the config.yaml of a run, the command repeats that run and takes the options of its verb."""

DEMO_HELP = """usage: concordant demo [--output runs/demo] [--seed N] [--stages.NAME.KEY=VALUE]

example: concordant demo --output runs/again --seed 1

Runs the whole pipeline on the built-in toy world: SFT, reward model, best-of-n, DPO, PPO, and a report that compares
them."""


def pipeline_command(
    mapping: Mapping[str, Any],
    source: str,
    arguments: Sequence[str],
    output: str = "",
    command: str = "concordant run",
) -> int:
    """Run the pipeline in ``mapping``. ``output`` is used if neither the file nor the options give an output.

    ``command`` is the command's name in errors.
    """
    from concordant.pipeline.plan import check, read_plan

    given = split_options(arguments, command)
    options = [(name, values) for name, values in given if name not in ("output", "resume", "print_config")]
    for name, values in given:
        if name == "resume" and values != ["auto"]:  # a pipeline always continues where it stopped
            raise UserError(f'--resume: expected "auto"; given "{" ".join(values)}"')
    stages = read_plan(mapping, source, options)
    if ("print_config", []) in given:
        check(stages, Path(output), only_values=True)
        say(dump_yaml({"stages": {stage.name: stage.mapping() for stage in stages}}), end="")
        return 0
    places = [value for name, values in given if name == "output" for value in values]
    place = places[-1] if places else str(mapping.get("output", output))
    if not place:
        raise UserError("output is needed; give --output DIR")
    return _run(stages, Path(place))


def demo_command(arguments: Sequence[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(DEMO_HELP)
        return 0
    return pipeline_command(load_yaml(DEMO), "demo.yaml", arguments, output="runs/demo", command="concordant demo")


def _run(stages: Sequence[Any], output: Path) -> int:
    from concordant.pipeline.runner import run_pipeline, summary
    from concordant.training.progress import current

    reports = run_pipeline(stages, output)
    display = current()
    display.console.print(summary(reports))
    for report in reports:
        if (report.folder / REPORT_MARKDOWN).exists():
            display.message(f"report: {report.folder / REPORT_MARKDOWN}")
    return 0
