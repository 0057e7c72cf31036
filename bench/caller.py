"""A caller of a gateway that may die at any moment: asks again until there is an answer, and notes what it was told.

Every job has an `Idempotency-Key`, so that asking again is safe; a job counts as accepted once a 202 was read, and
never before. Questions about jobs are repeated in the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import aiohttp

from bench.api import Api, ApiError
from bench.campaign import Recipients, chunks
from bench.ledger import Ledger

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds without an answer after which a gateway is taken for hung."""
UNEASE = 2.0
"""Seconds without a new receipt after which it looks for parked batches."""
PAUSE = 0.05
TEMPORARY = frozenset({409, 429, 503})
"""A twin that is being abandoned, and refusals that ask to come back."""


class NoAnswer(Exception):
    """The gateway did not answer, or did not finish its jobs, in `PATIENCE` seconds."""


class Caller:
    """Submits jobs and follows them."""

    def __init__(self, api: Api, ledger: Ledger) -> None:
        self.ledger = ledger
        self.jobs: list[str] = []
        self.refusals = 0
        """Answers that asked to come back."""
        self.broken = 0
        """Requests that ended without an answer."""
        self.replayed = 0
        """Batches that were parked, because processes died with them in their hands."""
        self._api = api
        self._keys = 0

    async def submit(self, head: bytes, prepared: Recipients, sent: Callable[[int], None] = lambda share: None) -> str:
        """Submit a job until its 202 is here, and return its id; `sent` hears of each portion that was written."""
        self._keys += 1
        key = f"caller-{self._keys}"
        portions = list(chunks(head, prepared.lines, size=100))
        answer = await self._surely(lambda: self._api.submit(_told(portions, sent), key=key))
        if answer["accepted"] != len(prepared.lines):
            raise ApiError(f"only {answer['accepted']} of {len(prepared.lines)} recipients were accepted")
        self.ledger.accepted(prepared.keys)
        self.jobs.append(answer["job"])
        return str(answer["job"])

    async def finish(self, jobs: Sequence[str]) -> None:
        """Wait until all receipts of these jobs are stored; batches that were parked on the way are replayed.

        Raises:
            NoAnswer: nothing moved for too long.
        """
        moved = time.monotonic()
        for job_id in jobs:
            before: dict[str, Any] = {}
            while not (status := await self._surely(lambda job_id=job_id: self._api.job(job_id)))["finished"]:  # type: ignore[misc]
                if status["counts"] != before:
                    before, moved = status["counts"], time.monotonic()
                elif time.monotonic() - moved > PATIENCE:
                    raise NoAnswer(f"job {job_id} stands still: {status['counts']}")
                elif time.monotonic() - moved > UNEASE:
                    self.replayed += await self._surely(self._api.replay_parked)
                await asyncio.sleep(PAUSE)

    async def served(self) -> None:
        """Wait until the gateway is ready.

        Raises:
            NoAnswer: it was not for too long.
        """
        end = time.monotonic() + PATIENCE
        while not await self._api.ready():
            if time.monotonic() > end:
                raise NoAnswer(f"not ready for {PATIENCE:g} s")
            await asyncio.sleep(PAUSE)

    async def moved(self, jobs: Sequence[str]) -> None:
        """Wait until some receipt of these jobs is stored."""
        while True:
            for job_id in jobs:
                counts = (await self._surely(lambda job_id=job_id: self._api.job(job_id)))["counts"]  # type: ignore[misc]
                if any(number for state, number in counts.items() if state != "pending"):
                    return
            await asyncio.sleep(PAUSE)

    async def enter_receipts(self, jobs: Sequence[str]) -> list[dict[str, Any]]:
        """Enter all receipts into the ledger, and return those of deliveries that were sent without an answer."""
        unanswered = []
        for job_id in jobs:
            for receipt in await self._surely(lambda job_id=job_id: self._receipts(job_id)):  # type: ignore[misc]
                self.ledger.receipt(receipt)
                if receipt.get("unanswered"):
                    unanswered.append(receipt)
        return unanswered

    async def _receipts(self, job_id: str) -> list[dict[str, Any]]:
        return [receipt async for receipt in self._api.receipts(job_id)]

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await ask()
            except ApiError as error:
                if error.status not in TEMPORARY:
                    raise
                self.refusals += 1
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.broken += 1
            if time.monotonic() > end:
                raise NoAnswer(f"no answer for {PATIENCE:g} s")
            await asyncio.sleep(PAUSE)


def _told(portions: Sequence[bytes], sent: Callable[[int], None]) -> Iterator[bytes]:
    """The portions, and after each how many are left."""
    for left, portion in zip(range(len(portions) - 1, -1, -1), portions, strict=True):
        yield portion
        sent(left)
