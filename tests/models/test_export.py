"""A folder is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from concordant.models.export import whole_folder
from concordant.models.load import Policy, save_policy


def test_a_failed_save_keeps_what_was_there(tiny: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def disk_full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(type(tiny.tokenizer), "save_pretrained", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_policy(tiny, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert os.listdir(folder.parent) == [folder.name]


def test_a_save_replaces_the_folder_whole(tiny: Policy, folder: Path) -> None:
    (folder / "left_over.safetensors").write_bytes(b"")
    save_policy(tiny, folder)
    assert not (folder / "left_over.safetensors").exists()
    assert os.listdir(folder.parent) == [folder.name]


def test_a_kill_between_the_renames_loses_nothing(tiny: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "model.safetensors").read_bytes()
    rename = os.rename

    def killed(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", killed)
        save_policy(tiny, folder)
    assert not folder.exists()
    with pytest.raises(OSError, match="full"), whole_folder(folder):
        raise OSError("full")
    assert (folder / "model.safetensors").read_bytes() == before
