"""Workers that Ray starts give the bits of one process. Ray is slow to start, so one process makes all runs."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'concordant[ray]'")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    command = [sys.executable, "-m", "tests.engines.group.on_ray", str(tmp_path_factory.mktemp("ray"))]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"stderr": done.stderr}


def test_workers_on_ray_give_the_hash_of_one_process(found):
    assert found["sft on Ray"] == found["sft in this process"]


@pytest.mark.parametrize("verb", ["gae", "gae_lora"])
def test_ppo_with_every_role_on_workers_of_its_own_gives_the_hash_of_one_process(verb, found):
    assert found[f"{verb} apart"] == found[f"{verb} in this process"]


def test_the_generators_workers_alone_are_started_by_the_python_that_is_given(found):
    assert len(found["started"]) == 4, "two workers, and two that took their places after one was killed"


def test_answers_of_an_older_policy_give_other_weights(found):
    assert found["gae ahead in this process"] != found["gae in this process"]


def test_a_sampler_that_is_killed_while_it_samples_ahead_starts_again_and_the_run_has_the_same_hash(found):
    assert found["killed"] == ["worker 1"]
    assert found["gae ahead, apart, with a sampler killed"] == found["gae ahead in this process"]
    assert found["stderr"].count("worker 1 of the generator ended") == 1
