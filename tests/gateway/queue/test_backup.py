"""A copy of the queue's file, made while it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from gateway.model import Job, State
from gateway.queue import schema
from gateway.queue.backup import backup
from gateway.queue.base import QueueError
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.contract import Opener, accept
from tests.gateway.queue.samples import NOW, batch, room, stored


def overwrite(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 16)


def ignore(share: float) -> None:
    assert 0.0 <= share <= 1.0


@asynccontextmanager
async def load(queue: SqliteQueue) -> AsyncIterator[list[Job]]:
    """Jobs are taken all the time, and some of their batches are completed; what was taken so far."""
    taken: list[Job] = []

    async def work() -> None:
        while True:
            taken.append(await stored(queue, batch(1000), batch(1000), batch(1000)))
            for lease in await queue.lease(room(batches=1), NOW):
                await queue.complete(accept(lease), [], NOW)

    working = asyncio.create_task(work())
    try:
        yield taken
    finally:
        working.cancel()
        await asyncio.wait([working])


async def test_a_backup_under_load_is_one_moment_of_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was accepted before it began is in it, with the same ids, and what was done by then is done."""
    monkeypatch.setattr("gateway.queue.backup.PAGES_AT_ONCE", 8)  # so that much happens between the steps
    copy = tmp_path / "copy.db"
    queue = SqliteQueue(path, owner="first", high_water=10_000_000)
    await queue.open()
    async with load(queue) as taken:
        while len(taken) < 40:
            await asyncio.sleep(0.01)
        before = taken.copy()
        copied = await asyncio.to_thread(backup, path, copy, ignore)
    restored = SqliteQueue(copy, owner="first")
    await restored.open()
    originals, copies = ReceiptStore(queue.database), ReceiptStore(restored.database)
    leased = {lease.batch_id: lease for lease in await restored.lease(room(batches=250), NOW)}
    assert len(leased) == min(250, copied.batches)
    for new in before:
        status = await copies.job(new.id)
        assert status is not None
        assert status.total == 3000
        done, still = await copies.receipts(new.id, 0, 3000), await originals.receipts(new.id, 0, 3000)
        assert done is not None
        assert still is not None
        assert {receipt.id for receipt in done.receipts} <= {receipt.id for receipt in still.receipts}
    own = await queue.database.read(lambda db: {each for (each,) in db.execute("SELECT id FROM batches")})
    assert set(leased) <= own
    await restored.close()
    await queue.close()


async def test_what_was_held_may_have_been_sent(queue: SqliteQueue, path: Path, tmp_path: Path) -> None:
    """A gateway on the copy takes over what was leased when it was made, as from a holder that left no trace."""
    await stored(queue, batch(3))
    (lease,) = await queue.lease(room(), NOW)
    backup(path, tmp_path / "copy.db", ignore)
    restored = SqliteQueue(tmp_path / "copy.db", owner="first")
    await restored.open()
    (again,) = await restored.lease(room(), NOW)
    assert again.batch_id == lease.batch_id
    assert set(again.progress.states) == {State.SENT}
    await restored.close()


async def test_it_is_its_owners_alone_and_nothing_else_stays(queue: SqliteQueue, path: Path, tmp_path: Path) -> None:
    """It holds targets and texts of notifications."""
    folder = tmp_path / "backups"
    folder.mkdir()
    backup(path, folder / "copy.db", ignore)
    assert [file.name for file in folder.iterdir()] == ["copy.db"]
    assert (folder / "copy.db").stat().st_mode & 0o777 == 0o600


async def test_a_queue_that_nobody_uses_can_be_copied(open_queue: Opener, path: Path, tmp_path: Path) -> None:
    queue = await open_queue("first")
    await stored(queue, batch(3))
    await queue.close()
    assert backup(path, tmp_path / "copy.db", ignore).deliveries == 3


async def test_nothing_is_overwritten(queue: SqliteQueue, path: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(QueueError, match="overwrite nothing"):
        backup(path, tmp_path / "copy.db", ignore)
    assert (tmp_path / "copy.db").read_text() == "precious"


async def test_what_cannot_be_copied_leaves_nothing(queue: SqliteQueue, path: Path, tmp_path: Path) -> None:
    """A missing queue, a folder that is not there, another program's database, a damaged file."""
    folder = tmp_path / "backups"
    with pytest.raises(QueueError, match="does not exist"):
        backup(tmp_path / "missing.db", tmp_path / "copy.db", ignore)
    with pytest.raises(QueueError, match="cannot be created"):
        backup(path, folder / "copy.db", ignore)
    folder.mkdir()
    other = apsw.Connection(str(tmp_path / "other.db"))
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(QueueError, match="another program"):
        backup(tmp_path / "other.db", folder / "copy.db", ignore)
    await stored(queue, *(batch(100) for _ in range(20)))
    await queue.close()
    for page in range(30, 60):
        overwrite(path, page * schema.PAGE_SIZE)
    with pytest.raises(QueueError, match="damaged"):
        backup(path, folder / "copy.db", ignore)
    assert list(folder.iterdir()) == []
