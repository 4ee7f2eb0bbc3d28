"""Several processes as users meet them: one hash, the conformance suite, and workers that fail."""

import json
import shutil

import pytest


@pytest.fixture(scope="module")
def faulty(python):
    """The driver's error. These helpers are started as a user's are, as a Python of their own."""

    def run(way):
        done = python("-m", "tests.engines.group.faulty", way, real_helpers=True)
        return json.loads(done.out) | {"stderr": done.errors}

    return run


@pytest.mark.parametrize("engine", ["two processes", "two processes, sharded"])
def test_two_processes_pass_the_engines_conformance_suite(engine, python):
    left_out = "not peft and not two_threads" + (" and not held_weights" if "sharded" in engine else "")
    # The exit code is checked: it is not 0 if a test failed, and if none was found.
    python("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/engines/conformance", "-k", left_out,
           CONFORMANCE_ENGINE=engine)  # fmt: skip


@pytest.mark.parametrize("verb", ["lora", "gae"])
def test_one_hash_for_one_and_two_workers_and_for_a_run_that_moved_from_one_to_two(verb, small_run, tmp_path):
    alone, together = {"workers": 1, "shards": 2}, {"workers": 2, "shards": 2}
    one = small_run(verb=verb, output=str(tmp_path / "one"), steps=3, cluster=alone)
    two = small_run(verb=verb, output=str(tmp_path / "two"), steps=3, cluster=together)
    assert one == two
    stopped_at_two = tmp_path / "two" / "checkpoints" / "step-000003"
    for path in sorted(stopped_at_two.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    stopped_at_two.rmdir()
    assert small_run(verb=verb, output=str(tmp_path / "two"), steps=3, cluster=alone, resume="auto") == one


def test_a_run_whose_layers_were_split_goes_on_whole_with_the_same_hash(small_run, tmp_path):
    alone, split = {"workers": 1, "shards": 2}, {"tensor": 2, "shards": 2}
    one = small_run(verb="lora", output=str(tmp_path / "one"), steps=3, cluster=alone)
    assert small_run(verb="lora", output=str(tmp_path / "two"), steps=3, cluster=split) == one
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-000003")
    assert small_run(verb="lora", output=str(tmp_path / "two"), steps=3, cluster=alone, resume="auto") == one


def test_a_worker_that_raises_is_named_with_its_cause(faulty):
    found = faulty("raise")
    assert found["kind"] == "RunFailed" and found["error"] == "worker 1: ValueError: the worker's own words"
    assert found["seconds"] < 20


def test_a_worker_that_is_killed_is_named_with_the_signal(faulty):
    found = faulty("kill")
    assert found["kind"] == "RunFailed" and found["error"] == "worker 1 ended: killed by signal 9"
    assert found["seconds"] < 20


def test_a_worker_that_hangs_ends_the_run_in_time_and_shows_its_stack(faulty):
    found = faulty("hang")
    assert found["kind"] == "RunFailed" and "did not answer within 4 s" in found["error"]
    assert "in fail" in found["stderr"] and found["seconds"] < 30
    assert found["ended"] < 60, "the worker would sleep for an hour"


def test_an_error_that_every_rank_raises_is_the_drivers_own_and_the_ranks_stay_in_step(faulty):
    found = faulty("both")
    assert found["kind"] == "ValueError" and found["then"] == [0, 1] and found["stderr"] == ""
