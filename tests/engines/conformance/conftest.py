import os

import pytest

from tests.engines.conformance.factory import APART, ENGINES, GENERATORS

CHOSEN = os.environ.get("CONFORMANCE_ENGINE")  # one of APART; not set: all engines of this process
OF_GENERATORS = ("test_generator", "test_sampling_options")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        known = GENERATORS if metafunc.module.__name__.endswith(OF_GENERATORS) else ENGINES
        known = {CHOSEN: APART[CHOSEN]} if CHOSEN else known
        metafunc.parametrize("engine", known.values(), ids=known)
