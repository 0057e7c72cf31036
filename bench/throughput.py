"""From the HTTP accept of prepared jobs to stored receipts, as fast as it goes.

The gateway has one processor, the sink and this client share another. The gateway's CPU time is taken from the
operating system between the first byte of the first counted job and the moment at which the last receipt is stored;
a warm-up job goes before. Receipts are read, and the ledger is taken, afterwards.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from bench import report
from bench.api import Api
from bench.campaign import Recipients, chunks, job, recipients
from bench.ledger import Ledger
from bench.processes import Usage
from bench.world import World, cpus

JOB_SIZE = 100_000
WARM_UP = 20_000
ORIGINS = 4
"""Of Web Push: the services that most subscriptions are of."""
UNLIMITED = "1e9"
"""FCM's default limit of 10,000 a second is a project's, not the gateway's."""
POLL = 0.1


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to run."""

    provider: str
    count: int
    workers: int = 1
    profile: str | None = None
    rtt: float = 0.0
    """Milliseconds."""


class _Measured(NamedTuple):
    wall: float
    gateway: Usage
    sink: Usage
    client_cpu: float
    rss_mib: float


def run(scenario: Scenario) -> dict[str, Any]:
    """Run it and return the report."""
    gateway_cpu, sink_cpu = cpus()
    options = ["--rtt", str(scenario.rtt)] if scenario.rtt else []
    options += ["--profile", f"{scenario.provider}={scenario.profile}"] if scenario.profile else []
    options += ["--origins", str(ORIGINS)] if scenario.provider == "webpush" else []
    world = World(
        [scenario.provider],
        mode="fast",
        workers=scenario.workers,
        simulator_options=options,
        environment={"CARILLON_APPS__SHOP__FCM__RATE": UNLIMITED} if scenario.provider == "fcm" else None,
        gateway_cpu=gateway_cpu if scenario.workers == 1 else None,
        simulator_cpu=sink_cpu,
    )
    with world:
        return asyncio.run(_run(scenario, world))


async def _run(scenario: Scenario, world: World) -> dict[str, Any]:
    endpoints = world.ready["services"][scenario.provider]["endpoints"]
    warm_up = recipients(scenario.provider, min(WARM_UP, scenario.count), seed=1, endpoints=endpoints)
    counted = recipients(scenario.provider, scenario.count, seed=2, endpoints=endpoints)
    ledger = Ledger()
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        api = world.api(session)
        warm_jobs = await _send(api, warm_up, ledger)
        await _finished(api, warm_jobs)
        measured, jobs = await _measure(api, world, counted, ledger)
        latencies = await _read_receipts(api, [*warm_jobs, *jobs], set(jobs), ledger)
    world.enter_taken(ledger)
    return _report(scenario, measured, latencies, ledger)


async def _measure(api: Api, world: World, counted: Recipients, ledger: Ledger) -> tuple[_Measured, list[str]]:
    gateway, sink = world.gateway.usage(), world.simulators.usage()
    client, began = time.process_time(), time.monotonic()
    jobs = await _send(api, counted, ledger)
    await _finished(api, jobs)
    wall = time.monotonic() - began
    return _Measured(
        wall,
        _difference(world.gateway.usage(), gateway),
        _difference(world.simulators.usage(), sink),
        time.process_time() - client,
        world.gateway.usage().peak_mib,
    ), jobs


async def _send(api: Api, prepared: Recipients, ledger: Ledger) -> list[str]:
    """One upload after the other, as a campaign system would; the gateway sends one while it takes in the next."""
    jobs = []
    for start in range(0, len(prepared.lines), JOB_SIZE):
        answer = await api.submit(chunks(job(), prepared.lines[start : start + JOB_SIZE]))
        jobs.append(answer["job"])
    ledger.accepted(prepared.keys)
    return jobs


async def _finished(api: Api, jobs: list[str]) -> None:
    for job_id in jobs:
        while not (await api.job(job_id))["finished"]:
            await asyncio.sleep(POLL)


async def _read_receipts(api: Api, jobs: list[str], counted: set[str], ledger: Ledger) -> list[float]:
    """Enter all receipts; from the counted jobs' also the time from acceptance to answer, in milliseconds."""
    latencies = []
    for job_id in jobs:
        created = (await api.job(job_id))["created_at"]
        async for receipt in api.receipts(job_id):
            ledger.receipt(receipt)
            if job_id in counted and "at" in receipt:
                latencies.append((receipt["at"] - created) * 1000)
    return latencies


def _difference(now: Usage, before: Usage) -> Usage:
    return now._replace(cpu_seconds=now.cpu_seconds - before.cpu_seconds)


def _report(scenario: Scenario, measured: _Measured, latencies: list[float], ledger: Ledger) -> dict[str, Any]:
    balance = ledger.balance()
    return {
        "scenario": "throughput",
        "provider": scenario.provider,
        "workers": scenario.workers,
        "count": scenario.count,
        "wall_seconds": round(measured.wall, 3),
        "per_second": round(scenario.count / measured.wall),
        "cpu_seconds": {
            "gateway": round(measured.gateway.cpu_seconds, 3),
            "sink": round(measured.sink.cpu_seconds, 3),
            "client": round(measured.client_cpu, 3),
        },
        "gateway_cpu_us": round(measured.gateway.cpu_seconds / scenario.count * 1e6, 2),
        "sink_utilisation": round(measured.sink.cpu_seconds / measured.wall, 2),
        "latency_ms": report.latency(latencies),
        "rss_mib": {"gateway": round(measured.rss_mib, 1)},
        "ledger": report.ledger(balance),
        "clean": balance.clean,
        **report.surroundings(),
    }
