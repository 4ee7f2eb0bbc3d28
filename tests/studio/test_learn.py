"""The lessons compute what the methods compute: hand-computed numbers, and text for every picture."""

from __future__ import annotations

import math

import pytest

from concordant.studio.lessons import LESSONS
from tests.studio.visitor import studio, visitor


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
