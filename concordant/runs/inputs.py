"""The inputs on which a run's numbers depend. Every checkpoint stores them, and a resumed run compares them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from concordant.config.checks import shown
from concordant.runs.identity import identity, on_disk

DATA = "data"  # stands for the records themselves; other keys say where the records come from

# Keys that change no number of the run.
HARMLESS = {
    "output", "resume", "train.log_every", "train.save_every", "train.save_minutes", "train.keep_last",
    "train.tensorboard", "train.tracker", "cluster.exact", "cluster.timeout", "cluster.ray",
    "cluster.restarts",
    # How a judge is reached and what one command may cost; its answers depend on the model and the question.
    "endpoint.key_variable", "endpoint.parallel", "endpoint.timeout", "endpoint.retries", "endpoint.wait",
    "endpoint.longest_wait", "endpoint.max_calls", "endpoint.max_tokens",
}  # fmt: skip
# Keys that change no number, only which results are written. A run may be resumed with others; a pipeline's stage is
# run again, because the stages after it may need what it did not write.
RESULTS = {"train.export"}
# Keys that say which processes compute. With shards they change nothing: the order of sums is that of the shards.
PLACES = {
    "cluster.workers", "cluster.tensor", "cluster.pipeline",
    "cluster.apart.generator", "cluster.apart.reference", "cluster.apart.reward", "cluster.apart.critic",
}  # fmt: skip
# Keys that only change how sums are rounded: the mathematics is the same, but the last bits may differ.
ROUNDING = {
    "packing", "sampling.slots", "evaluation_slots", "train.threads", "train.micro_batch_tokens", "train.halve_on_oom",
    "model.device", "model.kernels", "model.activation_checkpointing",
    "critic.device", "critic.kernels", "critic.activation_checkpointing",
    "cluster.shards", "cluster.sharded", "cluster.offload", *PLACES,
}  # fmt: skip
# Keys that choose the records. They are compared by the records that they lead to.
CHOOSE_DATA = {
    f"data.{key}"
    for key in (
        "path",
        "test_path",
        "split",
        "test",
        "format",
        "columns",
        "pairs",
        "merge_turns",
        "skip_bad_rows",
        "max_samples",
        "test_fraction",
    )
}


@dataclass
class Inputs:
    """Settings by dotted key. Where a setting names a file or data, a hash of its contents has the same key."""

    settings: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], paths_of: Mapping[str, Sequence[str]] | None = None) -> Inputs:
        """Make inputs from the values of a config by dotted key.

        ``paths_of`` gives the files and folders that each key names (``config.paths.paths_of``); they are read.
        """
        contents = {}
        for key, named in (paths_of or {}).items():
            paths = on_disk(named) if key not in HARMLESS | CHOOSE_DATA else []
            if paths:  # equal files in another place are the same input
                text = json.dumps(settings[key])
                for path in sorted(paths, key=len, reverse=True):  # one path may be the beginning of another
                    text = text.replace(path, _hash(json.dumps(identity(Path(path)))))
                contents[key] = _hash(text)
        return cls(dict(settings), contents)

    def add_data(self, train: Sequence[Any], heldout: Sequence[Any]) -> None:
        """Add the records in the order in which they were read."""
        self.settings[DATA] = f"{len(train):,} records, {len(heldout):,} held out"
        self.contents[DATA] = records_hash([train, heldout])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Inputs:
        inputs = cls(**saved)
        if not all(isinstance(part, dict) for part in (inputs.settings, inputs.contents, inputs.environment)):
            raise TypeError("settings, contents and environment are objects")
        return inputs


def refused(before: Inputs, now: Inputs) -> list[str]:
    """The changes that make it a different run, one line each: ``key: old -> new``."""
    moved = before.contents.get(DATA) != now.contents.get(DATA)
    keys = [key for key in {**before.settings, **now.settings} if key not in HARMLESS | RESULTS | ROUNDING]
    lines = []
    for key in keys:
        old, new = _compared(before, key), _compared(now, key)
        if old != new and (moved or key not in CHOOSE_DATA):
            same_words = before.settings.get(key) == now.settings.get(key)
            lines.append(_line(key, before.settings, now.settings) + (" (other content)" if same_words else ""))
    return lines


def rounded(before: Inputs, now: Inputs) -> list[str]:
    """The changes after which the last bits of the run's numbers may differ."""
    in_order = bool(now.settings.get("cluster.shards"))
    keys = sorted(ROUNDING & {*before.settings, *now.settings} - (PLACES if in_order else set()))
    settings = [_line(key, before.settings, now.settings) for key in keys if _differs(key, before, now)]
    names = {**before.environment, **now.environment}
    around = [
        _line(name, before.environment, now.environment)
        for name in names
        if before.environment.get(name) != now.environment.get(name)
    ]
    return settings + around


def records_hash(sides: Iterable[Sequence[Any]]) -> str:
    """A hash of the records of each side. Records are frozen dataclasses of text and numbers.

    Their ``repr`` leaves out the file and line, so that equal records in another file have the same hash.
    """
    digest = hashlib.sha256()
    for side in sides:
        for record in side:
            digest.update(repr(record).encode("utf-8", "surrogatepass") + b"\n")
        digest.update(b"\0")
    return digest.hexdigest()


def _compared(inputs: Inputs, key: str) -> Any:
    return inputs.contents.get(key, inputs.settings.get(key))


def _differs(key: str, before: Inputs, now: Inputs) -> bool:
    return before.settings.get(key) != now.settings.get(key)


def _line(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = (shown(values[key]) if key in values else "nothing" for values in (before, now))
    return f"{key}: {old} -> {new}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
