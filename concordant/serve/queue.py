"""Calls that wait for a slot. Callers take turns, so that one who asks for much does not keep the others waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from concordant.engines.samples import Sample


class Full(Exception):
    """As many answers wait as may wait."""


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """The answers to one prompt that a client waits for. The client reads ``samples`` while the sampler fills them."""

    caller: str  # callers take turns
    samples: list[Sample] = field(default_factory=list)
    each_token: bool = False  # wake the client at each token; else at the end
    listening: bool = False  # the client sleeps until it is woken
    due: float = 0.0  # time.monotonic() before which the client sleeps on, but for the end
    wake: Callable[[], None] | None = None  # run in the client's own thread
    gone: bool = False  # nobody wants the answers any more
    failure: str = ""  # why there will be no more tokens

    @property
    def is_over(self) -> bool:
        return bool(self.failure) or all(s.reason is not None for s in self.samples)


class FairQueue:
    """Not safe for several threads; its user holds a lock."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting = 0  # answers
        self._lines: OrderedDict[str, deque[deque[Sample]]] = OrderedDict()  # by caller, a line of calls

    def put(self, call: Call) -> None:
        """Raises Full if too many answers would wait."""
        if self.waiting + len(call.samples) > self.most:
            raise Full
        self.waiting += len(call.samples)
        self._lines.setdefault(call.caller, deque()).append(deque(call.samples))

    def take(self, may_join: Callable[[Sample, Sequence[Sample]], bool]) -> list[Sample]:
        """The samples that join now, one call of each caller in turn. Samples of calls that are gone are left out."""
        joining: list[Sample] = []
        while self._lines:
            caller, line = next(iter(self._lines.items()))
            samples = line[0]
            while samples and (samples[0].owner.gone or may_join(samples[0], joining)):
                sample = samples.popleft()
                self.waiting -= 1
                if not sample.owner.gone:
                    joining.append(sample)
            if samples:
                break
            line.popleft()
            if line:
                self._lines.move_to_end(caller)
            else:
                del self._lines[caller]
        return joining

    def clear(self) -> list[Call]:
        """Empty the queue. Returns the calls that waited."""
        calls = {id(s.owner): s.owner for line in self._lines.values() for samples in line for s in samples}
        self._lines.clear()
        self.waiting = 0
        return list(calls.values())
