"""Weights that are split over two processes: the same gradients and steps as one process, half the numbers on each."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from bench.parallel import METHODS, apart, compared

SHARDED, ALONE = {"workers": 2, "sharded": True}, {"workers": 1}


@pytest.fixture(scope="module")
def rows(python, tmp_path_factory):
    file = tmp_path_factory.mktemp("sides") / "side"

    def side(mesh):
        python("-m", "bench.parallel", "--side", file, "--mesh", mesh, "--only", *METHODS)
        return torch.load(file, weights_only=True)

    alone, split = side(""), side("sharded 2")
    return {method: compared(split[method], alone[method]) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_gradients_and_five_steps_equal_those_of_one_process(rows, method):
    """Odd sizes, and a batch of one tree, which leaves one worker without tokens."""
    assert rows[method]["gradient"] < 1e-5 and rows[method]["weights"] < 1e-5
    assert rows[method]["norm"] < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_each_of_two_workers_holds_half_of_weights_gradients_and_moments(rows, method):
    assert rows[method]["held"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("verb", "before", "after"), [("sft", ALONE, SHARDED), ("gae", SHARDED, ALONE)])
def test_a_run_goes_on_with_split_or_with_whole_weights(verb, before, after, small_run, tmp_path):
    """The last checkpoint is removed, as if the run had been killed before it. PPO samples from the split weights."""
    small_run(verb=verb, output=str(tmp_path / "moved"), steps=3, cluster=before)
    small_run(verb=verb, output=str(tmp_path / "alone"), steps=3, cluster=ALONE)
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "step-000003")
    small_run(verb=verb, output=str(tmp_path / "moved"), steps=3, cluster=after, resume="auto")
    moved, alone = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("moved", "alone"))
    assert apart(moved, alone) < 1e-4
