"""How much of the queue is a tenant's.

The queue is asked once in a while, and what was taken in since is added: a tenant's share is kept to within what all
workers take in during an `INTERVAL`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from gateway.access.names import split
from gateway.access.rates import Exceeded
from gateway.access.settings import Quota

INTERVAL = 1.0
RETRY_AFTER = 10

CountQueued = Callable[[], Awaitable[Mapping[str, int]]]
"""Deliveries stored and not complete, by the full names of apps."""


class Backlog:
    """One worker's knowledge of it."""

    def __init__(self, quotas: Mapping[str, Quota], count: CountQueued) -> None:
        self._most = {tenant: quota.queued for tenant, quota in quotas.items() if quota.queued is not None}
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._asked = float("-inf")
        self._queued: Counter[str] = Counter()
        self._asking = asyncio.Lock()

    async def check(self, tenant: str) -> None:
        """Whether there is room for more of a tenant's.

        Raises:
            Exceeded: there is not.
            QueueError: the queue cannot say.
        """
        most = self._most.get(tenant)
        if most is None:
            return
        async with self._asking:
            if self._loop.time() - self._asked >= INTERVAL:
                await self._ask()
        if self._queued[tenant] >= most:
            detail = f"This tenant has {most:,} deliveries queued, which is its share. Send the job again later."
            raise Exceeded(detail, RETRY_AFTER, {})

    def add(self, tenant: str, deliveries: int) -> None:
        """So many were taken in."""
        if tenant in self._most:
            self._queued[tenant] += deliveries

    async def _ask(self) -> None:
        queued: Counter[str] = Counter()
        for app, deliveries in (await self._count()).items():
            queued[split(app)[0]] += deliveries
        self._queued, self._asked = queued, self._loop.time()
