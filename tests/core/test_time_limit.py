"""Limits on code of others: what is waited for, and what an error of it becomes."""

import threading
import time

import pytest

from concordant.core.errors import UserError
from concordant.core.time_limit import awaited_at_most


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
