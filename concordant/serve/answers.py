"""Answers while they are sampled, and the bodies that clients get: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from concordant.data.growing import GrowingText
from concordant.engines.samples import Noted, Sample
from concordant.serve.loop import SamplingLoop
from concordant.serve.queue import Call
from concordant.serve.served import Served
from concordant.serve.wire import Wrong, event

PACE = 0.05  # least seconds between two events of one answer; tokens that come in between share an event
REASONS = {"stop": "stop", "stop_string": "stop", "length": "length"}


class Pending:
    """One request: its calls, each with the answers to one prompt."""

    def __init__(self, served: Served, loop: SamplingLoop, calls: Sequence[Call], model: str, chat: bool) -> None:
        self.served, self.loop, self.calls, self.model, self.chat = served, loop, calls, model, chat
        self.made = int(time.time())
        self.id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self.samples = [s for call in calls for s in call.samples]
        self.texts = [GrowingText(self._reader(s)) for s in self.samples]
        self.told = [0] * len(self.samples)  # tokens that the client knows of
        self.over = [False] * len(self.samples)
        self._woken = asyncio.Event()
        for call in calls:
            call.wake = self._woken.set

    def _reader(self, s: Sample) -> Any:
        read = self.served.spoken if self.chat else self.served.continued
        return lambda ids, begun: read(ids, s.sampling.stop_strings, begun)

    def forget(self) -> None:
        for call in self.calls:
            if not call.is_over:
                self.loop.forget(call)

    @property
    def failure(self) -> str:
        return next((call.failure for call in self.calls if call.failure), "")

    @property
    def _is_over(self) -> bool:
        return bool(self.failure) or all(call.is_over for call in self.calls)

    async def _news(self) -> None:
        """Sleep until the sampler wakes this request: for new tokens, not before the calls' time, or at the end."""
        self._woken.clear()
        for call in self.calls:
            call.listening = True
        if not self._is_over:  # looked at now, because the sampler may have ended before it knew of the listener
            await self._woken.wait()
        for call in self.calls:
            call.listening = False

    # -- whole ----------------------------------------------------------------------------------

    async def body(self) -> dict[str, Any]:
        """The whole answer. Raises Wrong if the sampler failed."""
        while not self._is_over:
            await self._news()
        if self.failure:
            raise Wrong(503, self.failure)
        choices = []
        for i, s in enumerate(self.samples):
            self.texts[i].rest(s.ids)
            text, shown = self.texts[i].given, self._logprobs(s, 0, len(s.ids))
            part = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
            choices.append({"index": i, **part, "logprobs": shown, "finish_reason": REASONS[s.reason or "stop"]})
        return self._head("chat.completion" if self.chat else "text_completion") | {
            "choices": choices,
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, int]:
        read = sum(len(call.samples[0].prompt_T) for call in self.calls)
        said = sum(len(s.ids) for s in self.samples)
        return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.made, "model": self.model}

    # -- streamed -------------------------------------------------------------------------------

    async def events(self, with_usage: bool) -> AsyncIterator[bytes]:
        """The events of the answers, in the order of their tokens. An error ends them with an event of its own."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        if self.chat:
            first = {"role": "assistant", "content": ""}
            roles = [{"index": i, "delta": first, "finish_reason": None} for i in range(len(self.samples))]
            yield event(head | {"choices": roles})
        async for choices in self.news():
            yield b"".join(event(head | {"choices": [choice]}) for choice in choices)
        if self.failure:
            yield event(Wrong(503, self.failure).body())
            return
        if with_usage:
            yield event(head | {"choices": [], "usage": self.usage()})
        yield event("[DONE]")

    async def news(self) -> AsyncIterator[list[dict[str, Any]]]:
        """What is new of the answers, again and again until all have ended or the sampler has failed."""
        while not all(self.over):
            await self._news()
            if self.failure:
                return
            choices = [choice for i in range(len(self.samples)) if (choice := self._next(i)) is not None]
            if choices:
                yield choices
                for call in self.calls:
                    call.due = time.monotonic() + PACE

    def _next(self, i: int) -> dict[str, Any] | None:
        """What is new of answer ``i``; None where nothing is."""
        s, told = self.samples[i], self.told[i]
        reason = s.reason  # read first: the sampler writes it after the last token
        ids = s.ids[:]
        if self.over[i] or (len(ids) == told and reason is None):
            return None
        new = self.texts[i].rest(ids) if reason else self.texts[i].more(ids)
        shown = self._logprobs(s, told, len(ids))
        self.told[i], self.over[i] = len(ids), reason is not None
        if not new and not reason and shown is None:
            return None
        delta: dict[str, Any] = {"delta": {"content": new} if new else {}} if self.chat else {"text": new}
        return {"index": i, **delta, "logprobs": shown, "finish_reason": REASONS[reason] if reason else None}

    # -- log-probs ------------------------------------------------------------------------------

    def _logprobs(self, s: Sample, start: int, stop: int) -> dict[str, Any] | None:
        """The log-probs of the tokens from ``start`` on, in the form of the interface. An end token is not listed."""
        if s.likely is None:
            return None
        if s.reason == "stop":
            stop = min(stop, len(s.ids) - 1)
        tokens = list(zip(s.ids[start:stop], s.noted[start:stop], strict=True))
        if self.chat:
            return {"content": [self._listed(i, noted) for i, noted in tokens], "refusal": None}
        texts = [self.served.token(i) for i, _ in tokens]
        before = sum(len(self.served.token(i)) for i in s.ids[:start])
        return {
            "tokens": texts,
            "token_logprobs": [noted.logprob for _, noted in tokens],
            "top_logprobs": [{self.served.token(k): p for k, p in noted.likely} for _, noted in tokens],
            "text_offset": [before + sum(map(len, texts[:k])) for k in range(len(texts))],
        }

    def _listed(self, token: int, noted: Noted) -> dict[str, Any]:
        top = [self._token(k, logprob) for k, logprob in noted.likely]
        return self._token(token, noted.logprob) | {"top_logprobs": top}

    def _token(self, number: int, logprob: float) -> dict[str, Any]:
        text = self.served.token(number)
        whole = "\ufffd" not in text  # else the token is a part of a character, whose bytes the text does not show
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode()) if whole else None}


class Events(Response):
    """Sends the events of a request, and frees its slots when the client goes away."""

    media_type = "text/event-stream"

    def __init__(self, pending: Pending, with_usage: bool) -> None:
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.pending, self.with_usage = pending, with_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except OSError:  # the client has gone
            pass
        finally:
            for task in (sending, leaving):
                task.cancel()
            self.pending.forget()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self.pending.events(self.with_usage):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
