"""The outermost layer of the studio: it refuses requests that are not allowed, and adds the headers of security."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from concordant.serve.bodies import UnfitBody, body_of, replayed
from concordant.studio.access import Access, Refusal
from concordant.studio.render import refused

# No script and no style stands inside a page, so text that came from data can never become one.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["session"] = session = self.access.session_of(request)
        state["csrf"], state["role"], state["token"] = self.access.csrf_of(session), "", ""
        is_new = request.cookies.get(self.access.session_cookie) != session

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), request, session if is_new else "")
            await send(message)

        try:
            state["role"], state["token"] = await self.access.admit(request)
            body = await self._body(request)
        except (Refusal, UnfitBody) as no:
            await refused(request, no.status, no.sentence)(scope, receive, send_safely)
            return
        await self.app(scope, receive if body is None else replayed(body, receive), send_safely)

    def _add_headers(self, headers: MutableHeaders, request: Request, session: str) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        if "cache-control" not in headers:
            headers["cache-control"] = "no-store"
        if session and not request.url.path.startswith("/static/"):
            headers.append("set-cookie", cookie(self.access.session_cookie, session))

    async def _body(self, request: Request) -> bytes | None:
        """The body of the request; None if the request has none."""
        if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
            return None
        return await body_of(request, self.access.settings.largest_body)


def cookie(name: str, value: str) -> str:
    """A cookie that scripts cannot read and that other sites cannot cause to be sent."""
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"
