"""Deaths are counted, the guilty are found, and what kills holder after holder is parked until somebody decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.model import Note, State
from gateway.queue import clock, flight, parking, sweeping
from gateway.queue.base import Lease, LeaseLost
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.contract import LEASE_SECONDS, Opener, accept
from tests.gateway.queue.samples import FCM, NOW, batch, job, room, stored
from tests.gateway.queue.test_machine import die


async def holder(open_queue: Opener) -> SqliteQueue:
    queue = await open_queue("holder")
    assert isinstance(queue, SqliteQueue)
    return queue


async def killed_by(open_queue: Opener, guilty: bytes | None, *, batches: int = 100) -> list[Lease]:
    """A holder takes what there is and dies, at work on the batch `guilty` if it got that one."""
    queue = await holder(open_queue)
    leases = await queue.lease(room(batches=batches), NOW)
    for lease in leases:
        lease.at_work[0] = lease.batch_id == guilty
    await die(queue)
    return leases


async def states(queue: SqliteQueue, job_id: str) -> list[tuple[str, str]]:
    page = await ReceiptStore(queue.database).receipts(job_id, 0, 1000)
    assert page is not None
    return [(receipt.state, receipt.reason) for receipt in page.receipts]


async def test_three_dying_holders_park_a_batch(queue: SqliteQueue, open_queue: Opener) -> None:
    """After the third death nobody gets it; it is listed with what there is to know, and still counts as stored."""
    new = batch(4)
    submitted = await stored(queue, new)
    for deaths in range(3):
        (lease,) = await killed_by(open_queue, new.id)
        assert lease.crashes == deaths
        await queue.recover(NOW + deaths)
    assert await queue.lease(room(), NOW) == []
    (parked,) = await queue.parked(0, 10)
    assert (parked.batch_id, parked.job_id, parked.size, parked.crashes) == (new.id, submitted.id, 4, 3)
    assert parked.parked_at == NOW + 2
    assert await queue.parked_count() == 1
    assert await queue.parked(parked.sequence, 10) == []
    assert (await queue.depth())[:2] == (1, 4)
    found = await queue.parked_batch(new.id)
    assert found is not None
    assert (found.job, found.recipients, found.columns) == (
        submitted, [f"user-{number}" for number in range(4)], new.columns,
    )  # fmt: skip


async def test_its_neighbours_are_innocent(queue: SqliteQueue, open_queue: Opener) -> None:
    """The death is put down to the batch that the holder was at work on, and to none of the others it had."""
    guilty, *others = batch(), batch(), batch(3, FCM)
    await stored(queue, guilty, *others)
    for _ in range(3):
        await killed_by(open_queue, guilty.id)
        await queue.recover(NOW)
    leases = await queue.lease(room(), NOW)
    assert {lease.batch_id: lease.crashes for lease in leases} == {other.id: 0 for other in others}
    assert [parked.batch_id for parked in await queue.parked(0, 10)] == [guilty.id]


async def test_who_was_at_work_on_nothing_leaves_suspects(queue: SqliteQueue, open_queue: Opener) -> None:
    """All that a holder had is suspected if nothing tells what killed it. On their last chance they are leased one at
    a time, so that each further death parks one; whoever is not under suspicion goes on beside them."""
    suspects = [batch() for _ in range(5)]
    await stored(queue, *suspects)
    for _ in range(2):
        assert len(await killed_by(open_queue, None)) == 5
        await queue.recover(NOW)
    fresh = [batch() for _ in range(3)]
    await stored(queue, *fresh)
    first = await queue.lease(room(), NOW)
    assert {lease.batch_id for lease in first} == {suspects[0].id, *(new.id for new in fresh)}
    assert await queue.lease(room(), NOW) == []
    await queue.complete(accept(first[0]), [], NOW)
    (second,) = await queue.lease(room(), NOW)
    assert (second.batch_id, second.crashes) == (suspects[1].id, 2)
    (third,) = await killed_by(open_queue, None)
    await queue.recover(NOW)
    assert [parked.batch_id for parked in await queue.parked(0, 10)] == [third.batch_id] == [suspects[2].id]


async def test_a_suspect_whose_route_takes_nothing_keeps_nobody(queue: SqliteQueue, open_queue: Opener) -> None:
    blocked, other = batch(3, FCM), batch()
    await stored(queue, blocked, other)
    for _ in range(2):
        await killed_by(open_queue, None)
        await queue.recover(NOW)
    (lease,) = await queue.lease(room(closed=(FCM,)), NOW)
    assert lease.batch_id == other.id


async def test_hand_backs_and_refusals_count_for_nothing(queue: SqliteQueue, open_queue: Opener) -> None:
    """A drain, a deferral, a closed queue and a failure are no deaths, however many there are."""
    await stored(queue, batch())
    for number in range(6):
        other = await holder(open_queue)
        (lease,) = await other.lease(room(), NOW)
        assert lease.crashes == 0
        lease.at_work[0] = True
        if number % 2:
            await other.defer(lease, 0.0, [], NOW)
        await other.close()
    (lease,) = await queue.lease(room(), NOW)
    assert (lease.crashes, lease.failures) == (0, 0)


async def test_a_power_cut_counts_for_nothing(
    queue: SqliteQueue, open_queue: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds anything dies with the machine: no batch did that."""
    await stored(queue, batch())
    await killed_by(open_queue, None)
    monkeypatch.setattr(flight, "boot_id", lambda: b"another")
    monkeypatch.setattr(clock, "boot_id", lambda: b"another")
    await queue.recover(NOW)
    (lease,) = await queue.lease(room(), NOW)
    assert lease.crashes == 0


async def test_a_machine_that_slept_blames_nobody(path: Path) -> None:
    """All leases ran out while nobody could extend them; only silence that somebody else has lived through counts."""
    hands, uptime = [], [1000.0]
    for owner in ("first", "second"):
        hands.append(SqliteQueue(path, owner=owner, lease_seconds=LEASE_SECONDS, uptime=lambda: uptime[0]))
        await hands[-1].open()
    await stored(hands[0], batch())
    await hands[0].lease(room(), NOW)
    await hands[1].lease(room(), NOW)
    uptime[0] += 10 * LEASE_SECONDS
    (taken,) = await hands[1].lease(room(), NOW)
    assert taken.crashes == 0
    for _ in range(10):
        uptime[0] += LEASE_SECONDS / 4
        await hands[1].checkpoint(taken, [], NOW)
        assert await hands[1].lease(room(), NOW) == []
    uptime[0] += LEASE_SECONDS / 4
    found = []
    for _ in range(6):
        found += await hands[0].lease(room(), NOW)
        uptime[0] += LEASE_SECONDS / 4
    assert [lease.crashes for lease in found] == [1]
    for each in hands:
        await each.close()


async def test_failures_are_counted_apart(queue: SqliteQueue) -> None:
    """A batch that cannot be prepared waits, with its progress, and knows how often that happened."""
    await stored(queue, batch())
    for failures in range(4):
        (lease,) = await queue.lease(room(), NOW)
        assert (lease.failures, lease.crashes) == (failures, 0)
        await queue.fail(lease, 0.0, [], NOW)
    with pytest.raises(LeaseLost):
        await queue.fail(lease, 0.0, [], NOW)


async def parked(queue: SqliteQueue, open_queue: Opener, *, expires_at: float | None = None) -> tuple[str, bytes]:
    """A job and its parked batch: of five deliveries, one has its answer and one was on the wire at the deaths."""
    new = job(expires_at=expires_at)
    each = batch(5)
    assert await queue.submit(new, None, [each], b"{}") is None
    for number in range(3):
        other = await holder(open_queue)
        (lease,) = await other.lease(room(), NOW)
        if number == 2:
            lease.progress.states[0], lease.progress.states[1] = State.ACCEPTED, State.SENT
        await die(other)
        await queue.recover(NOW)
    assert await queue.parked_count() == 1
    return new.id, each.id


async def test_a_replay_is_a_last_chance(queue: SqliteQueue, open_queue: Opener) -> None:
    """It goes on where it was; one more death parks it again."""
    _, batch_id = await parked(queue, open_queue)
    assert await queue.replay(batch_id)
    assert not await queue.replay(batch_id)
    (lease,) = await killed_by(open_queue, batch_id)
    assert bytes(lease.progress.states) == bytes([State.ACCEPTED, State.SENT, 0, 0, 0])
    await queue.recover(NOW)
    assert await queue.parked_count() == 1
    assert await queue.replay(batch_id)
    (lease,) = await queue.lease(room(), NOW)
    await queue.complete(accept(lease), [], NOW)
    assert await queue.depth() == (0, 0, None)


async def test_a_purge_ends_it(queue: SqliteQueue, open_queue: Opener) -> None:
    """What was never sent is dead-lettered; what may have reached its device is unknown; receipts stay."""
    job_id, batch_id = await parked(queue, open_queue)
    assert await queue.purge(batch_id, NOW + 5)
    assert not await queue.purge(batch_id, NOW + 5)
    assert await states(queue, job_id) == [
        ("accepted", ""), ("unknown", parking.PURGED_AFTER_SENDING), *[("dead_lettered", parking.PURGED)] * 3,
    ]  # fmt: skip
    status = await ReceiptStore(queue.database).job(job_id)
    assert status is not None
    assert status.finished
    assert await queue.depth() == (0, 0, None)
    assert await queue.parked_batch(batch_id) is None


async def test_a_cancelled_job_takes_its_parked_batches_along(queue: SqliteQueue, open_queue: Opener) -> None:
    job_id, _ = await parked(queue, open_queue)
    assert await queue.cancel(job_id, NOW)
    assert [state for state, _ in await states(queue, job_id)] == ["accepted", "unknown", *["cancelled"] * 3]


async def test_it_expires_with_its_job(queue: SqliteQueue, open_queue: Opener) -> None:
    job_id, _ = await parked(queue, open_queue, expires_at=NOW + 100)
    await queue.maintain(NOW + 99)
    assert await queue.parked_count() == 1
    await queue.maintain(NOW + 100)
    assert [state for state, _ in await states(queue, job_id)] == ["accepted", "unknown", *["expired"] * 3]
    assert await queue.parked_count() == 0


class TestBehindAnother:
    """Jobs of one ordering key, of which the first may stay parked for days."""

    @staticmethod
    async def line(queue: SqliteQueue, *expiries: float | None) -> list[str]:
        """Jobs of two batches each, one behind the other."""
        jobs = [job(key="k", expires_at=expires_at) for expires_at in expiries]
        for each in jobs:
            assert await queue.submit(each, None, [batch(), batch(1, FCM)], b"{}") is None
        return [each.id for each in jobs]

    async def test_a_job_ends_when_it_expires(self, queue: SqliteQueue, open_queue: Opener) -> None:
        """Nobody waits for a receipt until an operator has looked at somebody else's batch."""
        first, second, third = await self.line(queue, None, NOW + 100, NOW + 200)
        for _ in range(4):  # the last two, one after the other
            await killed_by(open_queue, None)
            await queue.recover(NOW)
        await queue.maintain(NOW + 99)
        assert [state for state, _ in await states(queue, second)] == []
        await queue.maintain(NOW + 100)
        assert await states(queue, second) == [("expired", sweeping.EXPIRED_BEHIND)] * 4
        status = await ReceiptStore(queue.database).job(second)
        assert status is not None
        assert status.finished
        assert [state for state, _ in await states(queue, third)] == []
        assert await queue.lease(room(), NOW + 100) == [], "the third is still behind the first"
        assert (await queue.depth())[:2] == (4, 8)
        for parked in await queue.parked(0, 10):
            assert parked.job_id == first
            assert await queue.purge(parked.batch_id, NOW + 101)
        assert {lease.job.id for lease in await queue.lease(room(), NOW + 101)} == {third}

    async def test_one_without_an_expiry_waits(self, queue: SqliteQueue, open_queue: Opener) -> None:
        _, second = await self.line(queue, NOW + 1, None)
        await queue.lease(room(), NOW)  # the first is in somebody's hands, who ends it
        await queue.maintain(NOW + 1e6)
        assert await states(queue, second) == []
        assert (await queue.depth())[:2] == (4, 8)


async def test_deaths_are_told_to_whoever_counts_them(path: Path, open_queue: Opener) -> None:
    told: list[int] = []
    queue = SqliteQueue(path, owner="first", on_crash=told.append)
    await queue.open()
    await stored(queue, batch(), batch())
    await killed_by(open_queue, None)
    await queue.recover(NOW)
    assert told == [2]
    await queue.close()


async def test_whoever_ends_with_the_death_is_not_parked(queue: SqliteQueue, open_queue: Opener) -> None:
    """A batch of which all is answered ends, and one that was tried before keeps its notes."""
    new = await stored(queue, batch(2))
    for number in range(3):
        other = await holder(open_queue)
        (lease,) = await other.lease(room(), NOW)
        lease.progress.notes[0] = Note("busy", 2, unanswered=1)
        await other.checkpoint(lease, [], NOW)
        if number == 2:
            accept(lease)
        await die(other)
        await queue.recover(NOW)
    assert await queue.parked_count() == 0
    assert [state for state, _ in await states(queue, new.id)] == ["accepted"] * 2
