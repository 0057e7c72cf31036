"""Queues on a file of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.queue.sqlite import SqliteQueue
from tests.gateway.queue.contract import HIGH_WATER, LEASE_SECONDS, SLOTS, Clock, Opener


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_queue(path: Path, clock: Clock) -> AsyncIterator[Opener]:
    queues = []

    async def opener(owner: str) -> SqliteQueue:
        queue = SqliteQueue(
            path, owner=owner, lease_seconds=LEASE_SECONDS, high_water=HIGH_WATER, slots=SLOTS, uptime=clock
        )
        await queue.open()
        queues.append(queue)
        return queue

    yield opener
    for queue in queues:
        await queue.close()


@pytest.fixture
async def queue(open_queue: Opener) -> SqliteQueue:
    queue = await open_queue("first")
    assert isinstance(queue, SqliteQueue)
    return queue
