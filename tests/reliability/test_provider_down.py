"""A push service that is gone for a while, and callers who go on: what the gateway keeps, refuses, and makes up for.

The service either takes connections and says nothing (its process is stopped), or refuses them. Jobs come as fast as
they are taken in until the queue is full; then callers are told when to come back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from typing import Any, Literal

import aiohttp
import pytest

from bench.campaign import Recipients, chunks, job, recipients
from bench.ledger import Ledger
from bench.world import CONTROL_DEADLINE, World

from .conftest import Evidence

ROW = "R11"

JOB_SIZE = 2000
SAMPLE = 0.25
MOST_RECOVERY_SECONDS = 30.0
MOST_RSS_MIB = 256.0
"""Of the worker: 96 MiB in hand, 64 MiB of uploads, and what a worker has that does nothing."""

Outage = Literal["black hole", "refused"]
pytestmark = pytest.mark.timeout(1200)


class Run:
    """One gateway with one worker, its service, and a caller."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self.world = world
        self.ledger = Ledger()
        self.jobs: list[str] = []
        self.refusals: list[int] = []
        """What `Retry-After` said, each time."""
        self.rss = 0.0
        self._session = session
        self._api = world.api(session)
        self._number = 0

    def recipients(self, count: int) -> Recipients:
        self._number += 1
        return recipients("apns", count, seed=self._number, endpoints=self.world.ready["services"]["apns"]["endpoints"])

    async def submit(self, prepared: Recipients) -> int | None:
        """None once the job is taken; else the seconds to wait."""
        body = b"".join(chunks(job(on_unknown="resend"), prepared.lines))
        headers = {"Content-Type": "application/x-ndjson"}
        async with self._session.post(f"{self.world.url}/v1/jobs", data=body, headers=headers) as response:
            answer = json.loads(await response.read())
            if response.status == 202:
                self.jobs.append(answer["job"])
                self.ledger.accepted(prepared.keys)
                return None
            assert response.status == 503, answer
            self.refusals.append(int(response.headers["Retry-After"]))
            return self.refusals[-1]

    async def watch(self) -> None:
        while True:
            self.rss = max(self.rss, self.world.gateway.usage().peak_mib)
            await asyncio.sleep(SAMPLE)

    async def finish(self, jobs: list[str], seconds: float = 300.0) -> None:
        async with asyncio.timeout(seconds):
            for job_id in jobs:
                while not (await self._api.job(job_id))["finished"]:
                    await asyncio.sleep(0.2)

    async def balance(self) -> Any:
        for job_id in self.jobs:
            async for receipt in self._api.receipts(job_id):
                self.ledger.receipt(receipt)
                self.ledger.duplicates_bound += receipt.get("unanswered", 0)
        await asyncio.to_thread(self.world.enter_taken, self.ledger)
        return self.ledger.balance()

    async def baseline(self, count: int) -> float:
        """Receipts a second of so many recipients, when all is well."""
        began, before = time.monotonic(), len(self.jobs)
        for _ in range(count // JOB_SIZE):
            assert await self.submit(self.recipients(JOB_SIZE)) is None
        await self.finish(self.jobs[before:])
        return count / (time.monotonic() - began)

    async def press_on(self, seconds: float) -> None:
        """Submit as fast as jobs are taken; once they are not, look every half second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if await self.submit(self.recipients(JOB_SIZE)) is not None:
                await asyncio.sleep(0.5)

    async def outage(self, kind: Outage, seconds: float) -> float:
        """Have it, and return when it was over."""
        if kind == "refused":
            restart = json.dumps({"seconds": seconds}).encode()
            deadline = seconds + CONTROL_DEADLINE
            lasting = asyncio.to_thread(self.world.control, "POST", "restart?service=apns", restart, deadline)
            await asyncio.gather(lasting, self.press_on(seconds))
            return time.monotonic()
        os.kill(self.world.simulators.pid, signal.SIGSTOP)
        try:
            await self.press_on(seconds)
        finally:
            os.kill(self.world.simulators.pid, signal.SIGCONT)
        return time.monotonic()


async def attack(world: World, kind: Outage, seconds: float, warm: int) -> tuple[Run, dict[str, Any]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120), headers=world.credential) as session:
        run = Run(world, session)
        await run.baseline(warm)
        watching = asyncio.create_task(run.watch())
        baseline = await run.baseline(2 * warm)
        accepted = run.ledger.balance().accepted
        end = await run.outage(kind, seconds)
        queued = run.ledger.balance().accepted - accepted
        await run.finish(run.jobs)
        drained = time.monotonic() - end
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        figures = {
            "outage_s": seconds,
            "queued": queued,
            "refusals": len(run.refusals),
            "retry_after_s": (min(run.refusals, default=0), max(run.refusals, default=0)),
            "rss_mib": round(run.rss, 1),
            "baseline_per_s": round(baseline),
            "drained_after_s": round(drained, 1),
            # What it took beyond the time that nine tenths of the baseline would have needed.
            "recovered_after_s": round(max(0.0, drained - queued / (0.9 * baseline)), 1),
        }
        return run, figures | {"balance": await run.balance()}


@pytest.mark.parametrize("kind", ["black hole", "refused"])
async def test_an_outage_is_waited_for(kind: Outage, long: bool, evidence: Evidence) -> None:
    """Memory stays bounded, callers are told to come back, and soon after all is as before, with nothing lost."""
    # Long, all is well for seconds before it: the rate that recovery leads to is measured over one.
    # Short, a black hole lasts until a PING asks into it; what refuses is looked at after 1, 3, 7, 15 and 31 s.
    short = 12.0 if kind == "black hole" else 5.0
    seconds, room, warm = (600.0, 500_000, 200_000) if long else (short, 20_000, 4_000)
    with World(["apns"], mode="fast", environment={"CARILLON_QUEUE__HIGH_WATER": str(room)}) as world:
        run, figures = await attack(world, kind, seconds, warm)
    balance = figures.pop("balance")
    evidence.record(f"{kind} for {seconds:g} s, {figures['queued']} queued", figures, balance)
    print(kind, figures, balance)
    assert balance.clean, balance
    assert figures["queued"] > 0.9 * room - JOB_SIZE
    assert run.refusals, "the queue was never full"
    assert min(run.refusals) >= 1
    assert figures["rss_mib"] <= MOST_RSS_MIB
    assert figures["recovered_after_s"] <= MOST_RECOVERY_SECONDS
