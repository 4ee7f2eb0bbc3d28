"""Faults planted in records, each found by its rule alone; healthy records say nothing."""

from collections import Counter

import pytest

from concordant.data.dialogue import Drop
from concordant.data.records import Message, Pair
from concordant.data.splits import Loaded
from concordant.doctor.preflight_records import check_records


def prompt(text):
    return (Message("user", text),)


def pair(i, **known):
    """Half of the chosen answers are the longer ones."""
    chosen, rejected = ("yes it is so", "no") if i % 2 else ("no", "yes it is so")
    return Pair(prompt(f"question {i}"), chosen, rejected, **known)


def loaded(train, test=(), **facts):
    return Loaded(train=list(train), test=list(test), rows_read=len(train) + len(test), **facts)


HEALTHY = [pair(i) for i in range(100)]
HELD_OUT = [pair(i) for i in range(200, 220)]


def found(*data, **facts):
    return check_records(loaded(*data, **facts))


def only(findings):
    (finding,) = findings
    return finding


def test_healthy_records_say_nothing():
    known = [pair(i, probability=0.2 if i % 8 == 0 else 0.9) for i in range(100)]
    assert found(HEALTHY, HELD_OUT) == found(known, HELD_OUT) == []


def test_rows_of_no_use_are_named_by_reason():
    finding = only(found(HEALTHY, dropped=Counter({Drop.EQUAL: 30})))
    assert (
        finding.rule == "dropped_rows" and "30 of 100 rows" in finding.seen and "chosen = rejected 30" in finding.seen
    )


def test_a_file_joined_twice():
    finding = only(found(HEALTHY + HEALTHY))
    assert finding.rule == "data_repeated" and finding.numbers["rows"] == 100
    assert "--train.epochs 0.5" in finding.cure


@pytest.mark.parametrize("again", ["question 7", "  Question   7 "])
def test_a_held_out_prompt_in_the_training_data(again):
    finding = only(found(HEALTHY, [*HELD_OUT, Pair(prompt(again), "yes", "no")]))
    assert (finding.rule, finding.severity, finding.numbers["prompts"]) == ("leaking_prompts", "error", 1)
    assert ("overlaps" in finding.cause) == (again == "question 7")


@pytest.mark.parametrize(
    ("longer", "severity"), [(60, None), (70, "info"), (85, "warning"), (30, "warning"), (45, None)]
)
def test_length_alone_explains_the_labels(longer, severity):
    pairs = [Pair(prompt(f"q {i}"), *(("a b c", "a") if 37 * i % 100 < longer else ("a", "a b c"))) for i in range(100)]
    findings = found(pairs)
    if severity is None:
        assert findings == []
    else:
        finding = only(findings)
        assert (finding.rule, finding.severity) == ("chosen_is_longer", severity)
        assert f"{max(longer, 100 - longer)}.0 %" in finding.seen
        assert ("swapped" in finding.cure) == (longer < 50)


@pytest.mark.parametrize("known", [{"probability": 0.3}, {"margin": -1.0}])
def test_swapped_labels_by_the_datas_own_numbers(known):
    finding = only(found([pair(i, **known) for i in range(60)]))
    assert (finding.rule, finding.severity) == ("labels_swapped", "error")


def test_noise_by_the_datas_own_numbers():
    finding = only(found([pair(i, probability=0.4 if i % 10 < 3 else 0.8) for i in range(100)]))
    assert finding.rule == "label_noise" and "--label_smoothing 0.30" in finding.cure


def test_noise_from_pairs_asked_twice():
    """Two votes disagree with probability 2ε(1-ε): 0.42 for ε = 0.3."""
    votes = [pair(i % 200) for i in range(400)]
    votes[200:284] = [Pair(p.prompt, p.rejected, p.chosen) for p in votes[200:284]]
    findings = [f for f in found(votes) if f.rule != "data_repeated"]
    assert only(findings).rule == "label_noise" and only(findings).numbers["share"] == pytest.approx(0.3)
    agreeing = [f for f in found([pair(i % 200) for i in range(400)]) if f.rule != "data_repeated"]
    assert agreeing == []
