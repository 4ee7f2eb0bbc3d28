"""Held-out files are never trained on, and what is no data in a folder is left out and said (faults.md, row 33)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from concordant.config.data import DataConfig
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.prepare import prepare
from concordant.data.sources import Source, open_source
from tests.data.test_sources import FakeHub, prompts, put


def opened(folder: Path, **how: str) -> tuple[list[str], list[str]]:
    source = open_source(str(folder), 0, **how)
    return prompts(source.train), prompts(source.test) if source.test else []


@pytest.mark.parametrize("name", ["test", "validation", "valid", "val", "dev", "eval"])
@pytest.mark.parametrize("form", ["{}.jsonl", "{}-00000-of-00001.jsonl", "{}/0.jsonl", "{}_2.jsonl"])
def test_a_held_out_file_beside_train_is_not_trained_on(tmp_path: Path, name: str, form: str) -> None:
    put(tmp_path / form.format("train"), "a")
    put(tmp_path / form.format(name), "b")
    assert opened(tmp_path) == (["a"], ["b"])


def test_of_several_held_out_files_one_is_used_and_none_is_trained_on(tmp_path: Path) -> None:
    for name in ("train", "dev", "val"):
        put(tmp_path / f"{name}.jsonl", name)
    assert opened(tmp_path) == (["train"], ["val"])
    assert open_source(str(tmp_path), 0).notes == [f"{tmp_path}: train* and val* files are used, left out: dev.jsonl"]
    assert opened(tmp_path, test="dev") == (["train"], ["dev"])
    assert opened(tmp_path, split="val", test="dev") == (["val"], ["dev"])
    with pytest.raises(UserError, match='"vla". Did you mean "val"'):
        opened(tmp_path, split="vla")


def test_a_held_out_file_beside_files_without_a_split(tmp_path: Path) -> None:
    put(tmp_path / "pairs.jsonl", "a")
    put(tmp_path / "test.jsonl", "b")
    assert opened(tmp_path) == (["a"], ["b"])


def test_ultrafeedbacks_splits_are_named(tmp_path: Path) -> None:
    for name in ("train_prefs", "train_sft", "test_prefs", "test_sft"):
        put(tmp_path / f"{name}-00000-of-00001.jsonl", name)
    with pytest.raises(UserError, match="several training splits. Choose one: --data.split train_prefs or train_sft"):
        opened(tmp_path)
    assert opened(tmp_path, split="train_sft") == (["train_sft"], ["test_sft"])
    assert opened(tmp_path, split="train_prefs", test="test_sft") == (["train_prefs"], ["test_sft"])


def test_held_out_data_of_the_same_purpose_goes_with_a_training_split(tmp_path: Path) -> None:
    for name in ("train_prefs", "test_prefs", "test", "validation_prefs"):
        put(tmp_path / f"{name}.jsonl", name)
    assert opened(tmp_path) == (["train_prefs"], ["test_prefs"])
    (tmp_path / "test_prefs.jsonl").unlink()
    assert opened(tmp_path) == (["train_prefs"], ["validation_prefs"])
    (tmp_path / "validation_prefs.jsonl").unlink()
    assert opened(tmp_path) == (["train_prefs"], ["test"])


def test_a_split_may_be_written_in_capitals(tmp_path: Path) -> None:
    put(tmp_path / "Train.jsonl", "a")
    put(tmp_path / "TEST_prefs" / "0.jsonl", "b")
    put(tmp_path / "Validation.jsonl", "c")
    assert opened(tmp_path) == (["a"], ["c"])
    assert opened(tmp_path, test="test_prefs") == (["a"], ["b"])


def test_splits_of_a_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("train_prefs", "train_sft", "test_prefs", "test_sft")
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({name: [{"prompt": name}] for name in names}))

    def hub(**how: str) -> Source:
        return open_source("some/thing", 0, **how)

    with pytest.raises(UserError, match="--data.split train_prefs or train_sft"):
        hub()
    source = hub(split="train_prefs")
    assert (prompts(source.train), prompts(source.test)) == (["train_prefs"], ["test_prefs"])
    splits: dict[str, Any] = {"train": [{"prompt": "a"}], "validation": [{"prompt": "b"}]}
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(splits))
    assert prompts(hub().test) == ["b"]


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no splits to choose"):
        open_source(str(put(tmp_path / "a.jsonl", "a")), 0, split="train")


def test_hidden_folders_outputs_and_second_links_are_no_data(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", "a")
    put(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.jsonl", "no")
    put(tmp_path / ".out.new" / "rm" / "train.jsonl", "no")
    put(tmp_path / "runs" / "samples.jsonl", "no")
    for name in ("config.yaml", "status.json"):
        (tmp_path / "runs" / name).write_text("{}")
    os.link(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert opened(tmp_path) == (["a"], [])
    notes = "\n".join(open_source(str(tmp_path), 0).notes)
    assert "runs/ is left out, a command wrote it" in notes and "b.jsonl is left out, a second link" in notes


def test_what_a_killed_prepare_left_is_no_data_and_the_next_one_sweeps_it(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", *"abcdefgh")
    put(tmp_path / ".out.new" / "rm" / "train.jsonl", "half")
    put(tmp_path / ".out.old" / "rm" / "train.jsonl", "old")
    config = PrepareConfig(data=DataConfig(path=str(tmp_path)), output=str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    assert prepare(config).rows_read == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out"]


def test_reports_and_models_in_a_folder_are_no_data(tmp_path: Path) -> None:
    """Their JSON files are numbers and settings."""
    put(tmp_path / "a.jsonl", "a")
    for name, files in (
        ("report", ("report.json", "report.html")),
        ("model", ("config.json", "tokenizer.json", "model.safetensors")),
        ("adapter", ("adapter_config.json", "tokenizer.json", "adapter_model.safetensors")),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    assert opened(tmp_path) == (["a"], [])
    notes = open_source(str(tmp_path), 0).notes
    assert [note.split(": ")[1] for note in notes] == [
        "adapter/ is left out, it is a model",
        "model/ is left out, it is a model",
        "report/ is left out, a command wrote it",
    ]


def test_prepare_twice_into_the_data_folder_gives_the_same(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", *"abcdefgh")
    config = PrepareConfig(data=DataConfig(path=str(tmp_path)), output=str(tmp_path / "out"))
    assert prepare(config).rows_read == prepare(config).rows_read == 8


def test_links_in_a_circle_and_names_no_disk_can_hold(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.jsonl", "a")
    (tmp_path / "data" / "b.jsonl").symlink_to("c.jsonl")
    (tmp_path / "data" / "c.jsonl").symlink_to("b.jsonl")
    with pytest.raises(UserError, match="a link that leads in a circle"):
        open_source(str(tmp_path / "data"), 0)
    for name in (str(tmp_path / "data" / "b.jsonl"), "a" * 300, "a\x00b"):
        with pytest.raises(UserError, match="cannot open"):
            open_source(name, 0)


def test_a_file_whose_name_is_not_utf8_is_read_and_its_name_shown_in_escapes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.jsonl"
    try:
        with open(path, "w") as file:
            file.write("".join(json.dumps({"prompt": name}) + "\n" for name in "abcd"))
    except OSError:
        pytest.skip("this disk takes no such name")
    for source in (os.fsdecode(path), str(tmp_path)):
        card = prepare(PrepareConfig(data=DataConfig(path=source), output=str(tmp_path / "out")))
        card.to_json().encode()
        card.markdown().encode()
        assert card.rows_read == 4
