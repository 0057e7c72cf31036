"""Stopping under load: once, twice, and with SIGKILL behind it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import pytest

from bench import recorder
from bench.caller import Caller
from bench.campaign import job, recipients
from bench.ledger import Ledger
from bench.simulators import Rule, Script
from bench.world import World

from .conftest import Evidence

ROW = "R10"
RATE = 2000
"""Deliveries a second."""
JOB_SIZE = 50
SLOW = Script((Rule(share=0.05, delay=2.0), Rule(delay=0.1)), seed=1)
"""Answers that come while the gateway drains."""
MOST_EXIT_SECONDS = 25.0
MOST_READY_SECONDS = 1.0


@dataclass
class Stops:
    """What was measured over all stops."""

    exits: list[float] = field(default_factory=list)
    unready: list[float] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    refused: int = 0
    on_wire: int = 0


@asynccontextmanager
async def load(caller: Caller, world: World, number: int) -> AsyncIterator[None]:
    """Jobs at `RATE`, whether or not the earlier ones were answered; all are answered when the block is left."""
    stop = asyncio.Event()

    async def submit() -> None:
        endpoints = world.ready["services"]["apns"]["endpoints"]
        async with asyncio.TaskGroup() as group:
            for turn in range(10_000):
                if stop.is_set():
                    return
                lane = ("promotional", "transactional")[turn % 2]
                prepared = recipients("apns", JOB_SIZE, seed=number, start=turn * JOB_SIZE, endpoints=endpoints)
                group.create_task(caller.submit(job(class_=lane), prepared))
                await asyncio.sleep(JOB_SIZE / RATE)

    submitting = asyncio.create_task(submit())
    try:
        yield
    except BaseException:
        submitting.cancel()  # what went wrong is to be told, not that nobody answers after it
        raise
    stop.set()
    await submitting


async def stops_being_ready(world: World) -> float:
    """Seconds until a probe is refused, by an answer or for want of somebody who listens."""
    began = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while await world.api(session).ready():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def refusal(world: World) -> int:
    """Status and politeness of an answer to a job while the gateway drains; 0 if nobody answers any more."""
    headers = {"Content-Type": "application/json"}
    with suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession(headers=world.credential) as session,
            session.post(f"{world.url}/v1/jobs", data=b"{}", headers=headers) as response,
        ):
            if response.status == 503:
                assert int(response.headers["Retry-After"]) > 0
                assert response.headers["Connection"] == "close"
            return response.status
    return 0


async def stop_once(world: World, stops: Stops) -> None:
    os.kill(world.gateway.pid, signal.SIGTERM)
    stops.unready.append(await stops_being_ready(world))
    async with asyncio.timeout(MOST_READY_SECONDS):
        while (status := await refusal(world)) not in (0, 503):  # by a worker that the signal has not reached yet
            await asyncio.sleep(0.01)
    stops.refused += status == 503


async def stop_twice(world: World, stops: Stops) -> None:
    await stop_once(world, stops)
    stops.on_wire += sum(recorder.freeze(pid) for pid in world.gateway.family()[1:])
    os.kill(world.gateway.pid, signal.SIGTERM)


async def stop_and_kill(world: World, stops: Stops) -> None:
    await stop_once(world, stops)
    stops.on_wire += sum(recorder.kill(pid) for pid in world.gateway.family())


WAYS: dict[str, Callable[..., object]] = {"once": stop_once, "twice": stop_twice, "killed": stop_and_kill}


@pytest.mark.timeout(600)
async def test_stopping_under_load_is_quick_and_loses_nothing(long: bool, seed: int, evidence: Evidence) -> None:
    """Not ready within a second, gone within 25; what was told 202 before ends in one receipt each after a restart."""
    chance, count = random.Random(seed), 30 if long else 3
    stops, ledger, ways = Stops(), Ledger(), [list(WAYS)[number % 3] for number in range(count)]
    with World(["apns"], mode="quick", workers=2, scripts={"apns": SLOW}) as world:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            caller = Caller(world.api(session), ledger)
            for number, way in enumerate(ways):
                async with load(caller, world, number):
                    await asyncio.sleep(chance.uniform(0.5, 1.5))
                    former = world.gateway.family()
                    began = time.monotonic()
                    await WAYS[way](world, stops)  # type: ignore[misc]
                    await asyncio.to_thread(world.gateway.wait)
                    stops.exits.append(time.monotonic() - began)
                    if way == "once":
                        stops.statuses.add(world.gateway.wait())
                    await asyncio.to_thread(world.restart_gateway, former)
            # What was in hand at two ends without a drain goes one batch at a time, so slow answers would take minutes.
            await asyncio.to_thread(world.play, "apns", Script())
            await caller.finish(caller.jobs)
            unanswered = await caller.enter_receipts(caller.jobs)
        world.enter_taken(ledger)
    ledger.duplicates_bound = stops.on_wire
    balance = ledger.balance()
    figures = {
        "seed": seed,
        "slowest exit, s": round(max(stops.exits), 2),
        "slowest to be not ready, s": round(max(stops.unready), 3),
        "jobs refused politely": caller.refusals + stops.refused,
        "on the wire when ended at once": stops.on_wire,
    }
    evidence.record(f"{count} stops at {RATE:,}/s: once, twice, then SIGKILL, in turns", figures, balance)
    assert balance.clean
    assert sum(receipt["unanswered"] for receipt in unanswered) <= stops.on_wire
    assert max(stops.exits) <= MOST_EXIT_SECONDS
    assert max(stops.unready) <= MOST_READY_SECONDS
    assert stops.statuses == {0}
