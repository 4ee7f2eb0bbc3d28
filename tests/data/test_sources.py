"""What --data may name, and what it may not (faults.md, row 22)."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.data.rows import BadRows
from concordant.data.sources import Made, Rows, open_source


def put(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": name}) + "\n" for name in names))
    return path


def prompts(part: Rows | Made | None) -> list[str]:
    assert isinstance(part, Rows)
    return [row.values["prompt"] for row in part.read(BadRows(False), lambda done: None)]


def test_a_folder_is_read_in_sorted_order_and_other_files_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "b.jsonl", "b")
    put(tmp_path / "a" / "z.jsonl", "z")
    put(tmp_path / "README.md", "no")
    put(tmp_path / ".hidden.jsonl", "no")
    source = open_source(str(tmp_path), 0)
    assert prompts(source.train) == ["z", "b"]
    assert source.test is None


def test_train_and_test_files_of_a_folder_are_its_split(tmp_path: Path) -> None:
    put(tmp_path / "x" / "train.jsonl", "a")
    put(tmp_path / "x" / "test.jsonl", "b")
    put(tmp_path / "y" / "train-00000-of-00001.jsonl", "c")
    put(tmp_path / "validation.jsonl", "d")
    source = open_source(str(tmp_path), 0)
    assert (prompts(source.train), prompts(source.test)) == (["a", "c"], ["b"])
    assert source.notes == [f"{tmp_path}: train* and test* files are used, left out: validation.jsonl"]


def test_files_called_training_are_no_split(tmp_path: Path) -> None:
    put(tmp_path / "training.jsonl", "a")
    put(tmp_path / "testimony.jsonl", "b")
    assert open_source(str(tmp_path), 0).test is None


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, what: str) -> None:
    secret = put(tmp_path / "elsewhere" / "secret.jsonl", "secret")
    put(tmp_path / "data" / "a.jsonl", "a")
    (tmp_path / "data" / "link").symlink_to(secret if what == "file" else secret.parent)
    with pytest.raises(UserError, match="link: refused, a link that leads out of the folder"):
        open_source(str(tmp_path / "data"), 0)


def test_a_link_within_the_folder_and_a_link_given_by_name_are_read(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.jsonl", "a")
    (tmp_path / "data" / "b.jsonl").symlink_to("a.jsonl")
    assert prompts(open_source(str(tmp_path / "data"), 0).train) == ["a"]  # a second link to one file is one file
    assert prompts(open_source(str(tmp_path / "data" / "b.jsonl"), 0).train) == ["a"]


def test_a_misspelt_file_or_folder_is_named_before_a_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data" / "mine" / "a.jsonl", "a")
    monkeypatch.chdir(tmp_path)
    hub = FakeHub({"train": [{"prompt": "a"}]})
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(UserError, match='no such file or folder: "data/mien". Did you mean "data/mine"?'):
        open_source("data/mien", 0)
    with pytest.raises(UserError, match='Did you mean "data/mine/a.jsonl"?'):
        open_source("dat/mine/a.json", 0)
    assert open_source("some-one/mine", 0) and hub.asked[0] == "some-one/mine"


def test_messages_name_what_was_given_and_the_nearest(tmp_path: Path) -> None:
    put(tmp_path / "pairs.jsonl", "a")
    with pytest.raises(UserError, match='no such file or folder: ".*pears.jsonl". Did you mean ".*/pairs.jsonl"?'):
        open_source(str(tmp_path / "pears.jsonl"), 0)
    with pytest.raises(UserError, match="no data given. Expected --data FILE"):
        open_source("", 0)
    with pytest.raises(UserError, match='unknown toytalk preset "humn". Did you mean "human"?'):
        open_source("builtin:toytalk/humn", 0)
    with pytest.raises(UserError, match='unknown builtin data "toytolk". Did you mean "toytalk"?'):
        open_source("builtin:toytolk", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data file in this folder. Expected .jsonl"):
        open_source(str(tmp_path / "empty"), 0)


def test_toytalk_brings_its_own_split(small_toytalk: None) -> None:
    source = open_source("builtin:toytalk/human", 3)
    assert isinstance(source.train, Made)
    assert isinstance(source.test, Made)
    train, test = source.train.make(), source.test.make()
    assert (len(train), len(test)) == (90, 30)
    assert train[0].prompt == (Message("user", "human 3 0"),)
    assert open_source("builtin:toytalk", 3).train.make()[0].prompt == (Message("user", "demo 3 0"),)  # type: ignore[union-attr]


class FakeHub(types.ModuleType):
    """A stand-in for the ``datasets`` library."""

    class exceptions:
        class DatasetsError(Exception):
            pass

    def __init__(self, answer: Any) -> None:
        super().__init__("datasets")
        self.answer, self.asked = answer, ()

    def load_dataset(self, *args: Any, **kwargs: Any) -> Any:
        self.asked = (*args, kwargs)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_hub_id_with_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub({"train": [{"prompt": "a"}], "test": [{"prompt": "b"}]})
    monkeypatch.setitem(sys.modules, "datasets", hub)
    source = open_source("some-one/hh/harmless-base", 0)
    assert hub.asked == ("some-one/hh", None, {"data_dir": "harmless-base"})
    assert (prompts(source.train), prompts(source.test)) == (["a"], ["b"])


def test_a_hub_id_without_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"a": [], "b": []}))
    with pytest.raises(UserError, match=r'some/thing:one: no "train" split \(found: a, b\)'):
        open_source("some/thing:one", 0)


def test_offline_the_error_says_how_to_pass_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(ConnectionError("Couldn't reach 'a/b' on the Hub")))
    with pytest.raises(UserError) as caught:
        open_source("some/thing", 0)
    assert '"some/thing" is no file or folder here, and could not be loaded' in str(caught.value)
    assert "Couldn't reach" in str(caught.value)
    assert "give the file, --data FILE.jsonl" in str(caught.value)


def test_dots_in_a_hub_id_are_refused() -> None:
    with pytest.raises(UserError, match='".." is refused in a hub id'):
        open_source("some/thing/../../etc", 0)


class Odd:
    """A split with a value in row 2 that Python cannot hold; as in ``datasets``, iterating ends with the error."""

    rows = ({"prompt": "a"}, None, {"prompt": "c"})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, str]:
        row = self.rows[number]
        if row is None:
            raise OverflowError("date value out of range")
        return row

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (self[i] for i in range(len(self)))


def test_a_value_of_a_hub_set_that_python_cannot_hold_is_its_rows_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"train": Odd()}))
    rows = open_source("some/thing", 0).train
    assert isinstance(rows, Rows)
    with pytest.raises(UserError, match="some/thing train row 2: a value that cannot be read .date value out of range"):
        list(rows.read(BadRows(skip=False), lambda done: None))
    bad = BadRows(skip=True)
    assert [(r.number, r.values["prompt"]) for r in rows.read(bad, lambda done: None)] == [(1, "a"), (3, "c")]
    assert bad.counts == {"values that cannot be read": 1}


def test_whatever_the_hubs_library_raises_is_an_error_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(AttributeError()))
    with pytest.raises(UserError, match="could not be loaded from the Hugging Face hub .AttributeError."):
        open_source("some/thing", 0)


def test_a_home_that_nobody_has_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match='no such file or folder: "~nobody-of-this-name/a.jsonl"'):
        open_source("~nobody-of-this-name/a.jsonl", 0)
