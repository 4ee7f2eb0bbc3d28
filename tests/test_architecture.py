"""The walls of docs/architecture.md: imports point down, and no file is too long to read."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

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


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(dotted: str) -> str:
    """``concordant.core.errors`` -> ``core``."""
    names = dotted.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(tree: ast.Module, module: str, is_package: bool) -> list[str]:
    """The dotted names of ours that ``module`` imports, inside functions too."""
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for node in ast.walk(tree):
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


def imported_by(*parts: str) -> list[tuple[str, str]]:
    """Each module of these parts of the package, of all where none is named, with each module that it imports."""
    return [
        (module, imported)
        for path in MODULES
        if part(module := name_of(path)) in parts or not parts
        for imported in imports(tree_of(path), module, path.name == "__init__.py")
    ]


def test_every_part_of_the_package_has_a_layer():
    assert {part(name_of(path)) for path in MODULES} <= LAYER.keys()


def test_imports_point_down():
    reaching = [f"{one} reaches up to {other}" for one, other in imported_by() if LAYER[part(other)] > LAYER[part(one)]]
    assert reaching == []


def test_config_run_folders_and_planning_load_no_torch():
    paths = [path for path in MODULES if part(name_of(path)) in ("config", "runs", "planning")]
    assert len(paths) > 30
    for path in paths:
        nodes = [*ast.walk(tree_of(path))]
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        heavy = {name.split(".")[0] for name in names} & {"torch", "transformers", "datasets", "numpy"}
        assert not heavy, f"{name_of(path)} loads {heavy}"


def test_the_studio_imports_no_training_code():
    imported = imported_by("studio")
    assert imported
    assert [i for i in imported if part(i[1]) in ("training", "algorithms", "stages", "pipeline")] == []


def test_a_file_can_be_read_in_one_sitting():
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


ENGINE_FOLDERS = ("concordant.engines.local", "concordant.engines.vllm")


def engine_classes_named(tree: ast.Module) -> set[str]:
    """What a module takes from the folders of engines that is no function: a class, or a module that has some."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith(ENGINE_FOLDERS)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("concordant.engines"):
            inside, is_folder = node.module.startswith(ENGINE_FOLDERS), node.module in ENGINE_FOLDERS
            names = [a.name for a in node.names]
            folders = {folder.rpartition(".")[2] for folder in ENGINE_FOLDERS}
            found |= {n for n in names if n in folders or is_folder or (inside and not n.islower())}
    return found


ROLES = ROOT / "engines" / "roles.py"


def test_engines_are_chosen_in_roles_alone():
    others = [path for path in MODULES if path != ROLES and not {"local", "vllm"} & {*path.parts}]
    assert {name_of(path): named for path in others if (named := engine_classes_named(tree_of(path)))} == {}


def test_an_engines_class_is_seen_however_it_is_named():
    named = [
        "from concordant.engines.local.learner import LocalLearner",
        "from concordant.engines.local import learner",
        "from concordant.engines import local",
        "from concordant.engines.vllm.generator import VllmGenerator",
        "import concordant.engines.local.learner",
        "def f():\n  from concordant.engines.local.networks import Network as N",
    ]
    assert all(engine_classes_named(ast.parse(source)) for source in named)
    assert engine_classes_named(tree_of(ROLES))
    assert not engine_classes_named(ast.parse("from concordant.engines.local.precision import cpu_has_bf16"))


def test_the_reader_of_imports_sees_all_kinds():
    source = (
        "import concordant.core.x\nfrom concordant import data\nfrom ..models import y\ndef f():\n  from . import z\n"
    )
    assert imports(ast.parse(source), "concordant.engines.a", False) == [
        "concordant.core.x",
        "concordant.data",
        "concordant.models",
        "concordant.engines",
    ]
