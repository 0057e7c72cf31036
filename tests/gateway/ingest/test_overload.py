"""What is sent away while the queue is full, and when it is let in again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.ingest import overload
from gateway.queue.base import QueueFull
from tests.gateway.fakes import MemoryQueue
from tests.gateway.ingest.conftest import NDJSON, Serve, document, lines, recipient


class Full(MemoryQueue):
    """Has room, or has none."""

    full = True

    async def put(self, job_id: str, batches: object) -> None:
        if self.full:
            raise QueueFull("the queue is full")
        await super().put(job_id, batches)  # type: ignore[arg-type]


def endless(sent: list[int]) -> AsyncIterator[bytes]:
    """An upload that nobody should wait for the end of."""

    async def chunks() -> AsyncIterator[bytes]:
        yield lines(recipient(0))
        for number in range(10_000):
            sent.append(number)
            yield lines(recipient(number), head=recipient(number))
            await asyncio.sleep(0.01)

    return chunks()


async def test_a_large_job_is_refused_before_its_body_is_read(serve: Serve) -> None:
    """After a refusal by the queue: at once, with 503 and a time to come back that differs from caller to caller."""
    gateway = await serve(queue=Full(), free=0)
    assert (await gateway.post(lines(recipient(0))))[0] == 503
    sent: list[int] = []
    waits = set()
    for _ in range(20):
        async with gateway.session.post("/v1/jobs", data=endless(sent), headers=NDJSON) as response:
            assert response.status == 503
            assert "full" in (await response.json(content_type=None))["detail"]
            waits.add(int(response.headers["Retry-After"]))
    assert len(sent) < 200
    assert waits <= set(range(overload.RETRY_AFTER[0], overload.RETRY_AFTER[1] + 1))
    assert len(waits) > 1


async def test_a_small_job_is_looked_at(serve: Serve) -> None:
    """It may fit where a large one did not."""
    queue = Full()
    gateway = await serve(queue=queue)
    assert (await gateway.post(document()))[0] == 503
    queue.full = False
    assert (await gateway.post(document()))[0] == 202


async def test_room_is_found_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """One large job a second is let through, and when it is stored all are."""
    monkeypatch.setattr(overload, "LOOK_AGAIN", 0.2)
    queue = Full()
    gateway = await serve(queue=queue, free=0)
    assert (await gateway.post(lines(recipient(0))))[0] == 503
    queue.full = False
    assert (await gateway.post(lines(recipient(0))))[0] == 503
    await asyncio.sleep(0.25)
    assert [(await gateway.post(lines(recipient(0))))[0] for _ in range(3)] == [202, 202, 202]
