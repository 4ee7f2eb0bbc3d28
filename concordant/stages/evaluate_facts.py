"""What the report says about the evaluation itself, and about the models and runs behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concordant.config.fields import flatten
from concordant.config.scoring import ScoringConfig
from concordant.config.specs import best_of, place_of
from concordant.config.stages import EvaluateConfig
from concordant.core.counted import counted
from concordant.data.records import Prompt
from concordant.data.splits import Loaded
from concordant.report.run_facts import HASH_DIGITS, Source
from concordant.runs.facts import RunFacts, is_run, read_facts, weights_of
from concordant.runs.inputs import records_hash
from concordant.runs.names import MODEL

Policies = Mapping[str, Sequence[str]]  # by name: PATH or best_of_n:N:PATH of each run


def facts_of(
    config: EvaluateConfig, loaded: Loaded[Prompt], prompts: Sequence[Prompt], references: Sequence[str]
) -> list[tuple[str, str]]:
    """Data, scorers and settings of the evaluation, by name."""
    data, sampling = config.data, config.sampling
    split = f"held out: {data.test_path}" if data.test_path else f"by prompt, {data.test_fraction:g} of them held out"
    counts = f"{counted(len(loaded.train), 'prompt')} to train on, {len(loaded.test):,} held out"
    facts = [
        ("data", data.path),
        ("format", ", ".join(loaded.formats)),
        ("rows", f"{loaded.rows_read:,} read; {counts}"),
        ("split", split),
        ("prompts", f"{len(prompts):,}, hash {records_hash([prompts])[:HASH_DIGITS]}"),
        ("proxy", " + ".join(config.reward)),
        ("ensemble", "" if config.scoring.ensemble == "none" else config.scoring.ensemble),
        ("judge", " + ".join(config.judge)),
        ("KL measured from", ", ".join(references)),
        ("sampling", f"temperature {sampling.temperature:g}, at most {counted(sampling.max_new_tokens, 'token')}"),
    ]
    return [fact for fact in facts if fact[1]]


def sources_of(config: EvaluateConfig, policies: Policies, folders: Mapping[str, Path]) -> list[Source]:
    """The models of the policies, the runs that ``--runs`` names, and the reward models; each run folder once."""
    given = [
        (f"{name}, run {i}" if len(runs) > 1 else name, run)
        for name, runs in policies.items()
        for i, run in enumerate(runs, 1)
    ]
    given += [(name, str(folder / MODEL)) for name, folder in folders.items()]
    given += [("proxy", place_of(source)) for source in config.reward]
    given += [("judge", place_of(source)) for source in config.judge]
    found: list[Source] = []
    seen: set[Path] = set()
    for name, spec in given:
        model = Path(best_of(spec)[1])
        run = run_of(model)
        if run is not None and model.resolve() in seen:
            if best_of(spec)[0] > 1:  # another way to answer with a model that is shown already
                found.append(Source(name, spec, None, None))
            continue
        seen.add(model.resolve())
        found.append(Source(name, spec, run, run.weights if run else weights_of(model)))
    return found


def starts_of(config: EvaluateConfig, policies: Policies, folders: Mapping[str, Path]) -> dict[str, str]:
    """For each run in ``folders`` the policy from which it started, if that one was evaluated.

    A run that measures its KL from another model than its start is left out, because its start is not at KL 0. So is a
    run that learnt from another reward than the proxy of the evaluation, because the two have different units.
    """
    models = {Path(runs[0]).resolve(): name for name, runs in policies.items() if len(runs) == 1}
    found = {}
    for name, folder in folders.items():
        run = read_facts(folder)
        start = models.get(Path(run.base).resolve()) if run.base else None
        is_proxy = _places(run.settings.get("reward") or []) == _places(config.reward)
        is_proxy &= _scoring(run.settings) == _scoring(flatten(config))
        if start is not None and is_proxy and not run.settings.get("reference"):
            found[name] = start
    return found


def _scoring(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How the sources become one reward; a run from before these keys has the defaults."""
    usual = {f"scoring.{key}": value for key, value in flatten(ScoringConfig()).items()}
    return {key: settings.get(key, value) for key, value in usual.items()}


def _places(sources: Sequence[str]) -> list[Path]:
    return [Path(source).resolve() for source in sources]


def run_of(model: Path) -> RunFacts | None:
    """The run that exported ``model``; None for another folder and for a hub id."""
    return read_facts(model.parent) if model.name == MODEL and is_run(model.parent) else None
