"""Limits on code of others: what is waited for, and what an error of it becomes."""

import threading
import time
from types import SimpleNamespace

import pytest

from concordant.core import time_limit
from concordant.core.errors import UserError
from concordant.core.time_limit import at_most, awaited_at_most


def test_a_result_and_an_error_come_back_as_they_are():
    assert awaited_at_most(5, "late", lambda: [1, 2]) == [1, 2]
    assert awaited_at_most(5, "late", lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        awaited_at_most(5, "late", lambda: 1 / 0)
    with pytest.raises(SystemExit):
        awaited_at_most(5, "late", lambda: (_ for _ in ()).throw(SystemExit(0)))


def test_a_call_that_does_not_end_is_no_longer_waited_for_in_any_thread():
    let_go = threading.Event()
    said = []

    def caller():
        try:
            awaited_at_most(0.05, "late", let_go.wait)
        except UserError as error:
            said.append(str(error))

    start = time.monotonic()
    other = threading.Thread(target=caller)
    other.start()
    caller()
    other.join()
    let_go.set()
    assert said == ["late", "late"] and time.monotonic() - start < 5


class Interrupted:
    """A lock at which Ctrl-C comes whenever the main thread takes it."""

    def __init__(self):
        self.lock = threading.Lock()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        self.lock.acquire()

    def __exit__(self, *error):
        self.lock.release()


def test_a_signal_at_the_end_of_a_block_leaves_no_limit_behind(monkeypatch):
    """The end of the time came later, in the middle of other work, where nobody expects it."""
    names = {"get_ident": threading.get_ident, "Timer": threading.Timer, "Lock": Interrupted}
    monkeypatch.setattr(time_limit, "threading", SimpleNamespace(**names))
    monkeypatch.setattr(time_limit, "_alarm_is_free", lambda: False)
    with pytest.raises(KeyboardInterrupt), at_most(0.1, "late"):
        pass
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        pass
