"""Whether a notification costs the same when there is more of something: queued, connections, workers.

Each point has a world of its own and the whole path in it, from HTTP accept to stored receipt; `ratio` is the cost at
the last point against the first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench import report
from bench.campaign import job, recipients
from bench.ledger import Balance
from bench.stage import Measured, Stage, stage
from bench.throughput import Scenario, world
from bench.world import World

SHALLOW = 10_000
PORTION = 1000
CONNECTIONS = (1, 4, 16, 64, 256)
STREAMS = 50
TARGET_RATE = 60_000
"""Notifications a second that all connections together can carry: half of what a core does, so that the gateway has
time for more connections and opens and uses all of them."""
WORKERS = (1, 2)


def by_depth(count: int, deep: int) -> dict[str, Any]:
    """One job of `deep` recipients against jobs of 10,000, `count` in all; each is queued whole before it is sent."""
    return _report("depth", [_depth(size, max(1, count // size)) for size in (min(SHALLOW, deep), deep)])


def by_connections(count: int, most: int) -> dict[str, Any]:
    """Connections that are all in use: each has 50 streams, and a round trip that makes so many of them needed."""
    points = []
    for number in CONNECTIONS:
        if number <= most:
            rtt = 1000 * number * STREAMS / TARGET_RATE
            scenario = Scenario(provider="apns", count=count, rtt=rtt, streams=STREAMS, connections=number)
            points.append(_point(number, scenario))
    return _report("connections", points)


def by_workers(count: int) -> dict[str, Any]:
    """Processes that share one queue."""
    return _report("workers", [_point(n, Scenario(provider="apns", count=count, workers=n)) for n in WORKERS])


def _point(at: int, scenario: Scenario) -> dict[str, Any]:
    with world(scenario) as running:
        return asyncio.run(_measure(at, scenario, running))


async def _measure(at: int, scenario: Scenario, running: World) -> dict[str, Any]:
    async with stage(running, "apns") as on:
        jobs = await on.warm_up(scenario.count, scenario.limit or 1)
        counted = await on.measure(on.recipients(scenario.count))
        connections = await on.connections()
        await on.enter_receipts([*jobs, *counted.jobs])
    running.enter_taken(on.ledger)
    return {"at": at, "connections": connections, **_figures(counted, on.ledger.balance())}


def _depth(size: int, jobs: int) -> dict[str, Any]:
    with world(Scenario(provider="apns", count=size)) as running:
        return asyncio.run(_drain(size, jobs, running))


async def _drain(size: int, jobs: int, running: World) -> dict[str, Any]:
    """Counts instead of names, as the names of ten million recipients would fill this process's memory."""
    async with stage(running, "apns") as on:
        ended = await _send_and_finish(on, SHALLOW, 1)
        meter = on.meter()
        for number in range(jobs):
            ended += await _send_and_finish(on, size, number + 2)
        counted = meter.read(size * jobs, [])
    return {"at": size, **_figures(counted, _balance(SHALLOW + size * jobs, ended, *running.taken("apns")))}


async def _send_and_finish(on: Stage, size: int, seed: int) -> Counter[str]:
    """One job, made while it is uploaded; its deliveries by state at the end."""
    answer = await on.api.submit(_upload(size, seed))
    await on.finish([answer["job"]])
    return Counter((await on.api.job(answer["job"]))["counts"])


def _upload(size: int, seed: int) -> Iterator[bytes]:
    yield job() + b"\n"
    for start in range(0, size, PORTION):
        yield b"".join(recipients("apns", min(PORTION, size - start), seed=seed, start=start).lines)


def _balance(accepted: int, ended: Counter[str], taken: int, duplicates: int) -> Balance:
    terminal = ended.total() - ended["pending"]
    return Balance(
        accepted=accepted,
        receipts=terminal,
        missing=accepted - ended.total() + max(0, ended["accepted"] - taken),
        extra=max(0, taken - ended["accepted"]),
        non_terminal=ended["pending"],
        duplicates=duplicates,
        duplicates_bound=0,
    )


def _figures(counted: Measured, balance: Balance) -> dict[str, Any]:
    return {**report.cost(counted), "ledger": report.ledger(balance), "clean": balance.clean}


def _report(by: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = points[0], points[-1]
    return {
        "scenario": f"scale --{by}",
        "provider": "apns",
        "count": sum(point["ledger"]["accepted"] for point in points),
        "points": points,
        "ratio": round(last["gateway_cpu_us"] / first["gateway_cpu_us"], 3),
        "rss_mib": {"gateway": max(point["rss_mib"]["gateway"] for point in points)},
        "clean": all(point["clean"] for point in points),
        **report.surroundings(),
    }
