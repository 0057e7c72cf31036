"""How long a transactional notification takes, on an idle gateway and while a promotional blast runs at full speed.

Open loop: notifications are due at fixed instants, whether or not the one before has been answered, and each counts
from the instant at which it was due. So a gateway that stalls is charged for everything it kept waiting (what
HdrHistogram calls coordinated omission), and nothing has to be corrected afterwards. The end is when the service's
simulator has read the request, by the same monotonic clock; the client, its connection and the simulator's own delay
are in the figure too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bench import report
from bench.campaign import chunks, job
from bench.poster import Poster
from bench.stage import WARM_UP, Stage, stage
from bench.throughput import Scenario, world
from bench.world import World, cpus

RATE = 200.0
"""Notifications a second."""
WARM_UP_SECONDS = 2.0


class Probe(NamedTuple):
    """A notification that was accepted; times are monotonic seconds."""

    due: float
    accepted: float
    job: str


def run(seconds: float, blast: int = 0) -> dict[str, Any]:
    """Run it and return the report. With `blast`, for as long as a blast of so many takes."""
    with (
        world(Scenario(provider="apns", count=blast)) as running,
        _bound(cpus()[1]),
        asyncio.Runner(loop_factory=_loop) as runner,
    ):
        return runner.run(_run(running, seconds, blast))


@contextmanager
def _bound(cpu: int | None) -> Iterator[None]:
    """This process on the sink's processor, so that it does not disturb the gateway."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, former if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without a collection: among a blast's million recipients one takes longer than what is measured, and takes the
    sink's processor from the sink."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _loop() -> asyncio.AbstractEventLoop:
    """select(2) waits for microseconds where epoll rounds up to milliseconds: half of what is measured here."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(running: World, seconds: float, blast: int) -> dict[str, Any]:
    async with stage(running, "apns") as at:
        clerk = _Clerk(at, poster := Poster(at.api.url, at.api.credential))
        await clerk.probe(WARM_UP_SECONDS)
        extra: dict[str, Any] = {}
        if blast:
            await clerk.blast(min(blast, WARM_UP))
            alone = [await clerk.blast(blast)]
            gateway = running.gateway.usage()
            shared, probes = await clerk.blast_probed(blast)
            used = running.gateway.usage()
            alone.append(await clerk.blast(blast))
            extra = _loss(blast, alone, shared)
        else:
            gateway = running.gateway.usage()
            probes = await clerk.probe(seconds)
            used = running.gateway.usage()
        figures = await clerk.figures(probes)
        await clerk.enter_receipts()
        poster.close()
    running.enter_taken(at.ledger)
    balance = at.ledger.balance()
    return {
        "scenario": "latency",
        "provider": "apns",
        "workers": 1,
        "count": len(probes),
        "rate": RATE,
        "blast": blast,
        **extra,
        **figures,
        "gateway_cpu_us": round((used.cpu_seconds - gateway.cpu_seconds) / (len(probes) + blast) * 1e6, 2),
        "cpu_seconds": {"gateway": round(used.cpu_seconds - gateway.cpu_seconds, 3)},
        "rss_mib": {"gateway": round(used.peak_mib, 1)},
        "ledger": report.ledger(balance),
        "clean": balance.clean,
        **report.surroundings(),
    }


def _loss(blast: int, alone: list[float], shared: float) -> dict[str, Any]:
    before_and_after = sum(alone) / len(alone)
    return {
        "blast_seconds": {"alone": [round(wall, 3) for wall in alone], "probed": round(shared, 3)},
        "blast_per_second": {"alone": round(blast / before_and_after), "probed": round(blast / shared)},
        "blast_loss": round(1 - before_and_after / shared, 4),
    }


class _Clerk:
    """Sends probes and blasts, and remembers their jobs."""

    def __init__(self, at: Stage, poster: Poster) -> None:
        self._at = at
        self._poster = poster
        self._jobs: list[str] = []
        self._number = 0

    async def probe(self, seconds: float) -> list[Probe]:
        """Probes for so long."""
        with _uncollected():
            end = time.monotonic() + seconds
            return await self._probe(lambda: time.monotonic() >= end)

    async def _probe(self, ended: Callable[[], bool]) -> list[Probe]:
        tasks: list[asyncio.Task[Probe]] = []
        began = time.monotonic()
        while not (tasks and ended()):  # one at least
            due = began + len(tasks) / RATE
            await asyncio.sleep(due - time.monotonic())
            tasks.append(asyncio.create_task(self._send(due)))
        return list(await asyncio.gather(*tasks))

    async def _send(self, due: float) -> Probe:
        self._number += 1
        recipient = f"otp-{self._number}"
        document = {
            "app": "shop",
            "class": "transactional",
            "ttl": "10m",
            "message": {"title": "Your code", "body": "{{code}} is your code. It is good for ten minutes."},
            "recipients": [
                {"id": recipient, "provider": "apns", "token": f"{self._number:064x}", "vars": {"code": str(due)}}
            ],
        }
        answer = await self._poster.submit_document(json.dumps(document).encode())
        self._at.ledger.accepted({recipient: None})
        self._jobs.append(answer["job"])
        return Probe(due, time.monotonic(), answer["job"])

    async def blast(self, count: int) -> float:
        """Seconds from a blast's acceptance to its last answer."""
        return await self._answered(await self._submit(count))

    async def blast_probed(self, count: int) -> tuple[float, list[Probe]]:
        """The same, with probes as long as it lasts."""
        with _uncollected():
            submitted = await self._submit(count)
            finished = asyncio.create_task(self._at.finish([submitted.job]))
            probes = await self._probe(finished.done)
            await finished
        return await self._answered(submitted), probes

    async def _submit(self, count: int) -> _Blast:
        prepared = self._at.recipients(count)
        answer = await self._at.api.submit(chunks(job(), prepared.lines))
        self._at.ledger.accepted(prepared.keys)
        return _Blast(answer["job"], time.time())

    async def _answered(self, blast: _Blast) -> float:
        await self._at.finish([blast.job])
        ages = await self._at.enter_receipts([blast.job])
        created: float = (await self._at.api.job(blast.job))["created_at"]
        return created + max(ages) / 1000 - blast.accepted

    async def figures(self, probes: list[Probe]) -> dict[str, Any]:
        """Latencies of probes, in milliseconds: to the wire, and to the caller's 202."""
        await self._at.finish([probe.job for probe in probes])
        ids = [receipt["id"] for probe in probes async for receipt in self._at.api.receipts(probe.job)]
        arrivals = self._at.world.arrivals("apns", ids)
        on_wire = [(arrivals[key] - probe.due) * 1000 for probe, key in zip(probes, ids, strict=True)]
        return {
            "latency_ms": report.latency(on_wire),
            "accepted_ms": report.latency([(probe.accepted - probe.due) * 1000 for probe in probes]),
            "distribution_ms": report.distribution(on_wire),
        }

    async def enter_receipts(self) -> None:
        """Of all probes so far."""
        await self._at.enter_receipts(self._jobs)


class _Blast(NamedTuple):
    """A promotional job of many recipients."""

    job: str
    accepted: float
    """UNIX seconds of its 202."""
