"""What every test may use. No test reaches the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub
# Before anything imports torch: of two threads, the one that waits sleeps. The other may wait for a core that another
# test has, and a thread that spins meanwhile takes processor time from both.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def small_toytalk(monkeypatch: pytest.MonkeyPatch) -> None:
    """builtin:toytalk with 90 training and 30 held-out pairs, made at once instead of in seconds."""
    from concordant.data import toytalk
    from concordant.data.records import Message, Pair

    def pairs(name: str, count: int) -> list[Pair]:
        return [Pair((Message("user", f"{name} {i // 3}"),), "good", "bad", probability=0.9) for i in range(count)]

    monkeypatch.setattr(toytalk, "training_pairs", lambda preset, seed: pairs(f"{preset} {seed}", 90))
    monkeypatch.setattr(toytalk, "heldout_pairs", lambda preset, seed: pairs(f"held out {preset} {seed}", 30))


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """The path of a file beside the repository, in ../shared/data; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / "data" / name
        if not path.is_file():
            pytest.skip(f"no ../shared/data/{name}")
        return path

    return find
