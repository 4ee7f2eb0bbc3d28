"""Bodies of requests: read whole and bounded in bytes and seconds, before any of them is understood."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Message, Receive

LARGEST_BODY = 2**20  # bytes
_SECONDS = 30.0  # within which a body must have come


@dataclass(frozen=True)
class UnfitBody(Exception):
    """A body that is not read to its end."""

    status: int  # of HTTP
    sentence: str


async def body_of(request: Request, most: int = LARGEST_BODY) -> bytes:
    """The body of ``request``. Raises UnfitBody if it has more than ``most`` bytes or does not come to its end."""
    too_large = UnfitBody(413, f"A request has at most {most:,} bytes.")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_SECONDS):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise too_large
    except TimeoutError:
        raise UnfitBody(408, "The request did not come to its end.") from None
    return b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read to the application, and then what the server says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
