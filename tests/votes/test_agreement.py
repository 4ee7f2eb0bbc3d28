"""Agreement beyond chance, against published worked examples."""

from __future__ import annotations

import pytest

from concordant.votes.agreement import cohens_kappa, fleiss_kappa, krippendorffs_alpha, of_two_raters

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 12 units, four observers, "." is missing.
KRIPPENDORFF = {
    "A": "123321412...",
    "B": "1233224125.3",
    "C": ".3332342251.",
    "D": "12332441251.",
}
# Fleiss 1971's form: how often each of ten subjects got each of five labels from 14 raters, a textbook's example.
COUNTS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def units(rows: dict[str, str]) -> list[dict[str, str]]:
    length = len(next(iter(rows.values())))
    return [{name: row[i] for name, row in rows.items() if row[i] != "."} for i in range(length)]


def test_cohens_kappa_of_the_textbooks_table():
    """20 times both say yes, 15 times both no, 5 and 10 times they differ: p_o = 0.7, p_e = 0.5, kappa = 0.4."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohens_kappa(first, second)
    assert found.value == pytest.approx(0.4) and (found.units, found.coverage) == (50, 1.0)


def test_chance_is_that_of_both_raters():
    """One says yes 8 times of 10, the other 5: p_e = 0.8 · 0.5 + 0.2 · 0.5 = 0.5. They agree 7 times: kappa = 0.4."""
    first, second = ["yes"] * 8 + ["no"] * 2, ["yes"] * 5 + ["no"] * 5
    assert cohens_kappa(first, second).value == pytest.approx(0.4)
    assert cohens_kappa(second, first).value == pytest.approx(0.4)


def test_fleiss_kappa_of_the_textbooks_table():
    labels = [
        {str(i): c for i, c in enumerate("".join(c * n for c, n in zip("12345", row, strict=True)))} for row in COUNTS
    ]
    assert fleiss_kappa(labels).value == pytest.approx(0.20993, abs=1e-5)


def test_krippendorffs_alpha_of_his_own_examples():
    found = krippendorffs_alpha(units(KRIPPENDORFF))
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert (found.units, found.of) == (11, 12)  # the last unit has one label, which is no agreement
    binary = {"A": "0100000010", "B": "1110010000"}
    assert krippendorffs_alpha(units(binary)).value == pytest.approx(0.095, abs=5e-4)


def test_a_single_vote_is_no_agreement():
    alone = [{"ann": "first"}, {"bob": "tie"}, {}]
    for found in (fleiss_kappa(alone), krippendorffs_alpha(alone)):
        assert (found.value, found.units, found.of, found.coverage) == (None, 0, 2, 0.0)
    assert of_two_raters(alone) == {}


def test_equal_labels_everywhere_say_nothing_beyond_chance():
    same = [{"ann": "first", "bob": "first"}] * 8
    values = fleiss_kappa(same).value, krippendorffs_alpha(same).value, of_two_raters(same)["ann", "bob"].value
    assert values == (None, None, None)


def test_names_and_order_of_raters_change_nothing_and_missing_labels_only_the_coverage():
    labels = [{"a": "x", "b": "x"}, {"a": "x", "b": "y"}, {"a": "y", "b": "y"}, {"a": "y", "b": "y"}, {"a": "x"}]
    turned = [{{"a": "p", "b": "q"}[name]: label for name, label in reversed(unit.items())} for unit in labels]
    for measure in (fleiss_kappa, krippendorffs_alpha):
        assert measure(labels) == measure(turned[::-1]) and measure(labels).coverage == 0.8
        assert measure(labels).value == measure(labels[:4]).value
    (cohen,) = of_two_raters(labels).values()
    assert cohen.value == pytest.approx(0.5) and cohen.coverage == 0.8


def test_the_interval_holds_the_value_and_shrinks_with_more_pairs():
    few = [{"a": "x", "b": "x"}, {"a": "x", "b": "y"}, {"a": "y", "b": "y"}] * 5
    one, many = krippendorffs_alpha(few, bootstrap=400), krippendorffs_alpha(few * 16, bootstrap=400)
    assert one.interval and many.interval and one.interval.low < one.value < one.interval.high
    assert (one.interval.high - one.interval.low) > 3 * (many.interval.high - many.interval.low)
