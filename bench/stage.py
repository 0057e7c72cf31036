"""A world with a client at hand, who sends prepared campaigns and measures what they cost."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp

from bench.api import DEADLINES, Api
from bench.campaign import Recipients, chunks, job, recipients
from bench.ledger import Ledger
from bench.processes import Child, ProcessFailed
from bench.world import World

JOB_SIZE = 100_000
WARM_UP = 20_000
POLL = 0.05
PATIENCE = 0.02
"""Of the time waited so far: how much later than the end it may notice it."""
STALLED = 60.0
"""Seconds without a receipt after which nobody waits for the next one."""
MOST_WARM_UPS = 20
"""To reach the connections asked for; a gateway that is busy with fewer opens no more."""

_OPEN = re.compile(r'^carillon_connections\{[^}]*state="open"[^}]*\} (\S+)', re.MULTILINE)


class Measured(NamedTuple):
    """What a campaign cost, from the first byte of its upload until its last receipt was stored."""

    notifications: int
    wall: float
    gateway_seconds: float
    sink_seconds: float
    client_seconds: float
    rss_mib: float
    """The gateway's largest process at most, since it was started."""
    jobs: list[str]

    @property
    def gateway_cpu_us(self) -> float:
        return self.gateway_seconds / self.notifications * 1e6


class Meter:
    """Clocks of all processes, read when it is made."""

    def __init__(self, world: World, sink: Child) -> None:
        self._world = world
        self._sink = sink
        self._gateway, self._answering = world.gateway.usage(), sink.usage()
        self._client, self._began = time.process_time(), time.monotonic()

    def read(self, notifications: int, jobs: list[str]) -> Measured:
        """What was used since then."""
        wall = time.monotonic() - self._began
        gateway, answering = self._world.gateway.usage(), self._sink.usage()
        return Measured(
            notifications,
            wall,
            gateway.cpu_seconds - self._gateway.cpu_seconds,
            answering.cpu_seconds - self._answering.cpu_seconds,
            time.process_time() - self._client,
            gateway.peak_mib,
            jobs,
        )


class Stage:
    """Sends campaigns, each of new recipients, and keeps their ledger."""

    def __init__(self, world: World, api: Api, provider: str, sink: Child | None = None) -> None:
        """`sink` is the process that answers where it is not the simulators'."""
        self.world = world
        self.api = api
        self.ledger = Ledger()
        self._provider = provider
        self._sink = sink or world.simulators
        self._seed = 0

    def recipients(self, count: int) -> Recipients:
        """Recipients that were never sent to before."""
        self._seed += 1
        endpoints = self.world.ready["services"][self._provider]["endpoints"]
        return recipients(self._provider, count, seed=self._seed, endpoints=endpoints)

    async def warm_up(self, count: int, connections: int = 1) -> list[str]:
        """Send until everything was done once and so many connections are open, as far as the gateway wants them."""
        jobs = await self.send(self.recipients(min(WARM_UP, count)))
        await self.finish(jobs)
        for _ in range(MOST_WARM_UPS if connections > 1 else 0):
            if await self.connections() >= connections:
                break
            jobs += (more := await self.send(self.recipients(WARM_UP)))
            await self.finish(more)
        return jobs

    async def connections(self) -> int:
        """How many the gateway says are open; it counts them once a second."""
        return sum(int(float(value)) for value in _OPEN.findall(await self.api.metrics()))

    def meter(self) -> Meter:
        """Starts to measure."""
        return Meter(self.world, self._sink)

    async def measure(self, prepared: Recipients) -> Measured:
        meter = self.meter()
        jobs = await self.send(prepared)
        await self.finish(jobs)
        return meter.read(len(prepared.lines), jobs)

    async def send(self, prepared: Recipients) -> list[str]:
        """One upload after the other, as a campaign system would; the gateway sends one while it takes in the next."""
        jobs = []
        for start in range(0, len(prepared.lines), JOB_SIZE):
            answer = await self.api.submit(chunks(job(), prepared.lines[start : start + JOB_SIZE]))
            jobs.append(answer["job"])
        self.ledger.accepted(prepared.keys)
        return jobs

    async def finish(self, jobs: list[str]) -> None:
        """Wait until all receipts are stored. Asks less often the longer it takes: an answer costs the gateway.

        Raises:
            ProcessFailed: there was none for `STALLED` seconds.
        """
        began = moved = time.monotonic()
        counts = None
        for job_id in jobs:
            while not (status := await self.api.job(job_id))["finished"]:
                now = time.monotonic()
                if status["counts"] != counts:
                    counts, moved = status["counts"], now
                elif now - moved > STALLED:
                    raise ProcessFailed(f"no receipt for {STALLED:g} s; the gateway says: {await self.api.readiness()}")
                await asyncio.sleep(max(POLL, (now - began) * PATIENCE))

    async def enter_receipts(self, jobs: list[str]) -> list[float]:
        """Enter all receipts into the ledger; from acceptance to answer, in milliseconds."""
        latencies = []
        for job_id in jobs:
            created = (await self.api.job(job_id))["created_at"]
            async for receipt in self.api.receipts(job_id):
                self.ledger.receipt(receipt)
                if "at" in receipt:
                    latencies.append((receipt["at"] - created) * 1000)
        return latencies


@asynccontextmanager
async def stage(world: World, provider: str, sink: Child | None = None) -> AsyncIterator[Stage]:
    """A stage in a running world."""
    async with aiohttp.ClientSession(timeout=DEADLINES) as session:
        yield Stage(world, world.api(session), provider, sink)
