"""Server-sent events: a page hears when a file of its runs changes, and asks again for what it shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State
from starlette.requests import Request

from concordant.studio.summary import Summaries

EVERY = 1.0  # seconds between two looks at the files
_ALIVE = 15.0  # seconds after which an empty line shows that the connection still stands
MOST_STREAMS = 64


async def changes(request: Request, state: State, folders: dict[str, Path]) -> AsyncIterator[str]:
    """An event "changed" with the summary of each run that has changed; the first comes at once."""
    state.streams += 1
    try:
        async for event in _events(request, state.summaries, folders):
            yield event
    finally:
        state.streams -= 1


async def _events(request: Request, summaries: Summaries, folders: dict[str, Path]) -> AsyncIterator[str]:
    before: dict[str, object] = {}
    silent = 0.0
    while not await request.is_disconnected():
        for name, folder in folders.items():
            now = await run_in_threadpool(summaries.stamp, folder)
            if before.get(name) != now:
                before[name] = now
                summary = await run_in_threadpool(summaries.of, name, folder)
                yield f"event: changed\ndata: {json.dumps(summary.as_json())}\n\n"
                silent = 0.0
        if silent >= _ALIVE:
            yield ": alive\n\n"
            silent = 0.0
        await asyncio.sleep(EVERY)
        silent += EVERY
