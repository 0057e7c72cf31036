"""Who still comes in while this process leaves.

After `last_call` every answer ends its connection, so that callers open their next one to a process that stays. After
`shut` new jobs are refused, and `empty` gives those that are being received some time to end. A job is answered with
202 only once it is durable, whatever this door does: a refused upload leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from gateway.ingest.body import Body
from gateway.ingest.problem import Refused

RETRY_AFTER = 5
"""Seconds: another gateway, or this one's next start, answers by then."""

_LEAVING = "This gateway is being stopped and takes no more jobs. Nothing of this one was kept: send it again."
_ANSWERS = 1.0
"""Seconds for what was refused to be told."""


def leaving() -> Refused:
    return Refused(503, _LEAVING, retry_after=RETRY_AFTER, close=True)


class Door:
    """One worker's."""

    def __init__(self) -> None:
        self._last_call = False
        self._shut = False
        self._inside: set[Body] = set()
        self._left = asyncio.Event()

    @contextmanager
    def let_in(self, body: Body) -> Iterator[None]:
        """While a job is received and stored.

        Raises:
            Refused: 503, the door is shut.
        """
        if self._shut:
            raise leaving()
        self._inside.add(body)
        try:
            yield
        finally:
            self._inside.discard(body)
            self._left.set()

    def last_call(self) -> None:
        self._last_call = True

    def shut(self) -> None:
        self._shut = True

    async def empty(self, deadline: float) -> None:
        """Wait for the jobs inside; those whose bodies are not here after `deadline` seconds are refused."""
        await self._gone(deadline)
        self._shut = True
        for body in self._inside:
            body.refuse(leaving())
        await self._gone(_ANSWERS)

    async def _gone(self, deadline: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while self._inside:
                    self._left.clear()
                    await self._left.wait()

    async def end_connections(self, _request: web.Request, response: web.StreamResponse) -> None:
        """A signal of `on_response_prepare`: this was a connection's last answer, once it is time to leave."""
        if self._last_call:
            response.headers["Connection"] = "close"
            response.force_close()
