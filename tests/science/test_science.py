"""The laws: what the scripts may import, that claims and tests agree, and what a verdict means."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from science import decide
from science.__main__ import NO_FIGURE
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
    assert callable(law.measure) and callable(law.decisions)
    assert hasattr(law, "draw") == (name not in NO_FIGURE)


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
    assert decide.inside([0.01, -0.01, 0.0], 0.05).verdict == decide.REPRODUCED
    assert decide.inside([0.11, 0.1, 0.12], 0.05).verdict == decide.NOT_REPRODUCED
    assert decide.inside([0.0, 0.1, -0.1], 0.05).verdict == decide.UNDECIDED
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


def _curve(gold, kl, reward=0.0, cost=0.0):
    return [
        {"step": i, "gold": g, "kl": k, "reward": reward + i, "constraint/cost": cost}
        for i, (g, k) in enumerate(zip(gold, kl, strict=True))
    ]


def _curve_of_the_form():
    """Gold that has the form of the law exactly."""
    d = np.linspace(0.2, 5, 20)
    return _curve(0.4 + d * (0.1 - 0.08 * np.log(d)), d**2)


def test_a_curve_of_the_laws_form_is_fitted_and_a_parallel_curve_has_not_moved():
    law = importlib.import_module("science.rl_overoptimisation")
    free = _curve_of_the_form()
    held = [row | {"gold": row["gold"] + 0.2} for row in free[3:8]]
    assert law.left_out_fit(free) == pytest.approx(1.0)
    assert law.moved(free, held) == pytest.approx(0.2)
    best = [{"gold": 0.0, "reward": float(k)} for k in range(12)]  # best-of-16 gains 4, and so does the run at step 4
    result = {"curves": {"0": free, "0.1": held}, "start": {"reward": 0.0, "gold": 0.4}, "best of n": best}
    kl_of_best = np.log(16) - 15 / 16
    assert law.spent(result) == pytest.approx(np.log(free[4]["kl"] / kl_of_best))
    assert list(law.decisions([result, result])) == list(CLAIMS["rl_overoptimisation"]["tests"])


def test_a_policy_is_compared_with_best_of_n_at_its_own_kl():
    law = importlib.import_module("science.frontier")
    names = (*law.ONLINE, *law.OFFLINE)
    made = {name: {"gold": 0.5 if name in law.ONLINE else 0.3, "kl": 2.0, "reward": 3.0} for name in names}
    made |= {"sft": {"gold": 0.2, "kl": 0.0, "reward": 1.0}, "KTO": {"gold": 0.3, "kl": 99.0, "reward": 0.0}}
    best = [{"kl": 0.0, "gold": 0.2, "reward": 0.0}, {"kl": 4.0, "gold": 0.6, "reward": 10.0}]
    found = law.decisions([{"policies": made, "best of n": best}] * 2)
    assert found["best_of_n"].value == pytest.approx(5.0 - 2.0)  # the policy beyond best-of-n's KL is left out
    assert found["online"].value == pytest.approx(0.2)
    assert list(found) == list(CLAIMS["frontier"]["tests"])


def test_the_adaptive_multiplier_is_compared_with_the_best_fixed_weight_that_meets_the_limit():
    law = importlib.import_module("science.safe")
    runs = {"adaptive": (12.0, 2.0), "fixed, 0.02": (20.0, 9.0), "fixed, 0.1": (12.4, 1.5), "fixed, 0.3": (3.0, 0.5)}
    result = {name: [{"constraint/cost": cost, "reward": reward}] * 3 for name, (cost, reward) in runs.items()}
    found = law.decisions([result] * 2)
    assert found["pays_less"].value == pytest.approx(0.5) and found["meets"].verdict == decide.REPRODUCED
    assert list(found) == list(CLAIMS["safe"]["tests"])


def test_a_best_of_four_question_is_passed_by_the_right_answer_and_a_tie_by_close_ones():
    law = importlib.import_module("science.benchmarks")
    right = np.array([True, True, False, False])
    assert law.passed(np.array([3.0, 2.5, 1.0, 0.0]), right) == 1.0
    assert law.passed(np.array([9.0, 2.5, 1.0, 0.0]), right) == 0.5  # the lead is 1.5, and the two are 6.5 apart
    assert law.passed(np.array([9.0, 0.5, 1.0, 0.0]), right) == 0.0
    assert law.rank_correlation([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        (
            "averages",
            {
                key: {"members": [0.5, 0.7], "average": 0.8, "mean of scores": 0.9}
                for key in ("accuracy", "remembered", "kept")
            },
        ),
        (
            "shared_bias",
            {
                "kept": dict.fromkeys(
                    ("own starts", "one start", "three, no taste", "three with the taste", "one with the taste"), 0.5
                )
            },
        ),
        ("benchmarks", {"models": [{"benchmark": 0.1 * i, "accuracy": -0.1 * i, "gold": 0.2 * i} for i in range(10)]}),
        (
            "rounds",
            {"start": {"gold": 0.3}}
            | {way: [[{"gold": 0.5}, {"gold": 0.4}]] * 4 for way in ("goes on", "starts again", "starts half way")},
        ),
        ("dpo_noise", {way: {"gold": 0.5} for way in ("DPO, no wrong label", "DPO", "cDPO")}),
        ("low_variance", {"curves": {"a tenth of gold": [{"gold": 0.4}], "gold with errors": [{"gold": 0.6}]}}),
    ],
)
def test_every_test_of_a_claim_is_decided(name, result):
    assert list(importlib.import_module(f"science.{name}").decisions([result, result])) == list(CLAIMS[name]["tests"])


def test_the_page_is_made_of_the_committed_decisions_and_has_every_figure():
    folder = FOLDER.parent / "docs" / "science"
    decisions = json.loads((folder / "decisions.json").read_text(encoding="utf-8"))
    for name, law in decisions.items():
        assert list(law["tests"]) == list(CLAIMS[name]["tests"])
        assert (folder / f"{name}.png").is_file() == (name not in NO_FIGURE)
    assert importlib.import_module("science.__main__").page(decisions) == (folder / "index.md").read_text(
        encoding="utf-8"
    )
