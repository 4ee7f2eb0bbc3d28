"""The walls of docs/architecture.md: imports point down, and no file is too long to read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import concordant

ROOT = Path(concordant.__file__).parent
LAYER = {
    "core": 0,
    "runs": 0,
    "config": 0,
    "data": 1,
    "models": 1,
    "planning": 1,
    "kernels": 1.5,  # put on models; engines choose
    "engines": 2,
    "training": 3,
    "algorithms": 4,
    "evaluation": 4,
    "feedback": 4,
    "votes": 4,
    "report": 4,
    "doctor": 5,
    "stages": 5,
    "verbs": 6,
    "pipeline": 6,
    "cli": 6,
    "reference": 6,
    "serve": 6,
    "course": 6,
    "studio": 6,
    "__main__": 6,
    "losses": 6,  # the library's front, for notebooks
    "__init__": 6,
}
LONGEST = 400
MODULES = sorted(ROOT.rglob("*.py"))


def part(dotted: str) -> str:
    """``concordant.core.errors`` -> ``core``."""
    names = dotted.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(source: str, module: str, is_package: bool) -> list[str]:
    """The dotted names of ours that ``module`` imports, inside functions too."""
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            found += [f"{base}.{alias.name}" for alias in node.names] if base == "concordant" else [base]
    return [name for name in found if name.split(".")[0] == "concordant"]


def name_of(path: Path) -> str:
    parts = ["concordant", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    module = name_of(path)
    assert part(module) in LAYER, f"give {part(module)} a layer in LAYER"
    for imported in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
        assert LAYER[part(imported)] <= LAYER[part(module)], f"{module} reaches up to {imported}"


WITHOUT_TORCH = [p for p in MODULES if part(name_of(p)) in ("config", "runs", "planning")]


@pytest.mark.parametrize("path", WITHOUT_TORCH, ids=name_of)
def test_config_run_folders_and_planning_load_no_torch(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"torch", "transformers", "datasets", "numpy"}


OF_STUDIO = [p for p in MODULES if part(name_of(p)) == "studio"]


@pytest.mark.parametrize("path", OF_STUDIO, ids=name_of)
def test_the_studio_imports_no_training_code(path):
    module = name_of(path)
    for imported in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
        assert part(imported) not in ("training", "algorithms", "stages", "pipeline"), f"{module} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


ENGINE_FOLDERS = ("concordant.engines.local", "concordant.engines.vllm")


def engine_classes_named(source: str) -> set[str]:
    """What ``source`` takes from the folders of engines that is no function: a class, or a module that has some."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith(ENGINE_FOLDERS)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("concordant.engines"):
            inside, is_folder = node.module.startswith(ENGINE_FOLDERS), node.module in ENGINE_FOLDERS
            names = [a.name for a in node.names]
            folders = {folder.rpartition(".")[2] for folder in ENGINE_FOLDERS}
            found |= {n for n in names if n in folders or is_folder or (inside and not n.islower())}
    return found


ROLES = ROOT / "engines" / "roles.py"


@pytest.mark.parametrize("path", [p for p in MODULES if p != ROLES and not {"local", "vllm"} & {*p.parts}], ids=name_of)
def test_engines_are_chosen_in_roles_alone(path):
    assert engine_classes_named(path.read_text(encoding="utf-8")) == set()


def test_an_engines_class_is_seen_however_it_is_named():
    named = [
        "from concordant.engines.local.learner import LocalLearner",
        "from concordant.engines.local import learner",
        "from concordant.engines import local",
        "from concordant.engines.vllm.generator import VllmGenerator",
        "import concordant.engines.local.learner",
        "def f():\n  from concordant.engines.local.networks import Network as N",
    ]
    assert all(engine_classes_named(source) for source in named)
    assert engine_classes_named(ROLES.read_text(encoding="utf-8"))
    assert not engine_classes_named("from concordant.engines.local.precision import cpu_has_bf16")


def test_the_reader_of_imports_sees_all_kinds():
    source = (
        "import concordant.core.x\nfrom concordant import data\nfrom ..models import y\ndef f():\n  from . import z\n"
    )
    assert imports(source, "concordant.engines.a", False) == [
        "concordant.core.x",
        "concordant.data",
        "concordant.models",
        "concordant.engines",
    ]
