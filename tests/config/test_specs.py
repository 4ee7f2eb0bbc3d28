from __future__ import annotations

import pytest

from concordant.config.paths import paths_of
from concordant.config.specs import best_of, named, runs_of
from concordant.config.stages import EvaluateConfig
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


def test_several_runs_of_a_policy_stand_between_commas():
    assert runs_of("runs/a/model,runs/b/model") == ["runs/a/model", "runs/b/model"]
    assert runs_of("best_of_n:4:a,best_of_n:4:b") == ["best_of_n:4:a", "best_of_n:4:b"]
    assert runs_of("runs/a/model") == ["runs/a/model"]


def test_a_folder_whose_name_has_a_comma_is_one_run(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert runs_of(f"{tmp_path}/a,b") == [f"{tmp_path}/a,b"]
    assert runs_of(f"best_of_n:2:{tmp_path}/a,b") == [f"best_of_n:2:{tmp_path}/a,b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,", '"a,": no model stands beside a comma'),
        (",a", "no model stands beside a comma"),
        ("a,b,a", '"a,b,a" names a twice'),
        ("a,best_of_n:4:b", "answer in one way"),
        ("best_of_n:2:a,best_of_n:4:b", "answer in one way"),
        ("best_of_n:1:a,best_of_n:1:b", "expected best_of_n:N:PATH with N of 2 or more"),
    ],
)
def test_runs_that_do_not_fit_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        runs_of(text)


def test_every_run_of_a_policy_is_a_path_whose_contents_count():
    """So that a pipeline evaluates again when one of the runs has changed."""
    given = {"policies": ["ppo=a/model,b/model", "best=best_of_n:4:c,best_of_n:4:d", "sft=e"]}
    found = paths_of(EvaluateConfig, given)["policies"]
    assert {"a/model", "b/model", "c", "d", "e"} <= set(found)
