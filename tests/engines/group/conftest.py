"""Processes that are forked from one that has imported everything: a start of Python takes longer than what it runs."""

import json

import pytest

from tests.training.killing import Kill, Server

LONGEST = Kill(seconds=600)
MODULES = (
    "tests.engines.group.prepared",
    "concordant.engines.group.helper",
    "bench.parallel",
    "tests.models.zoo",
    "torch.distributed.fsdp",
    "pytest",
)


@pytest.fixture(scope="package")
def python(tmp_path_factory):
    """``python("-m", MODULE, …, **environment)``: what it printed. Its helpers are forked unless ``real_helpers``."""
    with Server(tmp_path_factory.mktemp("processes"), MODULES) as server:

        def run(*arguments, real_helpers=False, **environment):
            done = server(*arguments, kill=LONGEST, environment=environment, forks_helpers=not real_helpers)
            assert done.code == 0, done.said[-3000:]
            return done

        yield run


@pytest.fixture(scope="package")
def small_run(python):
    """The SHA-256 of the weights that a run of ``bench.small_run`` exports."""
    return lambda **settings: python("-m", "bench.small_run", json.dumps(settings)).out.strip()


@pytest.fixture(scope="package")
def measured(python):
    """``measured(CASE, …, **mesh)``: what ``tests.engines.group.tensor`` finds."""
    return lambda *cases, **mesh: json.loads(python("-m", "tests.engines.group.tensor", json.dumps(mesh), *cases).out)
