"""What is in the topics: large jobs, uploads that break off, work that waits for long."""

from __future__ import annotations

import asyncio

from gateway.kafka.queue import KafkaQueue
from gateway.kafka.records import RECORD_BYTES
from gateway.model import Route, State, new_batch_id
from gateway.queue.base import Idempotency, NewBatch
from gateway.shared.base import Orphan
from tests.gateway.kafka.machines import Machines, both_belong, leased
from tests.gateway.kafka.sharing import Sharing
from tests.gateway.queue.samples import NOW, batch, job, room, stored

WIDE = 60_000
"""Bytes of a variable."""


def wide(count: int) -> NewBatch:
    """A batch that is larger than a record may be, for more than a dozen recipients."""
    lines = [b"%d-" % number + b"x" * WIDE for number in range(count)]
    return NewBatch(
        id=new_batch_id(),
        route=Route("shop", "apns"),
        count=count,
        recipients=b"\n".join(b"user-%d" % number for number in range(count)),
        columns=(b"\n".join(b"token-%d" % number for number in range(count)), b"\n".join(lines), b"\n" * (count - 1)),
    )


async def test_a_large_batch_is_divided_and_nothing_of_it_lost(machines: Machines) -> None:
    """Over several records, of a job that is seen as a whole: each recipient once, in its order, with its columns."""
    queue = await machines.start("one")
    await both_belong(queue)
    count = 3 * RECORD_BYTES // WIDE
    new = job()
    await queue.begin(new, None)
    await queue.put(new.id, [wide(count)])
    assert await queue.lease(room(), NOW) == []
    await queue.seal(new.id, [], b"", b"{}")
    found = await leased(queue, count=4)
    assert len({lease.batch_id for lease in found}) == len(found) == 4
    rows = sorted(
        (int(token.removeprefix(b"token-")), variable.partition(b"-")[0], len(variable))
        for lease in found
        for token, variable in zip(lease.columns[0].split(b"\n"), lease.columns[1].split(b"\n"), strict=True)
    )
    assert rows == [(number, b"%d" % number, WIDE + len(b"%d-" % number)) for number in range(count)]
    assert {lease.count for lease in found} == {len(lease.columns[2].split(b"\n")) for lease in found}


async def test_an_upload_that_breaks_off_leaves_nothing_in_a_topic(machines: Machines) -> None:
    """Not even when its process dies: a job that comes later is all that there is."""
    queue = await machines.start("one")
    await both_belong(queue)
    broken, given_up = job(), job()
    for new in (broken, given_up):
        await queue.begin(new, None)
        await queue.put(new.id, [batch(3)])
    await queue.abandon(given_up.id)
    await machines.stop(queue)
    again = await machines.start("one")
    await both_belong(again)
    later = await stored(again, batch(1))
    assert {lease.job.id for lease in await leased(again, count=1)} == {later.id}
    assert (await again.depth())[:2] == (1, 1)


async def test_what_waits_for_long_leaves_its_record_behind(machines: Machines) -> None:
    """The offset goes on, and whoever comes next, with another disk, has the work and what was answered of it."""
    queue = await machines.start("one")
    await both_belong(queue)
    await stored(queue, batch(3))
    (lease,) = await leased(queue, count=1)
    lease.progress.states[0] = State.ACCEPTED
    await queue.defer(lease, 3600.0, [], NOW)
    scheduled = await stored(queue, batch(2), deliver_at=NOW + 3600)
    async with asyncio.timeout(10):
        while (await queue.depth()).batches < 2:
            await asyncio.sleep(0.02)
    mirror = queue.mirror
    assert mirror is not None
    await mirror.move_now()
    assert mirror.open_records == 0
    await queue.published()
    await asyncio.sleep(1.2)  # until the offsets are committed
    await machines.stop(queue)
    again = await machines.start("one", disk="new")
    await both_belong(again)
    assert (await again.depth())[:2] == (2, 5)
    (found,) = await again.lease(room(), NOW)  # who has it next looks for itself whether it still has to wait
    assert found.batch_id == lease.batch_id
    assert bytes(found.progress.states) == bytes([State.ACCEPTED, State.PENDING, State.PENDING])
    assert {each.job.id for each in await again.lease(room(), NOW + 3601)} == {scheduled.id}


async def test_a_key_whose_holder_was_lost_is_one_job(machines: Machines) -> None:
    """Whoever began with the key had stored the job when it died: the repeat is the same job, stored once."""
    queue = await machines.start("one")
    await both_belong(queue)
    key, put = Idempotency("key", b"f"), batch(2)
    lost = job()
    assert isinstance(queue.shared, Sharing)
    settle, queue.shared.settle = queue.shared.settle, _nothing  # type: ignore[method-assign]
    assert await queue.submit(lost, key, [put], lost.id.encode()) is None
    queue.shared.settle = settle  # type: ignore[method-assign]
    queue.shared.orphan("key", Orphan(lost.id))
    repeat = job()
    answer = await queue.submit(repeat, key, [put], b"the job is " + repeat.id.encode())
    assert answer == (lost.id, b"f", b"the job is " + lost.id.encode())
    (lease,) = await leased(queue, count=1)
    await asyncio.sleep(0.3)
    assert lease.job.id == lost.id
    assert await _rest(queue) == []


async def _rest(queue: KafkaQueue) -> list[object]:
    return [*await queue.lease(room(), NOW)]


async def _nothing(job_id: str, idempotency: Idempotency, answer: bytes) -> None: ...
