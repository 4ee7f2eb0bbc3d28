"""The estimate against what a run really writes, and the finding that it becomes."""

from collections import namedtuple

import pytest

from concordant.algorithms.sft import SFTObjective
from concordant.config.train import TrainConfig
from concordant.doctor.preflight_memory import disk_space
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.training import checkpoint, disk
from concordant.training.disk import LOGS, disk_free, disk_need
from tests.algorithms.worlds import tree
from tests.engines.tiny import tiny_policy


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("keep_best", [True, False])
def test_checkpoints_take_what_was_estimated(tmp_path, keep_best):
    train = TrainConfig(save_every=1, keep_last=2, keep_best=keep_best)
    learner = LocalLearner(PolicyNetwork(tiny_policy(hidden_size=256)), train)
    learner.forward_backward([tree([8, 9, 10])], SFTObjective()).result()
    learner.step(1e-3).result()
    if keep_best:
        learner.keep()
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"policy": learner.save}, {}, train.keep_last)
    most = size_of(tmp_path) * 3 / 2  # the third is whole before the first goes
    assert disk_need(learner.checkpoint_bytes(keep_best), 0, train) - LOGS == pytest.approx(most, rel=0.02)
    learner.export(tmp_path / "model")
    assert learner.export_bytes() == pytest.approx((tmp_path / "model" / "model.safetensors").stat().st_size, rel=0.01)


def test_checkpoints_by_the_clock_are_counted_too():
    by_clock, by_step = TrainConfig(save_minutes=1), TrainConfig(save_every=10, save_minutes=0)
    assert disk_need(1000, 0, by_clock) == disk_need(1000, 0, by_step)
    assert disk_need(1000, 0, TrainConfig(save_minutes=0)) - LOGS == (disk_need(1000, 0, by_step) - LOGS) / 3


def test_what_is_exported_is_counted_once():
    train = TrainConfig()
    assert disk_need(0, 1000, train) - disk_need(0, 0, train) == 1000


def test_free_space_is_asked_where_the_folder_will_be(tmp_path):
    assert disk_free(tmp_path / "not" / "yet") == pytest.approx(disk_free(tmp_path), rel=0.01)


@pytest.mark.parametrize(("free", "severity"), [(1.5, None), (1.05, "warning"), (0.9, "error")])
def test_a_disk_too_small_is_known_before_the_run(monkeypatch, tmp_path, free, severity):
    train = TrainConfig(save_every=10)
    have = int(free * disk_need(10**8, 10**7, train))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(have, 0, have))
    finding = disk_space(tmp_path, 10**8, 10**7, train)
    assert (finding and finding.severity) == severity
    assert finding is None or "--train.keep_last 1" in finding.cure
