import math

import pytest

from concordant.data.records import Message, Pair
from concordant.data.strength import is_tie, lead_of, share_of_votes, without_ties
from tests.data.reading import read, said

PROMPT = (Message("user", "Q"),)


def pair(**known):
    return Pair(PROMPT, "yes", "no", **known)


def test_votes_by_laplaces_rule():
    assert share_of_votes(1, 0) == pytest.approx(2 / 3) and share_of_votes(3, 0) == pytest.approx(4 / 5)
    assert share_of_votes(2, 2, 1) == share_of_votes(0, 0, 3) == 0.5


def test_a_lead_is_the_margin_or_else_the_log_odds():
    assert lead_of(pair(margin=1.5, probability=0.5)) == 1.5 and lead_of(pair()) is None
    assert lead_of(pair(probability=0.8)) == pytest.approx(math.log(4))
    assert lead_of(pair(probability=0.3)) == lead_of(pair(probability=0.0)) == 0.0
    assert lead_of(pair(probability=1.0)) == pytest.approx(math.log(99)), "no label is certain"
    assert lead_of(pair(margin=-1.0)) == 0.0


def test_ties_are_left_out():
    tied, known = pair(probability=0.5), pair(probability=0.75)
    assert is_tie(tied) and without_ties([tied, known, pair()]) == [known, pair()]


def test_votes_of_a_row_are_its_probability():
    row = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    one, csv, own = read(
        row | {"votes_chosen": 3, "votes_rejected": 1}, row | {"votes_chosen": "1", "votes_tie": "1"},
        row | {"votes_chosen": 3, "probability": 0.6},
    )  # fmt: skip
    assert one.probability == pytest.approx(4 / 6) and csv.probability == pytest.approx(2.5 / 4)
    assert own.probability == 0.6 and one.margin is None
    assert "votes_tie" in said(row | {"votes_tie": -1}) and "[0, ∞)" in said(row | {"votes_tie": -1})
