import pytest

from tests.engines.conformance.factory import ENGINES, EngineFactory


@pytest.fixture(params=ENGINES)
def engine(request) -> EngineFactory:
    return ENGINES[request.param]
