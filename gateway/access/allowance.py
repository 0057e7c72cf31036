"""What a tenant may ask for: its rates and its share of the queue, as ingest holds jobs against them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.access.backlog import Backlog, CountQueued
from gateway.access.rates import Rates
from gateway.access.settings import Quota


class Allowance:
    """All tenants', as one worker knows them. A tenant without limits costs two look-ups a job."""

    def __init__(self, folder: Path, quotas: Mapping[str, Quota], count: CountQueued) -> None:
        self._rates = Rates(folder, quotas)
        self._backlog = Backlog(quotas, count)

    async def take_job(self, tenant: str) -> None:
        """A job comes; nobody knows yet for how many.

        Raises:
            Exceeded: not now.
            QueueError: the queue cannot say how much is in it.
        """
        await self._backlog.check(tenant)
        self._rates.take_job(tenant)

    def take_recipients(self, tenant: str, number: int) -> None:
        """A job was taken in, for so many."""
        self._rates.take_recipients(tenant, number)
        self._backlog.add(tenant, number)

    def headers(self, tenant: str) -> dict[str, str]:
        """What callers are told of it."""
        return self._rates.headers(tenant)
