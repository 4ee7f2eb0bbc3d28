from __future__ import annotations

import os
from pathlib import Path

import pytest

from concordant.core.near_path import entries_beside, nearest_path, what_it_is


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "runs" / "sft" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "sft2").mkdir()
    (tmp_path / "pairs.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("pairs.json", "pairs.jsonl"),
        ("runs/stf/model", "runs/sft/model"),  # a part in the middle
        ("run/sft/modle", "runs/sft/model"),  # several parts
        ("./runs/sft/modle", "runs/sft/model"),
        ("nothing/like/it", ""),
        ("runs/sft/model", ""),  # it exists
        ("x" * 300, ""),  # longer than a name can be
        ("pairs.jsonl/model", ""),  # a file holds nothing
    ],
)
def test_the_nearest_path(place, given, near):
    assert nearest_path(Path(given)) == (f' Did you mean "{near}"?' if near else "")


def test_what_stands_under_a_name_that_opens_nothing(place):
    (place / "old").symlink_to("gone/pairs.jsonl")
    os.mkfifo(place / "queue")
    assert what_it_is(place / "old") == "a link to gone/pairs.jsonl, which is not there"
    assert what_it_is(place / "queue") == "a pipe"


def test_what_is_not_wanted_is_not_named(place):
    assert nearest_path(Path("pairs.json"), Path.is_dir) == ""
    assert nearest_path(Path("runs/sfft"), Path.is_dir) == ' Did you mean "runs/sft"?'


def test_an_absolute_path_stays_absolute(place):
    assert nearest_path(place / "pairs.json") == f' Did you mean "{place}/pairs.jsonl"?'


def test_a_name_that_steers_the_terminal_is_shown(place):
    (place / "evil\x1b[2J.jsonl").write_text("")
    assert nearest_path(Path("evil[2J.jsonl")) == ' Did you mean "evil\\x1b[2J.jsonl"?'


def test_the_entries_beside_a_name_that_is_not_there(place):
    assert entries_beside(Path("runs/unlike")) == ' The folder "runs" here holds sft, sft2.'
    for name in ("unlike", "nothing/unlike", "pairs.jsonl/unlike"):
        assert entries_beside(Path(name)) == ""
    for i in range(9):
        (place / "runs" / f"many-{i}").mkdir()
    assert entries_beside(Path("runs/unlike")).endswith("holds many-0, many-1, many-2, many-3, many-4, many-5, ….")
