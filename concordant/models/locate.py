"""Finds a model (a folder, a folder inside an installed package, or a hub id) and checks that it is safe to read.

No code of the model is executed: weights are safetensors, settings are JSON, and a package is found without importing
it.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from concordant.config.specs import ADAPTER_CONFIG
from concordant.core import hub
from concordant.core.errors import UserError
from concordant.core.near_path import nearest_path
from concordant.models.settings_files import read_index, read_object, read_objects, refuse_code

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")  # reading one of these can run any code
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def locate(name: str) -> Path | str:
    """The folder that ``name`` means, or ``name`` itself if it is a hub id.

    Raises:
        UserError: ``name`` is neither a folder nor a possible hub id, or the hub does not have it or does not answer.
    """
    if not name:
        raise UserError("no model given: pass --model.name PATH, a hub id, package:NAME/FOLDER or builtin:tiny")
    if name.startswith("package:"):
        return _in_package(name)
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):  # other than Path's methods, these raise nothing for a name that no disk can hold
        return path
    if os.path.exists(path):
        raise UserError(f'model "{name}" is a file; expected a folder with config.json and *.safetensors')
    if name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise UserError(f'no folder "{name}".{nearest_path(path, Path.is_dir)}')
    # The hub may have a stranger's model under a name that was mistyped, so it is not asked.
    guess = nearest_path(path, Path.is_dir) if "/" in name else nearest_path(path, _holds_a_model, cutoff=0.8)
    if guess:
        raise UserError(f'no folder "{name}".{guess} For a model of the hub with this name, start in another folder')
    hub.ask(name, "model", "--model.name")
    return name


def _holds_a_model(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "config.json").is_file() or is_adapter(folder))


def _in_package(name: str) -> Path:
    package, _, folder = name.removeprefix("package:").partition("/")
    if not package.isidentifier() or not folder or ".." in folder.split("/") or "\\" in folder or folder[0] == "/":
        raise UserError(f'"{name}": expected package:NAME/FOLDER, a folder inside an installed Python package, no ".."')
    spec = find_spec(package)
    roots = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    if not roots:
        raise UserError(f'"{name}": no Python package "{package}" is installed here')
    for root in roots:
        path = root / folder
        if path.is_dir():
            if not path.resolve().is_relative_to(root.resolve()):
                raise UserError(f'"{name}" leads out of the package by a symlink: refused')
            return path
    inside = sorted(p.name for p in roots[0].iterdir() if p.is_dir() and not p.name.startswith("_"))
    raise UserError(f'"{name}": the package has no folder "{folder}" (it has: {", ".join(inside) or "none"})')


ModelKind = Literal["policy", "reward"]


def kind_of(place: Path) -> ModelKind | None:
    """What the model in the folder ``place`` is, by its settings alone; None if it is none."""
    try:
        if (place / "config.json").is_file():
            made_for = str(read_object(place / "config.json").get("architectures"))
        elif is_adapter(place):
            made_for = str(read_object(place / ADAPTER_CONFIG).get("task_type"))
        else:
            return None
    except UserError:
        return None
    return made_as(made_for)


def made_as(made_for: str) -> ModelKind | None:
    """What the name of an architecture, or of PEFT's task, says that a model is; None for other models."""
    if "ForSequenceClassification" in made_for or made_for == "SEQ_CLS":
        return "reward"
    return "policy" if "ForCausalLM" in made_for or "LMHead" in made_for or made_for == "CAUSAL_LM" else None


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def read_settings(folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """The contents of ``config.json``.

    Raises:
        UserError: the folder is not a model folder, or it is not safe to read. The message says what was found.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f'"{folder}" is not a model folder: no config.json ({_found(folder)}).{_hint(folder)}')
    if is_adapter(folder):  # where PEFT is installed, transformers would load the base that the adapter names
        raise UserError(
            f'"{folder}" holds a model (config.json) and an adapter ({ADAPTER_CONFIG}); expected a folder of one'
        )
    files = read_objects(folder)
    settings = files[path.name]
    if not isinstance(settings.get("model_type"), str):
        raise UserError(f'"{path}" names no model_type, so it is not the configuration of a transformers model')
    refuse_ways_out(folder)
    _refuse_pickles(folder)
    if not trust_remote_code:
        for name, content in files.items():
            refuse_code(content, str(folder / name))
    return settings


def _found(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return "it holds " + (", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing")


def _hint(folder: Path) -> str:
    inner = next((p.parent for p in sorted(folder.glob("*/config.json"))), None)
    return f' Did you mean "{inner}"?' if inner else ""


def _refuse_pickles(folder: Path) -> None:
    names = [p.name for p in folder.iterdir()]
    pickles = sorted(n for n in names if n.endswith(PICKLES) and n != "training_args.bin")
    if pickles and not any(n.endswith(".safetensors") for n in names):
        raise UserError(
            f'"{folder}" has its weights as a pickle only ({", ".join(pickles[:3])}), which can run code when read. '
            "Expected *.safetensors: save the model again with save_pretrained"
        )


def refuse_ways_out(folder: Path) -> None:
    """Refuse symlinks and index files that lead out of the folder. The hub's cache may link to its own blobs."""
    home = folder.resolve()
    allowed = [home] + ([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])
    for path in folder.iterdir():
        if path.is_symlink() and not any(Path(os.path.realpath(path)).is_relative_to(root) for root in allowed):
            raise UserError(f'"{path}" is a symlink that leads out of the model folder: refused')
    for index in folder.glob("*.index.json"):
        read_index(index)
