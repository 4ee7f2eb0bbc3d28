"""The laws: what the scripts may import, that claims and tests agree, and what a verdict means."""

from __future__ import annotations

import ast
import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml

from science import decide
from science.order import best_of

FOLDER = Path(__file__).resolve().parents[2] / "science"
CLAIMS = yaml.safe_load((FOLDER / "claims.yaml").read_text(encoding="utf-8"))
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_uses_public_names_alone(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.module == "concordant" or not str(node.module).startswith("concordant")
        if isinstance(node, ast.Import):
            assert all(alias.name in ("concordant",) or "concordant" not in alias.name for alias in node.names)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_law_has_a_script(name):
    law = importlib.import_module(f"science.{name}")
    assert callable(law.measure) and callable(law.decisions) and callable(law.draw)


def test_the_estimators_of_the_kl_are_decided_by_their_claims(tmp_path):
    law = importlib.import_module("science.kl_estimators")
    found = law.decisions([law.measure(seed, tmp_path) for seed in range(2)])
    assert list(found) == list(CLAIMS["kl_estimators"]["tests"])
    assert {decision.verdict for decision in found.values()} == {decide.REPRODUCED}


def test_a_mean_is_judged_with_its_interval():
    assert decide.above([1.0, 1.1, 0.9]).verdict == decide.REPRODUCED
    assert decide.above([-1.0, -1.1, -0.9]).verdict == decide.NOT_REPRODUCED
    assert decide.above([1.0, -1.0, 0.3]).verdict == decide.UNDECIDED
    assert decide.mean_is([0.95, 0.91, 0.93], least=0.9).verdict == decide.REPRODUCED
    assert decide.mean_is([0.5, 0.51, 0.49], least=0.9).verdict == decide.NOT_REPRODUCED
    assert decide.mean_is([0.85, 0.95, 0.7], least=0.9).verdict == decide.UNDECIDED
    assert decide.every([0.1, 0.3], most=0.2).verdict == decide.NOT_REPRODUCED


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_choices_of_n_answers(n):
    stream = np.random.default_rng(0)
    proxy, gold = stream.normal(size=(2, 5)), stream.normal(size=(2, 5))
    chosen = [
        np.mean(
            [gold[p][max(choice, key=lambda i, p=p: proxy[p][i])] for choice in itertools.combinations(range(5), n)]
        )
        for p in range(2)
    ]
    assert best_of(n, proxy, gold) == pytest.approx(np.mean(chosen))
