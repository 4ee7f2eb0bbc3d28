import os

import pytest

from tests.engines.conformance.factory import APART, ENGINES, EngineFactory

CHOSEN = os.environ.get("CONFORMANCE_ENGINE")  # one of APART; not set: all engines of this process


@pytest.fixture(params=[CHOSEN] if CHOSEN else ENGINES)
def engine(request) -> EngineFactory:
    return (ENGINES | APART)[request.param]
