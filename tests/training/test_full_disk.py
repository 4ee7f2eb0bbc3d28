"""faults.md row 3, on a disk that is really full: a small file system of its own, which only root may mount."""

from __future__ import annotations

import subprocess

import pytest
import torch

from concordant.core.errors import RunFailed, UserError
from concordant.training import checkpoint
from tests.training.walk import Walk, run

MEGABYTE = 10**6
NUMBERS = 250_000  # of a weight: 1 MB, and so is its momentum; a checkpoint is reckoned at three times both


class Heavy(Walk):
    def __post_init__(self):
        super().__post_init__()
        self.weight, self.momentum = torch.zeros(NUMBERS), torch.zeros(NUMBERS)

    def step(self, step, learning_rate):
        noise = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(step))
        self.momentum = 0.9 * self.momentum + noise
        self.weight = self.weight + learning_rate * self.momentum
        return {"loss": 0.0}

    def _export(self, folder, results):
        (folder / "weight").write_bytes(self.weight.numpy().tobytes())


class Filler:
    """Somebody else's file takes all room but a little from a step on."""

    def __init__(self, at):
        self.at = at

    def start(self, algorithm, folder):
        self.file = folder.path.parent / "somebody-elses"

    def step(self, step, metrics):
        if step == self.at:
            with self.file.open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(b"x" * 4096)
                    except OSError:
                        break
                file.truncate(file.tell() - 65_536)  # logs still fit, checkpoints do not

    def end(self, result):
        pass


@pytest.fixture
def disk(tmp_path):
    """A function that makes a disk of so many bytes."""
    mounted = []

    def make(size):
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True)
        except FileNotFoundError:
            pytest.skip("no mount here")
        if done.returncode:
            pytest.skip("mounting is not permitted")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_costs_checkpoints_and_the_run_goes_on_when_there_is_room(disk, tmp_path, capsys):
    place = disk(12 * MEGABYTE)
    filler = Filler(at=3)
    with pytest.raises(RunFailed, match="step 6/6: the model could not be written .*; make room"):
        run(place / "run", Heavy(), save_every=1, keep_last=1, callbacks=[filler])
    said = capsys.readouterr().err
    assert "MB free; a checkpoint takes about 6 MB, the model 2 MB: too little for train.keep_last = 1" in said
    assert "step 3/6: the checkpoint could not be saved" in said and "older ones are kept" in said
    newest, problems = checkpoint.newest_valid(place / "run" / "checkpoints")
    assert (newest.name, problems) == ("step-000002", [])
    assert [path.name for path in newest.parent.iterdir()] == ["step-000002"]  # what did not fit is gone
    filler.file.unlink()
    run(place / "run", Heavy(), resume=True, save_every=1, keep_last=1)
    run(tmp_path / "whole", Heavy())
    weights = [(folder / "model" / "weight").read_bytes() for folder in (place / "run", tmp_path / "whole")]
    assert weights[0] == weights[1]


def test_a_disk_too_small_is_refused_before_the_first_step(disk):
    place = disk(5 * MEGABYTE)
    too_small = "has 5 MB free; a checkpoint takes about 6 MB, the model 2 MB. make room, choose another --output, or"
    with pytest.raises(UserError, match=too_small):
        run(place / "run", Heavy())
    assert not (place / "run" / "metrics.jsonl").exists()
    assert run(place / "run", Heavy(), save_minutes=0).steps == 6  # without checkpoints it fits
