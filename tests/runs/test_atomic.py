"""Whoever reads finds the old contents or the new ones, wherever the writer dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from concordant.runs import atomic
from concordant.runs.atomic import recover, whole_folder, write_text, write_together

# Replaces files and folders for ever; argument: the folder.
CHURN = """
import sys
from pathlib import Path
from concordant.runs.atomic import whole_folder, write_text
place = Path(sys.argv[1])
for number in range(10**9):
    write_text(place / "file", f"{number} " * 1000, durable=False)
    with whole_folder(place / "model") as new:
        (new / "a").write_text(f"{number} " * 1000)
        (new / "b").write_text(f"{number} " * 1000)
    if number == 3:
        print("going", flush=True)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.011, 0.023, 0.031, 0.047])
def test_a_kill_anywhere_leaves_one_version(tmp_path, seconds):
    process = subprocess.Popen([sys.executable, "-c", CHURN, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "going\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    recover(tmp_path / "model")
    words = (tmp_path / "file").read_text().split()
    assert len(words) == 1000 and len(set(words)) == 1
    a, b = ((tmp_path / "model" / name).read_text() for name in "ab")
    assert a == b and len(a.split()) == 1000
    assert not list(tmp_path.glob(".model*"))


def test_a_failed_block_leaves_the_old_folder_and_nothing_beside(tmp_path):
    fill(tmp_path / "model", a="old")
    with pytest.raises(OSError, match="disk full"), whole_folder(tmp_path / "model") as new:
        (new / "a").write_text("half")
        raise OSError("disk full")
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    fill(tmp_path / "model", a="old")
    fill(tmp_path / "model", b="new")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_is_mended_by_the_next_writer(tmp_path, monkeypatch):
    fill(tmp_path / "model", a="old")
    rename = os.rename

    def killed(source, target):
        rename(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "model"):
        patch.setattr(os, "rename", killed)
    assert not (tmp_path / "model").exists()
    recover(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_a_file_is_synced_before_it_takes_the_name_and_its_folder_after(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("replace"), replace(a, b)))
    write_text(tmp_path / "x", "text")
    assert seen == [str(tmp_path / ".x.tmp"), "replace", str(tmp_path)]
    seen.clear()
    write_text(tmp_path / "x", "text", durable=False)
    assert seen == ["replace"]


@pytest.mark.parametrize("call", range(2))
def test_files_that_belong_together_never_mix(tmp_path, monkeypatch, call):
    write_together(tmp_path, {"weights": b"old", "config": b"old"})
    (tmp_path / "other").write_text("stays")
    calls, replace = [], os.replace

    def dying(source, target):
        calls.append(target)
        if len(calls) > call:
            raise OSError("full")
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(os, "replace", dying)
        write_together(tmp_path, {"weights": b"new", "config": b"new"})
    assert not (tmp_path / "config").exists()  # no seal: nobody takes the folder for whole
    write_together(tmp_path, {"weights": b"new", "config": b"new"})
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"weights": "new", "config": "new", "other": "stays"}


def test_a_full_disk_leaves_the_old_files_together(tmp_path, monkeypatch):
    write_together(tmp_path, {"weights": b"old", "config": b"old"})
    stage = atomic._stage

    def full(path, data, durable):
        if path.name == "config":
            raise OSError("full")
        return stage(path, data, durable)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(atomic, "_stage", full)
        write_together(tmp_path, {"weights": b"new", "config": b"new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"weights": "old", "config": "old"}


def fill(folder, **files):
    with whole_folder(folder) as new:
        for name, text in files.items():
            (new / name).write_text(text)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    """`model` may be a link to another run's model, or to nothing any more."""
    fill(tmp_path / "elsewhere", a="theirs")
    for target in ("elsewhere", "nowhere"):
        (tmp_path / "model").symlink_to(tmp_path / target)
        for text in ("first", "second"):  # what is left beside would stop the next write
            fill(tmp_path / "model", a=text)
            assert (tmp_path / "model" / "a").read_text() == text and not (tmp_path / "model").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model"]
        assert (tmp_path / "elsewhere" / "a").read_text() == "theirs"
        (tmp_path / "model" / "a").unlink()
        (tmp_path / "model").rmdir()
