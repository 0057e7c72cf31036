"""Webhooks that run on a queue of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Route, State
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.queue.base import DeadTarget
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from gateway.webhooks import courier
from gateway.webhooks.service import Standing, Webhooks
from gateway.webhooks.settings import Webhook
from tests.gateway.queue.samples import batch, room, stored
from tests.gateway.webhooks.receiver import (
    SECRET,
    Behaviour,
    Receiver,
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "LOOK", 0.02)
    monkeypatch.setattr(courier, "FIRST_WAIT", 0.04)
    monkeypatch.setattr(courier, "LONGEST_WAIT", 0.2)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "queue.db", owner="test")
    await queue.open()
    yield queue
    await queue.close()


class Told:
    """A gateway's webhooks, running."""

    def __init__(self, webhooks: Webhooks, readiness: Readiness) -> None:
        self.webhooks = webhooks
        self.readiness = readiness

    async def standing(self, name: str = "crm", app: str = "shop") -> Standing:
        return await self.webhooks.standing(app, name)


Tell = Callable[..., Awaitable[Told]]
Receive = Callable[..., Awaitable[Receiver]]


@pytest.fixture
async def receive() -> AsyncIterator[Receive]:
    started: list[Receiver] = []

    async def start(behave: Behaviour | None = None, **options: Any) -> Receiver:
        started.append(Receiver(behave, **options))
        await started[-1].start()
        return started[-1]

    yield start
    for receiver in started:
        await receiver.stop()


@pytest.fixture
async def tell(queue: SqliteQueue, tmp_path: Path) -> AsyncIterator[Tell]:
    """Runs the webhooks of an app; may be called again, as after a restart."""
    stack = AsyncExitStack()
    running: list[asyncio.Task[None]] = []

    async def start(receiver: Receiver | None = None, app: str = "shop", **changes: Any) -> Told:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        running.clear()
        await stack.aclose()
        options: dict[str, Any] = {"secrets": [SECRET], "private": True, "timeout": 10.0} | changes
        if receiver is not None:
            options["url"] = receiver.url
        metrics = Metrics(tmp_path / "metrics", "worker-0", {})
        stack.callback(metrics.close)
        readiness = Readiness()
        webhooks = Webhooks(
            {app: {"crm": Webhook(**options)}},
            queue.database,
            ReceiptStore(queue.database),
            metrics,
            readiness,
            tmp_path / "turn",
        )
        await webhooks.start(stack)
        running.append(asyncio.create_task(webhooks.run()))
        return Told(webhooks, readiness)

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await stack.aclose()


async def ended(queue: SqliteQueue, *sizes: int, app: str = "shop", dead: tuple[DeadTarget, ...] = ()) -> list[str]:
    """Ids of the deliveries of a job that has ended."""
    await stored(queue, *(batch(size, Route(app, "apns")) for size in sizes), app=app)
    for _ in sizes:
        (lease,) = await queue.lease(room(batches=1), time.time())
        lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
        await queue.complete(lease, dead, time.time())
    page = await ReceiptStore(queue.database).feed(0, 1_000_000)
    return [receipt.id for receipt in page.receipts if receipt.app == app]


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.02)
