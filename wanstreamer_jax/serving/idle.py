"""Connections on which nothing is being answered: closed after a while, so that nobody holds them with half a request.

An HTTP server waits for the rest of a request's headers as long as its client likes; a few hundred such clients hold
every descriptor there is. A conversation is one request that is being answered, however long it lasts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

IDLE_S = 15.0
LOOK_EVERY_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Idle:
    """In the event loop's thread: who is being answered, and since when the others are not."""

    def __init__(self) -> None:
        self._answering: Counter[asyncio.Transport] = Counter()
        self._idle_since_s: dict[asyncio.Transport, float] = {}

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The response to a request, whose connection is not idle meanwhile."""
        transport = request.transport
        if transport is None:
            return await handler(request)
        self._answering[transport] += 1
        try:
            return await handler(request)
        finally:
            self._answering[transport] -= 1
            self._answering += Counter()  # those at 0 are forgotten
            self._idle_since_s.pop(transport, None)

    async def close_idle(self, server: web.Server) -> None:
        """Close connections that were idle for `IDLE_S`, until it is cancelled."""
        while True:
            now_s = time.monotonic()
            there = [c.transport for c in server.connections if c.transport is not None]
            waiting = [transport for transport in there if not self._answering[transport]]
            self._idle_since_s = {t: self._idle_since_s.get(t, now_s) for t in waiting}
            for transport, since_s in self._idle_since_s.items():
                if now_s - since_s > IDLE_S:
                    transport.abort()
            await asyncio.sleep(LOOK_EVERY_S)
