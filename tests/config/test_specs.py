from __future__ import annotations

import pytest

from concordant.config.specs import best_of, named
from concordant.core.errors import UserError


def test_names_keep_their_order_and_paths_may_hold_an_equals_sign():
    assert list(named(["b=x=1", "a=y"]).items()) == [("b", "x=1"), ("a", "y")]


def test_a_path_without_a_name_is_refused():
    with pytest.raises(UserError, match='"runs/sft" is not NAME=PATH'):
        named(["runs/sft"])


def test_a_name_given_twice_is_refused():
    with pytest.raises(UserError, match='the name "a" is given twice'):
        named(["a=x", "a=y"])


def test_best_of_n_is_read_from_the_path():
    assert best_of("best_of_n:4:C:/models/sft") == (4, "C:/models/sft")
    assert best_of("runs/sft/model") == (1, "runs/sft/model")


@pytest.mark.parametrize("text", ["best_of_n:1:x", "best_of_n:four:x", "best_of_n:4", "best_of_n:4:"])
def test_a_malformed_best_of_n_is_refused(text):
    with pytest.raises(UserError, match="expected best_of_n:N:PATH with N of 2 or more"):
        best_of(text)
