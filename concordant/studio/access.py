"""Who may send which request. Nothing here answers a request; ``guard.py`` does.

There are three kinds of visitors. The *owner* has the token that ``concordant studio`` prints, and may do everything. A
*guest* has a token that a page has given out, for example to a rater, and may use the paths of this page only. A
*reader* has no token. Readers exist only if the studio listens on loopback, and a reader cannot start or stop runs.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request

from concordant.studio.settings import Settings

Role = Literal["owner", "guest", "reader"]
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
CSRF_HEADER = "x-csrf-token"
ANYBODY = ("/static/", "/enter", "/favicon.ico")  # paths without content of the user
_SESSION = re.compile(r"[0-9a-f]{32}")
_BURST = 4.0  # seconds' worth of requests that may come at once
_WRONG_TOKENS = 10 / 60  # a second, from one address
_KNOWN_VISITORS = 10_000


@dataclass(frozen=True)
class Refusal(Exception):
    status: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Guests:
    """Visitors with a token that a page of the studio has given out."""

    paths: tuple[str, ...]  # beginnings of the paths that they may use; the first one is their home
    accepts: Callable[[str], bool]  # whether a token is theirs, as far as is known
    learn: Callable[[str], Awaitable[None]]  # finds out whether a token is theirs; raises Refusal if it cannot


class Access:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.guests: list[Guests] = []
        self.token_cookie = f"concordant_token_{settings.port}"  # browsers share cookies between ports
        self.session_cookie = f"concordant_session_{settings.port}"
        self._requests = Buckets(settings.requests_per_second)
        self._wrong_tokens = Buckets(_WRONG_TOKENS, burst=10)

    async def admit(self, request: Request) -> tuple[Role, str]:
        """The visitor's role and token ("" for a reader).

        Raises:
            Refusal: the request is not allowed.
        """
        self._check_host(request)
        role, token = await self._visitor(request)
        visitor = token or request.cookies.get(self.session_cookie, "")[:64] or _address(request)
        if not self._requests.take(visitor if role else _address(request)):
            raise Refusal(429, "Too many requests; wait a second.")
        path = request.url.path
        if role is None and not self.settings.is_open and not path.startswith(ANYBODY):
            raise Refusal(401, "This studio asks for its token: open the link that `concordant studio` printed.")
        if role == "guest" and not path.startswith((*ANYBODY, *self._paths_of(token), "/api/session")):
            raise Refusal(403, "Your token is not for this page.")
        if request.method in CHANGING:
            self._check_origin(request)
            by_header = role is not None and bool(_bearer(request))  # no page of another site can send this header
            if not by_header and not self._has_csrf(request):
                raise Refusal(403, "The CSRF token is missing or old; load the page again.")
        return role or "reader", token

    async def role_of(self, token: str) -> Role | None:
        if not token:
            return None
        if hmac.compare_digest(token.encode(), self.settings.token.encode()):
            return "owner"
        for guests in self.guests:
            await guests.learn(token)
        return "guest" if self._paths_of(token) else None

    def home_of(self, token: str) -> str:
        return (self._paths_of(token) or ("/",))[0]

    async def enter(self, request: Request, token: str) -> Role:
        """The role of a token that somebody tries. Raises Refusal for a wrong one, and for too many wrong ones."""
        role = await self.role_of(token)
        if role is None:
            if not self._wrong_tokens.take(_address(request)):
                raise Refusal(429, "Too many wrong tokens; wait a minute.")
            raise Refusal(401, "This token is wrong or from an earlier start of the studio.")
        return role

    def session_of(self, request: Request) -> str:
        """The session of the browser; a new one if the browser has none."""
        given = request.cookies.get(self.session_cookie, "")
        return given if _SESSION.fullmatch(given) else secrets.token_hex(16)

    def csrf_of(self, session: str) -> str:
        return hmac.new(self.settings.secret, session.encode(), hashlib.sha256).hexdigest()

    async def _visitor(self, request: Request) -> tuple[Role | None, str]:
        given = _bearer(request)
        if given:
            return await self.enter(request, given), given
        token = request.cookies.get(self.token_cookie, "")
        role = await self.role_of(token)  # the cookie of an earlier start is no attack
        return role, token if role else ""

    def _paths_of(self, token: str) -> tuple[str, ...]:
        return next((guests.paths for guests in self.guests if guests.accepts(token)), ())

    def _check_host(self, request: Request) -> None:
        """Refuse names that are not the studio's: a foreign name can be made to lead to this machine."""
        host = _host(request.headers.get("host", ""))
        known = {"localhost", self.settings.host, *self.settings.names}
        if not self.settings.is_open:
            known.add(socket.gethostname())
        if host.lower() not in {name.lower() for name in known} and not self._is_own_address(host):
            raise Refusal(403, "This host name is not the studio's; --names adds one.")

    def _is_own_address(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or not self.settings.is_open

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        same = origin is None or origin.partition("://")[2] == request.headers.get("host")
        site = request.headers.get("sec-fetch-site", "same-origin")
        if not same or site not in ("same-origin", "none"):
            raise Refusal(403, "The request comes from another site.")

    def _has_csrf(self, request: Request) -> bool:
        session = request.cookies.get(self.session_cookie, "")
        given = request.headers.get(CSRF_HEADER, "")
        return bool(_SESSION.fullmatch(session)) and hmac.compare_digest(given.encode(), self.csrf_of(session).encode())


def owner_only(request: Request) -> None:
    """A dependency of routes that start or stop something. Raises the error 401 for everybody without the token."""
    if request.state.role != "owner":
        raise HTTPException(401, "Only the owner may do this: open the link that `concordant studio` printed.")


class Buckets:
    """At most ``rate`` requests a second of each visitor on average, and ``burst`` at once."""

    def __init__(self, rate: float, burst: float = 0.0) -> None:
        self.rate, self.burst = rate, burst or max(1.0, _BURST * rate)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when that was so

    def take(self, visitor: str) -> bool:
        """Count one request. False if the visitor has none left."""
        now = time.monotonic()
        left, then = self._left.pop(visitor, (self.burst, now))
        left = min(self.burst, left + (now - then) * self.rate)
        self._left[visitor] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _KNOWN_VISITORS:
            self._left.popitem(last=False)
        return left >= 1


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _host(header: str) -> str:
    """The name in a Host header, without the port and without the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
