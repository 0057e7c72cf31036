"""Deliveries under which connections broke off go alone, so that a poisonous one takes no neighbour along.

Some request may make a service, or a box on the way, end the connection that carries it. Whatever else is on that
connection is lost with it, again at each retry. So what was on the wire of `SUSPECT_CUTS` connections that broke off
(see `Flight`) leaves the lanes, and goes out on a connection of its own with nothing beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.http2.connection import Requests, Source
from gateway.http2.pool import Pool
from gateway.http2.results import Results, Tag

POISON_CUTS = 4
"""Connections that a delivery ended, two of them alone, before it is given up. Those of an outage are not counted."""

UNUSED = 60.0
"""Seconds without suspects after which their connection is closed."""

POISONOUS = "connections break off whenever it is sent"


class Suspicious(Protocol):
    """Who has suspects: a route's sender."""

    @property
    def suspects(self) -> bool:
        """Whether there are any that could go."""

    def take_suspect(self, window: int) -> Requests | None:
        """One of them."""

    def give_back(self, tags: list[Tag]) -> None: ...

    def settle(self, results: Results) -> None: ...


class Quarantine:
    """The source of a pool of one connection, opened for the first suspect, with one request on it at a time."""

    def __init__(self, sender: Suspicious, open_pool: Callable[[Source], Pool]) -> None:
        self._sender = sender
        self._open_pool = open_pool
        self._pool: Pool | None = None
        self._occupied = False
        self._wanted_at = 0.0
        self._closing: asyncio.Task[None] | None = None

    def tick(self, now: float) -> None:
        if self._sender.suspects or self._occupied:
            self._wanted_at = now
            if self._pool is None:
                self._pool = self._open_pool(self)
        if self._pool is not None:
            self._pool.tick(now)
            if now - self._wanted_at > UNUSED:
                self._closing = asyncio.get_running_loop().create_task(self._pool.close(0.0))
                self._pool = None

    def replace(self) -> None:
        if self._pool is not None:
            self._pool.replace()

    async def close(self, deadline: float) -> None:
        """As `Pool.close`."""
        if self._pool is not None:
            await self._pool.close(deadline)
        if self._closing is not None:
            await self._closing

    # The pool's side

    @property
    def backlog(self) -> bool:
        return not self._occupied and self._sender.suspects

    def take(self, streams: int, window: int) -> Requests | None:
        if self._occupied:
            return None
        requests = self._sender.take_suspect(window)
        self._occupied = requests is not None
        return requests

    def give_back(self, tags: list[Tag]) -> None:
        self._occupied = False
        self._sender.give_back(tags)

    def settle(self, results: Results) -> None:
        self._occupied = False
        self._sender.settle(results)
