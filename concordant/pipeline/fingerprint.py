"""Decides whether a stage is unchanged: its config, our code, its files and the stages before it must be the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concordant.config.paths import paths_of
from concordant.runs.identity import code_version, identity, on_disk
from concordant.runs.inputs import HARMLESS, ROUNDING
from concordant.verbs import verb_named


def fingerprint(verb: str, values: Mapping[str, Any], needs: Mapping[str, str]) -> str:
    """A hash of everything on which the result of a stage depends.

    ``values`` has the settings by dotted key. References stay as ``${name}``, so that a moved output folder changes
    nothing. ``needs`` has the fingerprint of every stage that this stage names.
    """
    inputs = {key: value for key, value in values.items() if key not in HARMLESS | ROUNDING}
    named = paths_of(verb_named(verb).config_class(), inputs)
    files = {path: identity(Path(path)) for path in on_disk(path for paths in named.values() for path in paths)}
    content = {"verb": verb, "values": inputs, "needs": dict(needs), "files": files, "code": code_version()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
