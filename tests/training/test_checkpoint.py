from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import UserError
from concordant.engines import state_files
from concordant.engines.state_files import read_state, write_state
from concordant.training import checkpoint
from concordant.training.checkpoint import fault, load, newest_valid

tensors = st.builds(
    lambda shape, dtype, seed: torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float64, torch.uint8]),
    st.integers(0, 99),
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
keys = st.text(max_size=4) | st.sampled_from(["$tensor", "$tuple", "$items", "a.b"]) | st.integers(0, 5)
states = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(keys, states, max_size=4))
def test_what_is_saved_is_loaded(state):
    with TemporaryDirectory() as folder:
        write_state(Path(folder), state)
        assert same(read_state(Path(folder)), state)


def writer(state):
    return lambda folder: write_state(folder, state)


def save(folder, step, state, **settings):
    """Two roles, and a number of the loop's."""
    roles = {"policy": writer(state), "critic": writer({"b": torch.ones(2)})}
    return checkpoint.save(folder, step, roles, {"step": step, "best": None}, **settings)


def example():
    return {"weights": {"a": torch.arange(6.0).reshape(2, 3)}, "step": 7, "rng": (1, [2, 3])}


def test_each_role_has_its_folder_and_the_numbers_theirs(tmp_path):
    path = save(tmp_path, 4, example())
    there = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    state = [f"{role}/state.{kind}" for role in ("critic", "policy") for kind in ("json", "safetensors")]
    assert there == sorted(["loop.json", "manifest.json", *state])
    assert load(path) == {"step": 4, "best": None}
    assert same(read_state(path / "policy"), example())


def test_no_tensor_passes_through_the_loop(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(tmp_path, 1, {}, {"weights": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    monkeypatch.setattr(checkpoint._render_manifest, "__defaults__", (2,))
    path = save(tmp_path / "checkpoints", 4, example(), about={"environment": {"concordant": "0.1.0 abc"}})
    monkeypatch.undo()
    said = f"{path} was written by concordant 0.1.0 abc in checkpoint format 2, .* reads format 3. Finish the run with"
    for reader in (load, lambda path: newest_valid(path.parent)):
        with pytest.raises(UserError, match=said):
            reader(path)
    save(tmp_path / "checkpoints", 5, example())
    assert newest_valid(path.parent)[0].name == "step-000005"  # a newer one of ours does


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_flipped_bit_in_any_file_is_found_and_the_one_before_is_used(data):
    with TemporaryDirectory() as name:
        folder = Path(name)
        older, newer = save(folder, 1, example()), save(folder, 2, example())
        file = data.draw(st.sampled_from(sorted(p for p in newer.rglob("*") if p.is_file())))
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        found, problems = newest_valid(folder)
        assert found == older
        assert str(newer) in problems[0]
        with pytest.raises(UserError, match="step-000002"):
            load(newer)


@pytest.mark.parametrize("name", ["policy/state.safetensors", "critic/state.json", "loop.json", "manifest.json"])
def test_a_missing_or_truncated_file_is_named(tmp_path, name):
    path = save(tmp_path, 1, example())
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    assert name in (fault(path) or "")
    (path / name).unlink()
    assert f"{name} is missing" in (fault(path) or "")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", '"x"', "{}", '{"step": 1, "files": 7, "about": [], "format": {}}', "[" * 100_000]
)
def test_an_odd_manifest_is_damage_and_the_one_before_is_used(tmp_path, text):
    older, newer = save(tmp_path, 1, example()), save(tmp_path, 2, example())
    for content in (text.encode(), b"\xff" + text.encode()):
        (newer / "manifest.json").write_bytes(content)
        found, problems = newest_valid(tmp_path)
        assert found == older and str(newer / "manifest.json") in problems[0]


def test_a_half_finished_save_is_ignored_and_swept_away_by_the_next(tmp_path):
    path = save(tmp_path, 1, example())
    shutil.copytree(path, tmp_path / ".step-000002.tmp")
    assert newest_valid(tmp_path) == (path, [])
    save(tmp_path, 3, example())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-000001", "step-000003"]


def test_the_last_ones_are_kept_by_number_and_not_by_name(tmp_path):
    for step in (5, 999_999, 1_000_000, 1_000_001):
        save(tmp_path, step, {}, keep_last=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-1000000", "step-1000001"]


def test_a_failed_save_keeps_what_was_there(tmp_path, monkeypatch):
    path = save(tmp_path, 1, example(), keep_last=1)

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, example(), keep_last=1)
    assert newest_valid(tmp_path) == (path, [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000001"]


def test_all_is_on_disk_before_it_is_renamed_and_the_rename_before_old_ones_go(tmp_path, monkeypatch):
    save(tmp_path, 1, example())
    log = []

    def note(what, function, of):
        def call(*arguments):
            log.append((what, of(*arguments)))
            return function(*arguments)

        monkeypatch.setattr(os, what, call)

    note("fsync", os.fsync, lambda descriptor: Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
    note("rename", os.rename, lambda source, target: Path(target).name)
    save(tmp_path, 2, example(), keep_last=1)
    half = ".step-000002.tmp"
    state = ["state.json", "state.safetensors"]
    names = ["critic", *state, "loop.json", "manifest.json", "policy", *state, half]
    files = [("fsync", name) for name in names]
    assert log == [*files, ("rename", "step-000002"), ("fsync", tmp_path.name), ("rename", ".step-000001.tmp")]


def test_tied_weights_are_stored_once_and_views_whole(tmp_path):
    big = torch.arange(100_000.0)
    write_state(tmp_path, {"a": big, "b": big, "view": big[10:12], "column": big.view(2, -1).T[:2]})
    assert (tmp_path / "state.safetensors").stat().st_size < 1.1 * big.numel() * 4
    state = read_state(tmp_path)
    assert torch.equal(state["view"], big[10:12]) and torch.equal(state["column"], big.view(2, -1).T[:2])


def test_names_that_look_alike_stay_apart(tmp_path):
    state = {"a.b": torch.tensor([1]), "a": {"b": torch.tensor([2])}}
    write_state(tmp_path, state)
    assert same(read_state(tmp_path), state)


def test_no_pickle_what_is_not_plain_is_refused_by_its_path(tmp_path):
    with pytest.raises(TypeError, match="state.a.0 is a object"):
        save(tmp_path, 1, {"a": [object()]})
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_at_all(tmp_path):
    assert newest_valid(tmp_path / "checkpoints") == (None, [])
