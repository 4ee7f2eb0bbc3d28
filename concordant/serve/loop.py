"""The thread that samples for all clients: calls join and leave one running batch between its steps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from concordant.engines.samples import Batch
from concordant.serve.queue import Call, FairQueue

log = logging.getLogger(__name__)

Notify = Callable[[Sequence[Call]], None]
FAILED = "the sampler failed; the server's log says why"
CLOSED = "the server is closing"


class SamplingLoop:
    """Owns the batch. ``notify`` gets the calls whose clients sleep and have something new; it must return at once.

    A failure of the sampler ends the calls of that moment. The loop then goes on with a new batch.
    """

    def __init__(self, make_batch: Callable[[], Batch], most_waiting: int, notify: Notify) -> None:
        self.make_batch, self.notify = make_batch, notify
        self.queue = FairQueue(most_waiting)
        self.batch = make_batch()
        self.tokens = 0  # sampled so far
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def ask(self, call: Call) -> None:
        """Let ``call`` wait for a slot. Raises Full if too many answers wait."""
        with self._changed:
            if self._closed:
                call.failure = CLOSED
                return
            self.queue.put(call)
            self._changed.notify()

    def forget(self, call: Call) -> None:
        """Nobody wants the answers of ``call`` any more. Their slots are free after the present step."""
        with self._changed:
            call.gone = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its present step; calls that are not answered fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._closed:
            try:
                with self.batch.computing():
                    while self._joined():
                        self._step()
            except Exception:
                log.exception("sampling failed")
                self._fail(FAILED)
                self.batch = self.make_batch()
        self._fail(CLOSED)

    def _joined(self) -> bool:
        """Wait until there is something to sample, and let it join. False when the loop is to end."""
        with self._changed:
            while True:
                if self._closed:
                    return False
                self.batch.leave([s for s in self.batch.live if s.owner.gone])
                joining = self.queue.take(self.batch.may_join)
                if joining or self.batch.live:
                    break
                self._changed.wait()
        if joining:
            try:
                self.batch.admit(joining)
            except Exception:
                self._end(FAILED, (s.owner for s in joining))
                raise
        return True

    def _step(self) -> None:
        rows = self.batch.live
        self.batch.advance()
        self.tokens += len(rows)
        calls = {id(s.owner): s.owner for s in rows}.values()
        self._wake(call for call in calls if call.each_token or call.is_over)

    def _wake(self, calls: Iterable[Call]) -> None:
        now = time.monotonic()
        asleep = [call for call in calls if call.listening and (now >= call.due or call.is_over)]
        if asleep:
            self.notify(asleep)

    def _fail(self, why: str) -> None:
        with self._changed:
            waiting = self.queue.clear()
        self._end(why, [*(s.owner for s in self.batch.live), *waiting])

    def _end(self, why: str, calls: Iterable[Call]) -> None:
        ended = list({id(call): call for call in calls}.values())
        for call in ended:
            call.failure = why
        self._wake(ended)
