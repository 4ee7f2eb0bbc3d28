"""Helpers that must not start, and helpers whose driver is gone before they meet it."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from concordant.core.errors import UserError
from concordant.engines.group import started, torch_team


def test_more_workers_than_the_free_memory_holds_are_refused_before_one_starts(monkeypatch):
    tried = []
    monkeypatch.setattr(torch_team, "available_memory", lambda: 4 * 128 * 2**20)
    monkeypatch.setattr(torch_team.subprocess, "Popen", lambda *given, **more: tried.append(given))
    with pytest.raises(UserError, match="9,999 workers were asked for, .* at most 5, .*; lower cluster.workers"):
        torch_team.start_here(9999, timedelta(seconds=1))
    assert not tried


def test_a_helper_ends_when_its_driver_was_killed_before_they_met(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    where = {"RANK": "1", "WORLD_SIZE": "2", started.STORE: str(tmp_path / "store"), started.DRIVER: str(gone.pid)}
    helper = subprocess.Popen([sys.executable, "-m", torch_team.HELPER], env=os.environ | where)
    try:
        assert helper.wait(timeout=60) == 1
    finally:
        helper.kill()
