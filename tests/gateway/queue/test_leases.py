"""How leases are taken, told of and given back, where the contract of all queues does not say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from gateway.model import Lane, Route, State
from gateway.queue import leases as rules
from gateway.queue.base import DeadTarget, Lease, NewBatch, QueueError
from gateway.queue.columns import Columns
from gateway.queue.flight import Entry, Trace
from gateway.queue.rows import only
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.contract import LEASE_SECONDS, Clock, Opener, accept
from tests.gateway.queue.samples import APNS, FCM, NOW, WEB, batch, room, stored
from tests.gateway.queue.test_machine import die


async def taken(queue: SqliteQueue, batches: int = 100) -> list[Route]:
    return [lease.route for lease in await queue.lease(room(batches), NOW)]


class TestTaking:
    """In what order, and how many."""

    @pytest.mark.parametrize("count", [3, 4, 5])
    async def test_a_route_is_read_as_far_as_there_is_room(
        self, queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch, count: int
    ) -> None:
        """Page by page, oldest first, each batch once."""
        monkeypatch.setattr(rules, "CANDIDATES_AT_ONCE", 2)
        new = [batch(2) for _ in range(count)]
        await stored(queue, *new)
        assert [lease.batch_id for lease in await queue.lease(room(), NOW)] == [each.id for each in new]

    async def test_a_scan_over_few_routes_begins_with_the_first(self, queue: SqliteQueue) -> None:
        await stored(queue, batch(1), batch(1), batch(1, FCM))
        assert [await taken(queue, 1) for _ in range(3)] == [[APNS], [APNS], [FCM]]

    async def test_a_scan_over_many_routes_goes_on_where_it_ended(
        self, queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And then begins anew, in the same lease if that has room."""
        monkeypatch.setattr(rules, "ROUTES_AT_ONCE", 2)
        await stored(queue, *(batch(1, route) for route in (APNS, FCM, WEB) for _ in range(3)))
        assert await taken(queue, 1) == [APNS]
        assert await taken(queue, 1) == [WEB]
        assert await taken(queue, 1) == [APNS]
        assert sorted(await taken(queue)) == sorted([APNS, FCM, FCM, FCM, WEB, WEB])

    async def test_a_suspect_takes_one_of_the_places(self, queue: SqliteQueue, open_queue: Opener) -> None:
        """It needs room as any other batch."""
        suspect = batch()
        await stored(queue, suspect)
        for _ in range(2):
            other = await open_queue("dying")
            assert isinstance(other, SqliteQueue)
            await other.lease(room(), NOW)
            await die(other)
            await queue.recover(NOW)
        await stored(queue, *(batch() for _ in range(5)))
        assert await queue.lease(room()._replace(capacity=dict.fromkeys(Lane, 0)), NOW) == []
        found = await queue.lease(room(3), NOW)
        assert [lease.crashes for lease in found] == [2, 0, 0]
        assert found[0].batch_id == suspect.id


class TestProgress:
    """What is kept of what a holder says, and who is told."""

    @pytest.mark.parametrize("how", ["checkpoint", "complete", "defer", "fail"])
    async def test_dead_targets_are_kept_however_it_is_said(self, queue: SqliteQueue, how: str) -> None:
        await stored(queue, batch(1))
        (lease,) = await queue.lease(room(), NOW)
        verdict = DeadTarget(b"token-0", NOW, "gone")
        accept(lease)
        if how in ("checkpoint", "complete"):
            await getattr(queue, how)(lease, [verdict], NOW)
        else:
            await getattr(queue, how)(lease, 0.0, [verdict], NOW)
        assert await queue.dead_targets(APNS, [b"token-0"]) == {b"token-0": verdict}

    async def test_no_byte_that_is_no_state(self, queue: SqliteQueue) -> None:
        await stored(queue, batch(2))
        (lease,) = await queue.lease(room(), NOW)
        lease.progress.states[1] = 99
        with pytest.raises(QueueError, match="no state"):
            await queue.checkpoint(lease, [], NOW)

    async def test_the_feed_tells_of_each_verdict_once(self, queue: SqliteQueue) -> None:
        """As it is stored, in parts or as a whole; of what is only sent, and of the same again, it tells nothing."""
        store = ReceiptStore(queue.database)
        told: list[str] = []
        cursor = 0

        async def tells() -> int:
            nonlocal cursor
            page = await store.feed(cursor, 100)
            cursor = page.cursor
            told.extend(receipt.state for receipt in page.receipts)
            return len(page.receipts)

        await stored(queue, batch(3), batch(2))
        parts, whole = await queue.lease(room(), NOW)
        parts.progress.states[0] = State.SENT
        await queue.checkpoint(parts, [], NOW)
        assert await tells() == 0
        parts.progress.states[0] = State.ACCEPTED
        for expected in (1, 0):
            await queue.checkpoint(parts, [], NOW)
            assert await tells() == expected
        parts.progress.milliseconds[1] = 5
        await queue.checkpoint(parts, [], NOW)
        assert await tells() == 0
        for lease, expected in ((parts, 2), (whole, 2)):
            await queue.complete(accept(lease), [], NOW)
            assert await tells() == expected
        assert told == ["accepted"] * 5

    async def test_what_has_ended_leaves_its_receipts_alone(self, queue: SqliteQueue) -> None:
        """Targets and variables are gone with the work."""
        await stored(queue, batch())
        (lease,) = await queue.lease(room(), NOW)
        await queue.complete(accept(lease), [], NOW)
        tables = ("work", "receipts")
        rows = await queue.database.read(lambda db: [only(db, f"SELECT count(*) FROM {name}")[0] for name in tables])
        assert rows == [0, 1]

    @pytest.mark.parametrize(
        ("ended", "said"), [(NOW + 1.5, NOW + 1.5), (NOW - 5, NOW), (NOW + 1e7, NOW + 0xFFFFFFFF / 1000)]
    )
    async def test_who_never_went_ends_when_that_is_decided(
        self, queue: SqliteQueue, ended: float, said: float
    ) -> None:
        """As far as the column can say so: not before its job came, nor after some fifty days."""
        new = await stored(queue, batch(1))
        await queue.cancel(new.id, ended)
        (receipt,) = (await ReceiptStore(queue.database).feed(0, 10)).receipts
        assert (receipt.state, receipt.at) == ("cancelled", said)


class TestGivingBack:
    """In a holder's name, of whom more or less is known."""

    @staticmethod
    async def released(queue: SqliteQueue, lease: Lease, states: bytes) -> Lease:
        entry = Entry(lease.sequence, lease.attempt)
        await queue.database.write(lambda db: rules.release(db, entry, Trace(True, {entry: states}), NOW))
        (again,) = await queue.lease(room(), NOW)
        return again

    async def test_what_a_trace_shows_is_kept(self, queue: SqliteQueue) -> None:
        """Nobody is blamed for it: its holder lives."""
        await stored(queue, batch(3))
        (lease,) = await queue.lease(room(), NOW)
        again = await self.released(queue, lease, bytes([State.ACCEPTED, State.SENT, State.PENDING]))
        assert bytes(again.progress.states) == bytes([State.ACCEPTED, State.SENT, State.PENDING])
        assert (again.attempt, again.crashes) == (2, 0)

    async def test_a_trace_of_another_length_is_not_this_batchs(self, queue: SqliteQueue) -> None:
        await stored(queue, batch(3))
        (lease,) = await queue.lease(room(), NOW)
        again = await self.released(queue, lease, bytes([State.ACCEPTED, State.SENT]))
        assert bytes(again.progress.states) == bytes(3)

    async def test_silence_is_told_to_whoever_counts_deaths(self, path: Path, open_queue: Opener, clock: Clock) -> None:
        told: list[int] = []
        queue = SqliteQueue(path, owner="asking", lease_seconds=LEASE_SECONDS, on_crash=told.append, uptime=clock)
        await queue.open()
        other = await open_queue("silent")
        await stored(queue, batch(), batch())
        await other.lease(room(), NOW)
        for _ in range(4):
            assert await queue.lease(room(), NOW) == []
            clock.advance(LEASE_SECONDS / 4)
        assert len(await queue.lease(room(), NOW)) == 2
        assert told == [2]
        await queue.close()


class TestTakingOver:
    """A batch waits here that another machine has had in hand."""

    @staticmethod
    async def take_over(queue: SqliteQueue, put: NewBatch, *states: State) -> None:
        columns = Columns.fresh(put.count)._replace(states=bytes(states))

        def operation(db: apsw.Connection) -> None:
            (sequence,) = only(db, "SELECT sequence FROM batches WHERE id = ?", (put.id,))
            waiting = rules.batch_of(db, sequence, "b.state != 2", ())
            assert waiting is not None
            rules.take_over(db, waiting, columns, NOW)

        await queue.database.write(operation)

    @staticmethod
    async def states(queue: SqliteQueue) -> Sequence[str]:
        return [receipt.state for receipt in (await ReceiptStore(queue.database).feed(0, 10)).receipts]

    async def test_it_goes_on_where_that_was(self, queue: SqliteQueue) -> None:
        put = batch(3)
        await stored(queue, put)
        await self.take_over(queue, put, State.ACCEPTED, State.SENT, State.PENDING)
        assert await self.states(queue) == ["accepted"]
        (lease,) = await queue.lease(room(), NOW)
        assert bytes(lease.progress.states) == bytes([State.ACCEPTED, State.SENT, State.PENDING])

    async def test_it_ends_if_nothing_of_it_is_left(self, queue: SqliteQueue) -> None:
        put = batch(2)
        await stored(queue, put)
        await self.take_over(queue, put, State.ACCEPTED, State.REJECTED)
        assert await self.states(queue) == ["accepted", "rejected"]
        assert await queue.depth() == (0, 0, None)

    async def test_it_ends_with_its_job(self, queue: SqliteQueue) -> None:
        """What came of a cancelled job after that."""
        new, late = await stored(queue, batch(1)), batch(3)
        await queue.cancel(new.id, NOW)
        await queue.admit(new, [late], total=4, offered=False)
        await self.take_over(queue, late, State.ACCEPTED, State.SENT, State.PENDING)
        assert await self.states(queue) == ["cancelled", "accepted", "unknown", "cancelled"]
        assert await queue.depth() == (0, 0, None)
