"""The outermost layer of the server: keys, hosts and the size of requests, before any of a body is understood."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from concordant.core.addresses import is_loopback
from concordant.serve.bodies import UnfitBody, body_of, replayed
from concordant.serve.wire import Wrong

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
            body = await _body(request)
        except Wrong as no:
            headers = {"www-authenticate": "Bearer"} if no.status == 401 else {}
            await JSONResponse(no.body(), no.status, headers)(scope, receive, send)
            return
        await self.app(scope, replayed(body, receive), send)

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


async def _body(request: Request) -> bytes:
    try:
        return await body_of(request)
    except UnfitBody as no:
        raise Wrong(no.status, no.sentence, code="request_too_large" if no.status == 413 else "") from None
