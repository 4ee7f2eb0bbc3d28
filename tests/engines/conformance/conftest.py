import pytest

from tests.engines.conformance.factory import ENGINES, GENERATORS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        known = ENGINES if metafunc.module.__name__.endswith("test_learner") else GENERATORS
        metafunc.parametrize("engine", known.values(), ids=known)
