"""The outermost layer of the server: keys, hosts and the size of requests, before any of a body is understood."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from concordant.serve.wire import Wrong
from concordant.studio.settings import is_loopback

LARGEST_BODY = 2**20  # bytes
BODY_SECONDS = 30.0  # within which a body must have come
SHORTEST_KEY = 16  # characters


class Gate:
    """Admits requests that bring one of ``keys``.

    Without keys the server is for programs of this machine. A web page that a browser has opened is none of them: the
    name of its host would be another, or it could not send JSON without asking first.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app, self.keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            scope.setdefault("state", {})["caller"] = self._caller(request)
            body = await self._body(request)
        except Wrong as no:
            headers = {"www-authenticate": "Bearer"} if no.status == 401 else {}
            await JSONResponse(no.body(), no.status, headers)(scope, receive, send)
            return
        await self.app(scope, _replayed(body, receive), send)

    def _caller(self, request: Request) -> str:
        """Who takes turns with others: the owner of a key, or a program of this machine by its address."""
        address = request.client.host if request.client else ""
        if not self.keys:
            host = request.headers.get("host", "").rpartition(":")
            name = host[0] if host[0] and host[2].isdigit() else request.headers.get("host", "")
            if not is_loopback(name.strip("[]")) or "origin" in request.headers:
                raise Wrong(403, "without --keys only programs of this machine are served, and no web pages")
            return address
        if request.url.path == "/health":
            return ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        found = -1
        for number, key in enumerate(self.keys):  # every key is compared, so that the time tells nothing
            if hmac.compare_digest(key, given.strip().encode("utf-8", "surrogateescape")):
                found = number
        if scheme.lower() != "bearer" or found < 0:
            raise Wrong(401, "no or a wrong API key; send Authorization: Bearer KEY", code="invalid_api_key")
        return f"key {found} {address}"

    async def _body(self, request: Request) -> bytes:
        most = LARGEST_BODY
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            raise Wrong(413, f"a request has at most {most:,} bytes", code="request_too_large")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise Wrong(413, f"a request has at most {most:,} bytes", code="request_too_large")
        except TimeoutError:
            raise Wrong(408, "the request did not come to its end") from None
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, and then what the server says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
