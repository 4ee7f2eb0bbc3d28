"""The facts of an evaluation and of the runs behind it: model, data, settings, date, exported step, links to files."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from concordant.report.blocks import Block, Card, Heading, Link
from concordant.runs.facts import RunFacts

# Settings of a run that a reader looks for first; config.yaml has all.
MAIN_SETTINGS = (
    "responses", "loss", "beta", "margin", "lm_coefficient", "label_smoothing", "advantage", "policy_loss", "reward",
    "kl.coefficient", "kl.controller", "clip", "inner_epochs", "minibatches", "train.max_steps",
    "train.epochs", "train.batch_size", "train.learning_rate", "train.schedule", "model.precision",
    "model.lora.rank", "sampling.n", "sampling.temperature", "sampling.max_new_tokens", "retain.mix", "retain.ewc",
    "replay",
)  # fmt: skip
HASH_DIGITS = 12  # of a hash that is shown
_MOST = 700.0  # nats: its exponential is still finite


@dataclass(frozen=True, slots=True)
class Source:
    """A model of the report: the folder or hub id that was given, and the run that made it, if there is one."""

    name: str  # a policy, with the number of its run if there are several; or what ``--runs`` calls a run
    path: str
    run: RunFacts | None
    weights: int | None  # numbers in the model


def facts_blocks(facts: Sequence[tuple[str, str]], sources: Sequence[Source], folder: Path) -> list[Block]:
    """A card for the evaluation and one for each model, with links from ``folder``; no block if nothing is known."""
    cards: list[Block] = [Card("This evaluation", tuple(facts), ())] if facts else []
    cards += [_card(source, folder) for source in sources]
    return [Heading("Facts"), *cards] if cards else []


def _card(source: Source, folder: Path) -> Card:
    facts, run = [("model", source.path)], source.run
    if run is not None:
        verb, environment = run.settings.get("verb"), run.result.get("environment")
        version = environment.get("concordant") if isinstance(environment, dict) else None
        facts += [
            ("made by", f"concordant {verb}" if verb else ""),
            ("base model", run.base),
            ("data", _data(run)),
            ("settings", ", ".join(f"{key} {_shown(run.settings[key])}" for key in MAIN_SETTINGS if _says(run, key))),
            ("date", run.started.replace("T", " ").replace("+00:00", " UTC")),
            ("exported step", _exported(run.result)),
            ("what must not be forgotten", _retained(run)),
            ("seed", str(run.settings.get("seed", ""))),
            ("version", f"concordant {version}" if version else ""),
        ]
    facts.append(("weights", f"{source.weights:,}" if source.weights else ""))
    return Card(
        source.name, tuple(fact for fact in facts if fact[1]), links_from(folder, run.files) if run is not None else ()
    )


def links_from(folder: Path, files: Sequence[Path]) -> tuple[Link, ...]:
    """Links from a page in ``folder``. They are relative, so that they hold when all folders are moved together."""
    paths = [Path(os.path.relpath(file, folder)).as_posix() for file in files]
    names = [file.name + ("/" if file.is_dir() else "") for file in files]
    return tuple(Link(name, quote(path)) for name, path in zip(names, paths, strict=True))


def _data(run: RunFacts) -> str:
    path, held_out = run.settings.get("data.path"), run.settings.get("data.test_path")
    split = f"held out: {held_out}" if held_out else f"held out by prompt: {run.settings.get('data.test_fraction')}"
    records, digest = run.result.get("data"), run.result.get("data_hash")
    parts = [str(path), str(records or ""), split, f"hash {str(digest)[:HASH_DIGITS]}" if digest else ""]
    return "; ".join(part for part in parts if part) if path else ""


def _retained(run: RunFacts) -> str:
    """The perplexity of the text of ``retain.text`` before the run and at the exported step."""
    if run.retained is None:
        return ""
    before, after = (math.exp(min(nll, _MOST)) for nll in run.retained)
    return f"perplexity of {run.settings.get('retain.text')}: {before:.4g} before, {after:.4g} after"


def _says(run: RunFacts, key: str) -> bool:
    """Whether a setting says something: an option that is off, such as LoRA's rank 0, does not."""
    is_limited = key == "train.epochs" and run.settings.get("train.max_steps")  # the number of steps is given instead
    return not is_limited and run.settings.get(key) not in (None, "", 0, [])


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _exported(result: Mapping[str, Any]) -> str:
    """Which step's weights the model has, and why."""
    step, best, metric = result.get("exported_step"), result.get("best_step"), result.get("metric")
    if step is None:
        return "not recorded"
    text = f"{step} of {result.get('total_steps')}"
    if best is None:
        return f"{text}, the last: there was no held-out data to choose by"
    if step == best:
        return f"{text}, the best by {metric}" + (", which is the last" if step == result.get("steps") else "")
    return f"{text}, the last; the best by {metric} was step {best}"
