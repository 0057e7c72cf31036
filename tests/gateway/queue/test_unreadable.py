"""What is stored and cannot be read is put off and then given up, alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.model import State
from gateway.queue import unreadable
from gateway.queue.base import Lease
from gateway.queue.sqlite import SqliteQueue
from gateway.queue.unreadable import LONGEST_WAIT, TRIES, Unreadable
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.samples import NOW, batch, room, stored

SECRET = "a secret of the caller's"

SPOILED = {
    "message": "UPDATE messages SET body = ? WHERE job = 1",
    "columns": "UPDATE work SET columns = ? WHERE sequence = 1",
}


class Rig:
    """A queue of which a test can let time pass, and what it told."""

    def __init__(self, path: Path) -> None:
        self.told: list[Unreadable] = []
        self.uptime = 1000.0
        self.queue = SqliteQueue(path, owner="holder", on_unreadable=self.told.append, uptime=lambda: self.uptime)

    async def lease(self) -> list[Lease]:
        return await self.queue.lease(room(), NOW)

    async def spoil(self, what: str) -> None:
        """Whatever is there is replaced by what decodes to something else."""
        garbage = msgspec.msgpack.encode({"id": SECRET})
        await self.queue.database.write(lambda db: db.execute(SPOILED[what], (garbage,)))


@pytest.fixture
async def rig(tmp_path: Path):  # type: ignore[no-untyped-def]
    rig = Rig(tmp_path / "queue.db")
    await rig.queue.open()
    yield rig
    await rig.queue.close()


@pytest.mark.parametrize("what", SPOILED)
async def test_its_neighbours_are_leased_as_if_it_were_not_there(what: str, rig: Rig) -> None:
    bad, good = batch(3), batch(2)
    spoiled = await stored(rig.queue, bad)
    await stored(rig.queue, good)
    await rig.spoil(what)
    assert [lease.batch_id for lease in await rig.lease()] == [good.id]
    assert rig.told == [Unreadable(spoiled.id, bad.id, bad.route, 1, False, "ValidationError")]
    assert SECRET not in repr(rig.told)


@pytest.mark.parametrize("what", SPOILED)
async def test_it_is_tried_again_and_then_dead_lettered(what: str, rig: Rig) -> None:
    """A newer program that can read it may come meanwhile."""
    new = batch(3)
    job = await stored(rig.queue, new)
    await rig.spoil(what)
    waits = []
    for _ in range(TRIES):
        told, waited = len(rig.told), 0.0
        while len(rig.told) == told:
            assert await rig.lease() == []
            rig.uptime += 0.5
            waited += 0.5
        waits.append(waited)
    assert [found.failures for found in rig.told] == list(range(1, TRIES + 1))
    assert [found.given_up for found in rig.told] == [False] * (TRIES - 1) + [True]
    assert waits == sorted(waits)
    assert max(waits) == LONGEST_WAIT
    page = await ReceiptStore(rig.queue.database).receipts(job.id, 0, 10)
    assert page is not None
    reasons = {(receipt.state, receipt.reason) for receipt in page.receipts}
    assert reasons == {("dead_lettered", "could not be read from the queue, 20 times")}
    assert len(page.receipts) == 3
    assert (await rig.queue.depth())[:2] == (0, 0)


async def test_one_that_can_be_read_again_goes_on(rig: Rig) -> None:
    new = batch()
    await stored(rig.queue, new)
    body = await rig.queue.database.read(lambda db: db.execute("SELECT body FROM messages").fetchone()[0])
    await rig.spoil("message")
    assert await rig.lease() == []
    await rig.queue.database.write(lambda db: db.execute(SPOILED["message"], (body,)))
    rig.uptime += 1.0
    assert [lease.batch_id for lease in await rig.lease()] == [new.id]


async def test_verdicts_and_what_was_on_the_wire_are_not_denied(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes that cannot be read are given up; the states are the receipts."""
    monkeypatch.setattr(unreadable, "TRIES", 1)
    job = await stored(rig.queue, batch(3))
    (lease,) = await rig.lease()
    lease.progress.states[0] = State.ACCEPTED
    lease.progress.states[1] = State.SENT
    await rig.queue.defer(lease, 0.0, [], NOW)
    await rig.queue.database.write(lambda db: db.execute("UPDATE receipts SET notes = ?", (b"\xc1",)))
    rig.uptime += 1.0
    assert await rig.lease() == []
    page = await ReceiptStore(rig.queue.database).receipts(job.id, 0, 10)
    assert page is not None
    assert [receipt.state for receipt in page.receipts] == ["accepted", "unknown", "dead_lettered"]
