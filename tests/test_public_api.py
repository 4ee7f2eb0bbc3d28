"""What ``import concordant`` offers, and that it costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import concordant
from concordant.config.model import ModelConfig
from concordant.verbs import VERBS


def imported_for_types() -> dict[str, str]:
    """Name -> module, of the imports that only a type checker sees."""
    tree = ast.parse(Path(concordant.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    nodes = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in nodes for alias in node.names}


@pytest.mark.parametrize("name", concordant.__all__)
def test_every_name_resolves(name):
    assert getattr(concordant, name).__name__.rpartition(".")[2] == name


def test_type_checkers_and_users_see_the_same_names():
    typed = imported_for_types()
    assert typed.pop("losses") == "concordant"
    assert typed == {name: f"concordant.{module}" for name, module in concordant._MODULE_OF.items()}
    assert sorted(concordant.__all__) == sorted([*typed, "load_policy", "losses"]) == dir(concordant)


def test_every_verb_is_a_function_with_its_config():
    for verb in VERBS.values():
        assert callable(getattr(concordant, verb.function))
        assert getattr(concordant, verb.config) is verb.config_class()


def test_importing_it_loads_no_heavy_library():
    code = (
        "import sys, concordant; concordant.SFTConfig, concordant.UserError; dir(concordant);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'jsonargparse') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "[]\n", done.stderr


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute load_polcy"):
        concordant.load_polcy  # noqa: B018
    with pytest.raises(ImportError):
        from concordant import nonsense  # noqa: F401


@pytest.mark.parametrize("model", ["runs/sft/model", Path("runs/sft/model"), ModelConfig(name="runs/sft/model")])
def test_load_policy_takes_a_name_or_a_config(monkeypatch, model):
    from concordant.engines import roles

    monkeypatch.setattr(roles, "open_policy", lambda *given: given)
    assert concordant.load_policy(model, ["text"], seed=3) == (ModelConfig(name="runs/sft/model"), ["text"], 3)
