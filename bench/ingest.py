"""One streamed request with all recipients: CPU per recipient until they are durable, and memory at most.

The job is due in an hour, so nothing but ingest runs. Lines are made while they are uploaded, so that the client needs
no memory for a million of them. At the end the job is cancelled, and every recipient has to have its receipt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from bench import report
from bench.api import DEADLINES
from bench.campaign import job, recipients
from bench.ledger import Ledger
from bench.world import World, cpus

PORTION = 1000
WARM_UP = 10_000
POLL = 0.1


def run(count: int) -> dict[str, Any]:
    """Run it and return the report."""
    gateway_cpu, other_cpu = cpus()
    with World(["apns"], mode="fast", gateway_cpu=gateway_cpu, simulator_cpu=other_cpu) as world:
        return asyncio.run(_run(count, world))


async def _run(count: int, world: World) -> dict[str, Any]:
    ledger = Ledger()
    async with aiohttp.ClientSession(timeout=DEADLINES) as session:
        api = world.api(session)
        warm_up = await api.submit(_upload(WARM_UP, 1, ledger))
        before, began = world.gateway.usage(), time.monotonic()
        answer = await api.submit(_upload(count, 2, ledger))
        wall = time.monotonic() - began
        after = world.gateway.usage()
        for job_id in (warm_up["job"], answer["job"]):
            await api.cancel(job_id)
            while not (await api.job(job_id))["finished"]:
                await asyncio.sleep(POLL)
            async for receipt in api.receipts(job_id):
                ledger.receipt(receipt)
    world.enter_taken(ledger)
    balance = ledger.balance()
    cpu = after.cpu_seconds - before.cpu_seconds
    return {
        "scenario": "ingest",
        "provider": "apns",
        "workers": 1,
        "count": count,
        "wall_seconds": round(wall, 3),
        "per_second": round(count / wall),
        "cpu_seconds": {"gateway": round(cpu, 3)},
        "gateway_cpu_us": round(cpu / count * 1e6, 2),
        "rss_mib": {"gateway": round(after.peak_mib, 1)},
        "ledger": report.ledger(balance),
        "clean": balance.clean and answer["accepted"] == count,
        **report.surroundings(),
    }


def _upload(count: int, seed: int, ledger: Ledger) -> Iterator[bytes]:
    due = datetime.now(UTC) + timedelta(hours=1)
    yield job(deliver_at=due.isoformat()) + b"\n"
    for start in range(0, count, PORTION):
        part = recipients("apns", min(PORTION, count - start), seed=seed, start=start)
        ledger.accepted(part.keys)
        yield b"".join(part.lines)
