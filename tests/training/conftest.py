from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """A test's files need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield
