"""Three gateways with a file each, as on three machines: one rate for all, and receipts told to a webhook."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.stage import Stage, stage
from bench.world import World
from tests.gateway.webhooks.receiver import SECRET, Receiver
from tests.redis_server import RedisServer

RATE = 900.0


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[tuple[list[Stage], Receiver]]:
    """Each with simulators of its own, which count; the first has two workers, and is told to tell."""
    async with AsyncExitStack() as stack:
        redis = RedisServer(tmp_path)
        stack.callback(redis.kill)
        receiver = Receiver()
        await receiver.start()
        stack.push_async_callback(receiver.stop)
        shared = {"CARILLON_REDIS__URL": redis.url, "CARILLON_APPS__SHOP__FCM__RATE": f"{RATE:g}"}
        hook = {"url": receiver.url, "secrets": [SECRET], "private": True}
        told = {"CARILLON_APPS__SHOP__WEBHOOKS": json.dumps({"crm": hook})}
        worlds = [
            World(["fcm"], mode="quick", workers=2 if first else 1, environment=shared | (told if first else {}))
            for first in (True, False, False)
        ]
        for world in worlds:
            stack.callback(world.__exit__, None, None, None)
        await asyncio.gather(*(asyncio.to_thread(world.__enter__) for world in worlds))
        yield [await stack.enter_async_context(stage(world, "fcm")) for world in worlds], receiver


async def test_they_keep_to_one_rate_also_while_one_is_killed(
    machines: tuple[list[Stage], Receiver], long: bool
) -> None:
    stages, receiver = machines
    seconds = 60.0 if long else 3.0
    jobs = [await each.send(each.recipients(int(RATE * (seconds + 6)))) for each in stages]

    def taken() -> int:
        return sum(each.world.taken("fcm")[0] for each in stages)

    await asyncio.sleep(1.0)
    began, before = time.monotonic(), await asyncio.to_thread(taken)
    await asyncio.sleep(seconds / 2)
    for pid in stages[2].world.gateway.family():
        os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(seconds / 2)
    sent, passed = await asyncio.to_thread(taken) - before, time.monotonic() - began
    assert sent / passed == pytest.approx(RATE, rel=0.02 if long else 0.1)

    first = stages[0].api
    for job in jobs[0]:
        await first.cancel(job)
    await stages[0].finish(jobs[0])
    receipts = [receipt["id"] for job in jobs[0] async for receipt in first.receipts(job)]
    deadline = time.monotonic() + 30.0
    while len(receiver.deliveries) < len(receipts):
        assert time.monotonic() < deadline, f"told of {len(receiver.deliveries)} of {len(receipts)}"
        await asyncio.sleep(0.05)
    assert sorted(receiver.deliveries) == sorted(receipts)
