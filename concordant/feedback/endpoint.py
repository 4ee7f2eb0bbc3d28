"""Asks a server that speaks OpenAI's chat completions. Only the standard library is needed, and no torch.

The key comes from an environment variable. It is sent over https or to this machine alone, never follows a redirect,
and stands in no file and no message.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from concordant.config.judging import EndpointConfig
from concordant.core.addresses import is_loopback
from concordant.core.errors import UserError
from concordant.core.visible import visible
from concordant.data.dialogue import Messages
from concordant.feedback.writers import OUT_OF_BUDGET, Answered, Reply, Skip

PASSING = {408, 409, 425, 429}  # statuses after which the same request may succeed; those of 500 and above are too
REFUSED = {400, 413, 422}  # the server does not like this one question
DOWN_AFTER = 3  # questions in a row that failed with all their retries; then the server counts as down
LARGEST = 8 << 20  # bytes of an answer that are read
SHOWN = 300  # characters of a server's message that are shown
DOWN = "the server does not answer"


class _Passing(Exception):
    """A failure that a retry may cure."""

    def __init__(self, reason: str, detail: str = "", after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.after = reason, detail, after  # after: seconds that the server asks to wait


class _Refused(Exception):
    """The server refuses this one question."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # so that the status of the redirect becomes an error; the key must not go elsewhere


class Endpoint:
    """A writer on a server: ``url`` with ``/chat/completions`` behind it.

    The same requests wait the same times: a retry waits ``wait``, then twice as long each time, or as long as the
    server's Retry-After asks, and never more than ``longest_wait``. ``sleep`` is there for tests.
    """

    def __init__(
        self,
        url: str,
        config: EndpointConfig,
        max_answer_tokens: int,
        temperature: float = 0.0,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.url = f"{url.rstrip('/')}/chat/completions"
        self.config = config
        self.identity = json.dumps(["endpoint", config.model, temperature, max_answer_tokens])
        self.calls = self.tokens = 0
        self.stopped = ""
        self._body: dict[str, Any] = {
            "model": config.model,
            "temperature": temperature,
            "max_tokens": max_answer_tokens,
        }
        self._key = _key(config.key_variable, url)
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._sleep = sleep or self._ending.wait
        self._failed_in_a_row = 0
        self._open = urllib.request.build_opener(_NoRedirect()).open

    def write(self, questions: Sequence[Messages]) -> Iterator[tuple[int, Answered]]:
        """Ask all questions, some at once. UserError where the server refuses the key or has no such model."""
        pool = ThreadPoolExecutor(self.config.parallel)
        try:
            numbers = {pool.submit(self._answer, question): i for i, question in enumerate(questions)}
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        finally:
            self._ending.set()  # whoever waits for a retry stops waiting
            pool.shutdown(wait=True, cancel_futures=True)
            self._ending.clear()

    def _answer(self, question: Messages) -> Answered:
        for attempt in range(self.config.retries + 1):
            if not self._may_call():
                return Skip(self.stopped or "the command ended")
            try:
                reply = self._call(question)
            except _Refused as refusal:
                self._failed_in_a_row = 0
                return Skip("the server refuses the question", str(refusal))
            except _Passing as problem:
                failure = problem
                if attempt < self.config.retries:
                    self._sleep(min(self.config.longest_wait, max(self.config.wait * 2**attempt, problem.after)))
                continue
            with self._lock:
                self._failed_in_a_row = 0
                self.tokens += reply.prompt_tokens + reply.answer_tokens
            return reply
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= DOWN_AFTER:
                self.stopped = self.stopped or DOWN
        return Skip(failure.reason, failure.detail)

    def _may_call(self) -> bool:
        """Count one more request, if the budget has one left and the server is not down."""
        with self._lock:
            calls, tokens = self.config.max_calls, self.config.max_tokens
            if not self.stopped and (0 < calls <= self.calls or 0 < tokens <= self.tokens):
                self.stopped = OUT_OF_BUDGET
            if self.stopped or self._ending.is_set():
                return False
            self.calls += 1
            return True

    def _call(self, question: Messages) -> Reply:
        messages = [{"role": m.role, "content": m.content} for m in question]
        settings = dict(self._body)
        body = json.dumps(settings | {"messages": messages}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "concordant"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        until = time.monotonic() + self.config.timeout
        try:
            with self._open(request, timeout=self.config.timeout) as response:
                return _reply(_read(response, until))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, settings, until) from None
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                raise _Passing(
                    "the server was too slow", f"more than endpoint.timeout={self.config.timeout:g} s"
                ) from None
            raise _Passing("no connection to the server", self._shown(f"{cause or type(cause).__name__}")) from None

    def _refusal(self, error: urllib.error.HTTPError, settings: dict[str, Any], until: float) -> Exception:
        try:
            said = _message(_read(error, until))
        except (_Passing, OSError, http.client.HTTPException):
            said = ""
        text = self._shown(f"{error.code} {error.reason}{f': {said}' if said else ''}")
        if error.code in PASSING or error.code >= 500:
            return _Passing(f"the server answered with an error ({error.code})", text, _seconds(error.headers))
        if error.code in REFUSED:
            if self._spelt_otherwise(said, settings):
                return _Passing("the server takes other settings", text)
            return _Refused(text)
        cure = {
            401: "; give the name of the variable with a valid key as --endpoint.key_variable",
            403: "; this key may not use the model",
            404: f"; expected a server with {self.url}, and the model {self.config.model}",
        }.get(error.code, "; the address that the server names is not followed" if error.code < 400 else "")
        return UserError(f"{self.url} answered {text}{cure}")

    def _spelt_otherwise(self, said: str, settings: dict[str, Any]) -> bool:
        """Whether the server wants other ``settings``; they are taken from now on. Newer models know no max_tokens."""
        with self._lock:
            if "max_completion_tokens" in said and "max_tokens" in settings:
                self._body["max_completion_tokens"] = self._body.pop("max_tokens", settings["max_tokens"])
                return True
            if "temperature" in said and "temperature" in settings:
                self._body.pop("temperature", None)
                return True
        return False

    def _shown(self, text: str) -> str:
        """A server's words for a message, without the key, which some servers repeat."""
        hidden = text.replace(self._key, "(key)") if self._key else text
        return " ".join(visible(hidden).split())[:SHOWN]


def _key(variable: str, url: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"endpoint.key_variable={variable}: this environment variable is not set; set it to the API key"
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"endpoint.key_variable={variable}: its value is no API key; expected printable ASCII")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise UserError(f"{url}: a key is sent over https or to this machine alone; leave endpoint.key_variable out")
    return key


def _read(response: Any, until: float) -> bytes:
    """The body of a response. A server that sends a byte now and then is not waited for any longer than ``until``."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > until:
            raise TimeoutError
        if size > LARGEST:
            raise _Passing("the server's answer is no chat completion", f"more than {LARGEST:,} bytes")
    return b"".join(parts)


def _reply(body: bytes) -> Reply:
    try:
        found = json.loads(body.decode("utf-8", "replace"))
        text = found["choices"][0]["message"]["content"]
        usage = found.get("usage") or {}
        counts = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        text, counts = 0, []
    if text is not None and not isinstance(text, str):
        raise _Passing("the server's answer is no chat completion", visible(body[:80].decode("utf-8", "replace")))
    tokens = [count if isinstance(count, int) and count >= 0 else 0 for count in counts]
    return Reply((text or "").encode("utf-8", "replace").decode("utf-8"), *tokens)


def _message(body: bytes) -> str:
    """The message in the body of an error."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        error = found.get("error", found)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        return text


def _seconds(headers: Any) -> float:
    """What Retry-After asks to wait: seconds, or a date; 0 without one."""
    value = (headers.get("Retry-After") or "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
