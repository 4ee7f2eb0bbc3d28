"""Presets: settings for a known model on a known machine, or for a published method of learning.

A preset of a model, from the YAML files of ``concordant/presets``, is named MODEL/MACHINE, such as
``qwen3-0.6b/24gb``. The verb that trains chooses the method. The settings of a preset are those of ``every_model.yaml``
and then those of the model's own file. Each file has sections of config keys. The title of a section says which methods
and which machines the section is for:

    any: {…}           # every method on every machine
    24gb 80gb: {…}     # every method on these two machines
    ppo: {…}           # PPO on every machine
    sft dpo 24gb: {…}  # SFT and DPO on this machine

Later sections replace keys of earlier ones.

A preset of a method has the name of its file in ``concordant/presets/methods``, such as ``dapo``. The titles of its
sections are the verbs that the method is for. Its settings come after those of a model's preset.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concordant.config.names import METHODS
from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError, nearest, unknown_name

FOLDER = Path(__file__).resolve().parent.parent / "presets"
METHOD_FOLDER = "methods"
EVERY_MODEL = "every_model"
MACHINES = ("24gb", "80gb", "cpu")  # memory of one GPU; cpu: a machine of 32 GB without a GPU
ANY = "any"


def models() -> list[str]:
    """The models that have presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != EVERY_MODEL)


def preset_names() -> list[str]:
    """The names of all presets of models."""
    return [f"{model}/{machine}" for model in models() for machine in MACHINES]


def method_names(verb: str = "") -> list[str]:
    """The names of all presets of methods, or of those for one verb."""
    found = sorted((FOLDER / METHOD_FOLDER).glob("*.yaml"))
    return [path.stem for path in found if not verb or verb in load_yaml(path)]


def layered(names: Sequence[str], verb: str, lenient: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """The settings of all these presets for ``verb``, those of models before those of methods.

    A method that is for other verbs is an error, or with ``lenient`` has no settings. Raises UserError for two presets
    of models or of methods, too, because the second would silently replace the first.
    """
    of_methods = [name for name in names if name in method_names()]
    of_models = [name for name in names if name not in of_methods]
    for kind, given in (("model", of_models), ("method", of_methods)):
        if len(given) > 1:
            raise UserError(f"--preset takes one {kind} at most; given {' and '.join(given)}")
    found = [section for name in of_models for section in preset_sections(name, verb)]
    for name in of_methods:
        path = FOLDER / METHOD_FOLDER / f"{name}.yaml"
        sections = load_yaml(path)
        if verb in sections:
            found.append((f"{METHOD_FOLDER}/{path.name} ({verb})", sections[verb]))
        elif not lenient:
            raise UserError(f"--preset {name} is a method of {', '.join(sections)} and not of {verb}")
    return found


def preset_sections(name: str, method: str) -> list[tuple[str, dict[str, Any]]]:
    """The settings of the model's preset ``name`` for ``method`` as nested mappings, each with its place in words.

    Later mappings replace keys of earlier ones. Raises UserError if there is no such preset.
    """
    if name not in preset_names():
        raise _unknown(name)
    model, _, machine = name.partition("/")
    found = []
    for path in (FOLDER / f"{EVERY_MODEL}.yaml", FOLDER / f"{model}.yaml"):
        for title, settings in load_yaml(path).items():
            where = f"{path.name} ({title})"
            if not isinstance(settings, dict):
                raise UserError(f"{where}: expected keys below it; given {settings}")
            if _is_for(title, method, machine):
                found.append((where, settings))
    return found


def _unknown(name: str) -> UserError:
    """The error for a name that is no preset: the preset that is nearest by its meaning, and all of them."""
    model, _, machine = name.partition("/")
    near = difflib.get_close_matches(model, models(), n=1)
    meant, why = _machine_like(machine)
    if near and not machine and near[0] != model:
        near = difflib.get_close_matches(model, models(), n=1, cutoff=0.8)
    if near and not machine:
        return UserError(
            f'unknown preset "{name}". Name the machine too: {", ".join(f"{near[0]}/{m}" for m in MACHINES)}'
        )
    guess = f' Did you mean "{near[0]}/{meant}"?{why}' if near and meant else nearest(name, method_names())
    return UserError(f'unknown preset "{name}".{guess} Known: {", ".join([*preset_names(), *method_names()])}')


def _machine_like(name: str) -> tuple[str, str]:
    """The machine of the presets that is nearest to ``name``, and a sentence about it; of GPUs the largest that fits.

    The letters of a size are no guide: 8gb looks like 80gb.
    """
    size = re.match(r"(\d+)", name)
    if size is None:
        return next(iter(difflib.get_close_matches(name.lower(), MACHINES, n=1)), ""), ""
    asked, sizes = int(size[1]), sorted(int(machine[:-2]) for machine in MACHINES if machine.endswith("gb"))
    fitting = [known for known in sizes if known <= asked]
    if not fitting:
        return f"{sizes[0]}gb", f" There is none for {asked} GB, and the smallest is for {sizes[0]} GB."
    why = "" if fitting[-1] == asked else f" There is none for {asked} GB; this one fits."
    return f"{fitting[-1]}gb", why


def _is_for(title: str, method: str, machine: str) -> bool:
    """Whether a section is for this method and this machine. A title without a method is for every method."""
    words = title.split()
    for word in words:
        if word not in (*METHODS, *MACHINES, ANY):
            raise unknown_name("word in the title of a preset's section", word, [*METHODS, *MACHINES, ANY])
    methods, machines = set(words) & set(METHODS), set(words) & set(MACHINES)
    return (not methods or method in methods) and (not machines or machine in machines)
