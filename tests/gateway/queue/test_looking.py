"""An idle worker leaves the file alone, and misses nothing that changes in it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.queue.sqlite import SqliteQueue
from tests.gateway.queue.contract import LEASE_SECONDS, Clock, Opener, stored
from tests.gateway.queue.samples import NOW, batch, room


@pytest.fixture
def asked(queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the queue asked of its file."""
    calls: list[str] = []
    for name in ("read", "write"):
        original = getattr(queue.database, name)

        def ask(*args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            calls.append(_name)
            return _original(*args, **options)

        monkeypatch.setattr(queue.database, name, ask)
    return calls


async def test_what_did_not_change_is_not_asked_again(queue: SqliteQueue, asked: list[str]) -> None:
    cursor, _ = await queue.cancelled(0)
    assert await queue.lease(room(), NOW) == []
    asked.clear()
    for _ in range(5):
        assert await queue.lease(room(), NOW) == []
        assert await queue.cancelled(cursor) == (cursor, [])
    assert asked == []


async def test_what_another_process_stores_is_seen(queue: SqliteQueue, open_queue: Opener) -> None:
    other = await open_queue("second")
    assert await queue.lease(room(), NOW) == []
    new = await stored(other, batch())
    cursor, _ = await queue.cancelled(0)
    (lease,) = await queue.lease(room(), NOW)
    assert lease.job.id == new.id
    assert await other.cancel(new.id, NOW)
    assert (await queue.cancelled(cursor))[1] == [new.id]
    assert (await queue.cancelled(0))[1] == [new.id], "an older cursor sees it as well"


async def test_what_there_was_no_room_for_is_asked_for_again(queue: SqliteQueue) -> None:
    await stored(queue, batch())
    assert await queue.lease(room(batches=0), NOW) == []
    assert len(await queue.lease(room(), NOW)) == 1


@pytest.mark.parametrize("wait", [5.0, 50.0])
async def test_what_is_due_without_a_change_is_seen(
    queue: SqliteQueue, clock: Clock, asked: list[str], wait: float
) -> None:
    """A scheduled job by the wall clock, what was put off by the queue's."""
    await stored(queue, batch(), deliver_at=NOW + 100 * wait)
    await stored(queue, batch())
    (lease,) = await queue.lease(room(), NOW)
    await queue.defer(lease, wait, [], NOW)
    assert await queue.lease(room(), NOW) == []
    asked.clear()
    assert await queue.lease(room(), NOW) == []
    assert asked == []
    clock.now += wait
    assert len(await queue.lease(room(), NOW)) == 1
    assert await queue.lease(room(), NOW) == []
    assert len(await queue.lease(room(), NOW + 100 * wait)) == 1


async def test_leases_that_run_out_are_seen(queue: SqliteQueue, open_queue: Opener, clock: Clock) -> None:
    other = await open_queue("second")
    await stored(queue, batch())
    assert len(await other.lease(room(), NOW)) == 1
    assert await queue.lease(room(), NOW) == []
    clock.now += LEASE_SECONDS
    assert len(await queue.lease(room(), NOW)) == 1
