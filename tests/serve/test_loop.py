"""When the sampler's thread wakes a client: at its tokens, not before its time, and always at the end."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

from concordant.serve.loop import SamplingLoop
from concordant.serve.queue import Call


class Batch:
    """One token for every sample at each ``allowed`` step, and the end after ``length`` tokens."""

    def __init__(self, length):
        self.length, self.live, self.allowed = length, [], threading.Semaphore(0)

    computing = staticmethod(nullcontext)

    def may_join(self, sample, joining):
        return True

    def admit(self, joining):
        self.live = [*self.live, *joining]

    def leave(self, samples):
        self.live = [s for s in self.live if s not in samples]

    def advance(self):
        self.allowed.acquire()
        for s in self.live:
            s.ids.append(0)
            s.reason = "length" if len(s.ids) == self.length else None
        self.live = [s for s in self.live if s.reason is None]


def test_a_client_is_woken_at_a_token_not_before_its_time_and_always_at_the_end():
    batch, woken = Batch(length=4), threading.Semaphore(0)
    loop = SamplingLoop(lambda: batch, 9, lambda calls: [woken.release() for _ in calls])
    try:
        call = Call(caller="a", each_token=True, listening=True)
        call.samples = [SimpleNamespace(owner=call, ids=[], reason=None)]
        loop.ask(call)
        batch.allowed.release()
        assert woken.acquire(timeout=30) and len(call.samples[0].ids) == 1
        call.due = time.monotonic() + 3600
        batch.allowed.release(2)
        assert not woken.acquire(timeout=0.2) and len(call.samples[0].ids) == 3
        batch.allowed.release()
        assert woken.acquire(timeout=30) and call.is_over
    finally:
        batch.allowed.release(9)
        loop.close()
