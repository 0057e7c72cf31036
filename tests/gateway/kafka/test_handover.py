"""Two machines in one group: what goes from one to the other when partitions do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.kafka import store
from gateway.kafka.queue import KafkaQueue
from gateway.model import Job, Lane, Note, State, delivery_prefix
from gateway.queue.base import Lease, NewBatch
from tests.gateway.kafka.machines import Machines, both_belong, leased
from tests.gateway.queue.samples import NOW, batch, room, stored


class Holder:
    """A `Taker` that gives back what it has when it is told to, if it can."""

    def __init__(self, queue: KafkaQueue, *, hangs: bool = False) -> None:
        self.queue = queue
        self.hangs = hangs
        self.leases: list[Lease] = []
        self.tasks: list[asyncio.Task[None]] = []

    def wants(self, job: Job, batches: Sequence[NewBatch]) -> bool:
        return False

    def take(self, leases: Sequence[Lease]) -> None:
        raise AssertionError("nothing was wanted")

    def wake(self) -> None: ...

    def go_on(self) -> None: ...

    def recall(self) -> None:
        if not self.hangs:
            self.tasks.append(asyncio.get_running_loop().create_task(self._give_back()))

    async def _give_back(self) -> None:
        while self.leases:
            await self.queue.defer(self.leases.pop(), 0.0, [], NOW)


async def test_who_joins_gets_what_is_left_where_it_stood(machines: Machines) -> None:
    """A batch whose partition goes to another machine goes there with its answers, tries and waits."""
    first = await machines.start("one")
    holder = Holder(first)
    first.hand_to(holder)
    await both_belong(first)
    for _ in range(40):  # each in a partition of its own choice
        await stored(first, batch(3))
    holder.leases = await leased(first, count=40)
    ids = {lease.batch_id for lease in holder.leases}
    for lease in holder.leases:
        lease.progress.states[0] = State.ACCEPTED
        lease.progress.milliseconds[0] = 7
        lease.progress.notes[1] = Note("busy", 2, retry_at=first.time() + 60)
    second = await machines.start("two")
    await both_belong(first, second)
    mine, theirs = await leased(first, count=1), await leased(second, count=1)
    found = await leased(first, second, count=40 - len(mine) - len(theirs)) if len(mine) + len(theirs) < 40 else []
    assert {lease.batch_id for lease in mine + theirs + found} == ids
    for lease in mine + theirs + found:
        assert bytes(lease.progress.states) == bytes([State.ACCEPTED, State.PENDING, State.PENDING])
        assert list(lease.progress.milliseconds) == [7, 0, 0]
        assert lease.progress.notes[1].attempts == 2
    queue_clock = {True: first.time(), False: second.time()}
    for lease in theirs:
        assert 0 < lease.progress.notes[1].retry_at - queue_clock[False] <= 60.5


async def test_who_hangs_is_not_waited_for(machines: Machines) -> None:
    """After the handover what is still held is taken away, and counts as sent; its holder has lost its leases."""
    first = await machines.start("one")
    holder = Holder(first, hangs=True)
    first.hand_to(holder)
    await both_belong(first)
    await stored(first, *(batch(2) for _ in range(20)), lane=Lane.TRANSACTIONAL)
    holder.leases = await leased(first, count=20)
    second = await machines.start("two")
    await both_belong(first, second)
    found = await leased(first, second, count=20)
    assert {lease.batch_id for lease in found} == {lease.batch_id for lease in holder.leases}
    assert {bytes(lease.progress.states) for lease in found} == {bytes([State.SENT, State.SENT])}


async def test_a_lost_machine_leaves_nothing_that_is_taken_for_unsent(machines: Machines) -> None:
    """After its session others have its partitions. What it had in hand of jobs that report may be on its way, what it
    had not is fresh, and what was told of as done is done."""
    first = await machines.start("one")
    await both_belong(first)
    await stored(first, *(batch(2) for _ in range(6)))
    held = await leased(first, count=6)
    done, gone = held[:3], held[3:]
    for lease in done:
        lease.progress.states[:] = bytes([State.ACCEPTED] * 2)
        await first.complete(lease, [], NOW)
    await first.published()
    fresh = await stored(first, batch(2), lane=Lane.TRANSACTIONAL)
    await machines.stop(first)
    second = await machines.start("two")
    found = await leased(second, count=4)
    states = {lease.batch_id: bytes(lease.progress.states) for lease in found}
    assert states.keys() - {lease.batch_id for lease in gone} == {
        lease.batch_id for lease in found if lease.job.id == fresh.id
    }
    for lease in found:
        expected = [State.PENDING] * 2 if lease.job.id == fresh.id else [State.SENT] * 2
        assert bytes(lease.progress.states) == bytes(expected)
    assert await second.lease(room(), NOW) == []


async def test_a_machine_that_comes_back_in_time_goes_on(machines: Machines) -> None:
    """Within its session nobody else gets its partitions: it finds what it had, done and not done."""
    first = await machines.start("one")
    await both_belong(first)
    await stored(first, *(batch(2) for _ in range(4)))
    done, *_ = await leased(first, count=4)
    done.progress.states[:] = bytes([State.ACCEPTED] * 2)
    await first.complete(done, [], NOW)
    await machines.stop(first)
    again = await machines.start("one")
    await both_belong(again)
    found = await leased(again, count=3)
    assert done.batch_id not in {lease.batch_id for lease in found}
    await again.published()
    assert await again.lease(room(), NOW) == []


async def test_who_leaves_tells_how_far_it_was(machines: Machines) -> None:
    """Nothing that it gave back counts as sent, and nothing that it ended is left to be sent."""
    first = await machines.start("one")
    await both_belong(first)
    await stored(first, *(batch(2) for _ in range(4)))
    done, part, *rest = await leased(first, count=4)
    done.progress.states[:] = bytes([State.ACCEPTED] * 2)
    await first.complete(done, [], NOW)
    part.progress.states[0] = State.ACCEPTED
    for lease in (part, *rest):
        await first.defer(lease, 0.0, [], NOW)
    await machines.leave(first)
    second = await machines.start("two")
    found = await leased(second, count=3)
    states = {lease.batch_id: bytes(lease.progress.states) for lease in found}
    assert done.batch_id not in states
    assert states.pop(part.batch_id) == bytes([State.ACCEPTED, State.PENDING])
    assert set(states.values()) == {bytes([State.PENDING] * 2)}


async def test_what_was_not_told_is_told_by_whoever_is_next(machines: Machines) -> None:
    """A machine that stood still ended a batch and could tell nobody: when it has the partition again, and nobody did
    the work meanwhile, the receipts are what they were."""
    first = await machines.start("one")
    await both_belong(first)
    await stored(first, batch(2))
    (lease,) = await leased(first, count=1)
    await machines.stop(first)
    lost = machines.local("one")
    await lost.open()
    await lost.database.write(lambda db: store.joined(db, -7))  # as if it had missed generations of the group
    (again,) = await lost.lease(room(), NOW)
    again.progress.states[:] = bytes([State.ACCEPTED] * 2)
    await lost.complete(again, [], NOW)
    await lost.close()
    back = await machines.start("one")
    await both_belong(back)
    async with asyncio.timeout(10):
        while (await back.depth()).batches or await back.database.read(store.waits):
            await asyncio.sleep(0.05)
    assert await back.lease(room(), NOW) == []
    (event,) = await machines.told()
    assert (event["recipients"], event["state"]) == (["user-0", "user-1"], "accepted")
    assert event["delivery"] == delivery_prefix(lease.batch_id)
