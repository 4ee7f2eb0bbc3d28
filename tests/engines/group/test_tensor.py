"""A model whose layers are split over workers: the numbers, files and samples of the whole model."""

import json
import subprocess
import sys

import pytest

from concordant.config.cluster import ClusterConfig
from concordant.core.errors import UserError
from concordant.engines.group.everywhere import working_together
from concordant.engines.tensor.cuts import Cut, even
from tests.engines.group.tensor import CASES, EXACT

NUMBERS = ("loss", "gradient", "weights")


def measured(workers, tensor, shards):
    command = [sys.executable, "-m", "tests.engines.group.tensor", str(workers), str(tensor), str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def usual():
    return measured(2, 2, 0)


@pytest.fixture(scope="module")
def exact():
    return measured(2, 2, 2)


@pytest.mark.parametrize("case", CASES)
def test_gradient_and_five_steps_are_those_of_the_whole_model(usual, case):
    assert all(usual[case][number] < 1e-5 for number in NUMBERS), usual[case]
    assert usual[case]["norm"] < 1e-6


@pytest.mark.parametrize("case", EXACT)
def test_with_shards_every_bit_is_that_of_the_whole_model(exact, case):
    assert exact[case]["equal"], exact[case]


def test_two_groups_of_two_workers_give_the_numbers_of_the_whole_model():
    both = measured(4, 2, 0)
    for case in CASES:
        assert all(both[case][number] < 1e-5 for number in NUMBERS), (case, both[case])
        assert both[case]["norm"] < 1e-6, (case, both[case])
    assert both["files"]["writes"] == [[True, False], [False, False]]


@pytest.mark.parametrize("plan", ["usual", "exact"])
def test_files_and_samples_are_whole_whatever_the_mesh(plan, request):
    found = request.getfixturevalue(plan)["files"]
    assert found["exported"] and found["published"] and found["kept"] and found["tokens"], found
    assert found["bytes"] and found["export bytes"] and found["described"], found
    assert found["resumed"] == found["moments"] == 0.0, found
    assert found["logprobs"] < 1e-5 and found["writes"] == [[True, False]]


def test_a_split_vocabulary_has_the_plain_distribution_and_sends_sixteen_bytes_a_token(usual):
    found = usual["vocabulary"]
    assert found["values"] < 1e-6 and found["gradient"] < 1e-6 and found["top"]
    assert found["bytes a token"] == 16 and found["gathered"] == found["bytes backward"] == 0


def test_parts_differ_by_one_unit_at_most():
    class Axis:
        rank, size = 0, 3

    assert even(Axis(), 10).spans == (((0, 4),), ((4, 7),), ((7, 10),))
    assert even(Axis(), 40, unit=8).spans == (((0, 16),), ((16, 32),), ((32, 40),))
    assert Cut(Axis(), (((0, 1), (2, 4)), ((1, 2),), ((4, 9),))).total == 9


def test_workers_that_do_not_fill_the_groups_are_refused_with_the_sizes_that_fit():
    with (
        pytest.raises(UserError, match="6 workers cannot form groups of cluster.tensor 4; .* 1, 2, 3, 6"),
        working_together(ClusterConfig(workers=6, tensor=4), 1),
    ):
        pass
