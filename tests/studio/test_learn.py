"""The lessons compute what the methods compute: hand-computed numbers, and text for every picture."""

from __future__ import annotations

import math

import pytest

from concordant.studio.lessons import LESSONS
from tests.studio.visitor import studio, visitor, write_run


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    client = visitor(studio(tmp_path_factory.mktemp("runs")))
    return lambda name, **values: client.get(f"/api/learn/{name}", params=values)


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_answers_and_has_a_text_form(ask, name):
    found = ask(name).json()
    assert found["facts"] and (found["curves"] or found["rows"])


def test_bradley_terry(ask):
    facts = ask("bradley-terry", chosen=1, rejected=0, margin=0, temperature=1).json()["facts"]
    assert list(facts.values()) == pytest.approx([1, 1 / (1 + math.exp(-1)), 0.313262, -0.268941], abs=1e-5)


def test_the_clipped_objective_is_flat_beyond_the_range_on_one_side_only(ask):
    assert ask("clip", ratio=1.5, advantage=1, clip=0.2).json()["facts"]["gradient by the ratio"] == 0
    assert ask("clip", ratio=1.5, advantage=-1, clip=0.2).json()["facts"]["gradient by the ratio"] == pytest.approx(-1)
    assert ask("clip", ratio=0.5, advantage=1, clip=0.2).json()["facts"]["gradient by the ratio"] == pytest.approx(1)


def test_the_means_of_k1_and_k3_are_the_exact_kl(ask):
    found = ask("kl", policy="1,0", reference="0,0").json()
    (exact,) = found["facts"].values()
    means = {row[0]: row[1] for row in found["rows"]}
    assert means["k1"] == pytest.approx(exact) == pytest.approx(means["k3"])
    assert exact == pytest.approx(0.110944, abs=1e-5)


def test_gae_with_lambda_1_is_the_return_less_the_value(ask):
    rows = ask("gae", rewards="0 0 1", values="0.2 0.5 0.9", gamma=1, lam=1).json()["rows"]
    assert [row[3] for row in rows] == pytest.approx([0.8, 0.5, 0.1])


def test_a_cycle_is_named_and_gives_equal_ratings(ask):
    found = ask("preferences", wins="a>b, b>c, c>a").json()
    assert "a > b > c > a" in found["facts"].values()
    assert [row[1] for row in found["rows"]] == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_best_of_two_gains_one_over_root_pi(ask):
    facts = ask("best-of-n", n=2, correlation=0.5).json()["facts"]
    assert list(facts.values()) == pytest.approx(
        [math.log(2) - 0.5, 1 / math.sqrt(math.pi), 0.5 / math.sqrt(math.pi)], abs=2e-3
    )


def test_over_optimisation_is_shown_on_a_real_run(ask):
    found = ask("over-optimisation").json()
    steps, kls, proxies, golds, answers = zip(*found["rows"], strict=True)
    assert proxies[-1] > proxies[0] and golds[-1] < 0.1 < golds[0] < max(golds) and float(kls[-1]) > 10
    assert "step 4" in found["facts"]["gold at its best"] and "exploits" in found["facts"]["what the doctor says"]
    assert all(answers) and "kite" in found["heads"][-1] and found["facts"]["since then, gold moved by"] < 0
    other = ask("over-optimisation", prompt=2).json()
    assert "honey" in other["heads"][-1] and [r[:4] for r in other["rows"]] == [r[:4] for r in found["rows"]]


def test_the_lesson_reads_the_runs_of_the_folder(tmp_path):
    """Three evaluations by hand: gold goes 0.2, 0.5, 0.1 while the proxy rises, and a run without gold is refused."""
    rows = [
        {"step": s, "eval/reward": r, "eval/gold": g, "eval/kl": float(s)}
        for s, r, g in ((2, 0.0, 0.2), (4, 1.0, 0.5), (6, 4.0, 0.1))
    ]
    samples = [{"step": 6, "split": "eval", "prompt": [{"role": "user", "content": "Why?"}], "response": "It."}]
    write_run(tmp_path / "mine", rows, samples=samples, config="verb: ppo\n")
    write_run(tmp_path / "blind", [{"step": 1, "objective/score": 1.0}], config="verb: ppo\n")
    write_run(tmp_path / "sft", [{"step": 1, "loss": 1.0}])
    client = visitor(studio(tmp_path))
    assert client.get("/api/learn-runs").json()["runs"] == ["blind", "mine"]
    found = client.get("/api/learn/over-optimisation", params={"run": "mine"}).json()
    assert found["facts"]["gold at its best"] == "0.50, at step 4"
    assert found["facts"]["since then, the proxy moved by"] == pytest.approx(3.0)
    assert found["facts"]["since then, gold moved by"] == pytest.approx(-0.4)
    assert found["curves"][1]["y"] == pytest.approx([0, 1, -1 / 3])  # shares of the greatest change, 0.3
    assert found["rows"][-1] == [6, "6.0", 4.0, 0.1, "It."]
    for name, status in (("blind", 422), ("sft", 422), ("nothing", 404), ("../mine", 404)):
        assert client.get("/api/learn/over-optimisation", params={"run": name}).status_code == status


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("clip", {"ratio": "nan"}),
        ("clip", {"clip": "9"}),
        ("gae", {"rewards": "1 2"}),
        ("gae", {"rewards": "x"}),
        ("kl", {"policy": "1"}),
        ("preferences", {"wins": "a>a"}),
        ("preferences", {"wins": ">>"}),
        ("nothing", {}),
    ],
)
def test_a_wrong_number_is_refused_in_words(ask, name, values):
    answer = ask(name, **values)
    assert answer.status_code == (404 if name == "nothing" else 422) and answer.json()["detail"]
