"""What happens to the work of processes that die, in real processes."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from gateway.model import Note, State
from gateway.queue import flight
from gateway.queue.base import Idempotency, LeaseLost
from gateway.queue.columns import RECOVERED
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.contract import LEASE_SECONDS, Clock, Opener, accept
from tests.gateway.queue.samples import NOW, batch, job, room, stored


async def child(path: Path, task: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.gateway.queue.holder",
        str(path),
        "child",
        task,
        stdout=asyncio.subprocess.PIPE,
    )


async def killed(path: Path, task: str) -> None:
    """A process that had begun its task when kill -9 ended it."""
    process = await child(path, task)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.kill()
    assert await process.wait() == -signal.SIGKILL


def flights(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*-flight-*"))


async def test_kill_9_of_a_holder(queue: SqliteQueue, path: Path) -> None:
    """Its batches come back at once, with exactly what it had sent and seen answered; the rest of them is fresh."""
    await stored(queue, batch(5), batch(5))
    await killed(path, "hold")
    assert await queue.lease(room(), NOW + 1) == []
    await queue.recover(NOW + 1)
    leases = await queue.lease(room(), NOW + 1)
    assert len(leases) == 2
    for lease in leases:
        expected = [State.SENT, State.ACCEPTED, State.REJECTED, State.PENDING, State.PENDING]
        assert list(lease.progress.states) == expected
        assert lease.progress.notes == {2: Note(RECOVERED)}
        assert lease.progress.milliseconds[1] > 0
        assert (lease.attempt, lease.crashes) == (2, 1)
    assert len(flights(path)) == 1


async def test_kill_9_without_its_flight_recorder(queue: SqliteQueue, path: Path) -> None:
    """If nothing tells what the dead holder did, all it may have sent is taken for sent."""
    await stored(queue, batch(5))
    own = flights(path)
    await killed(path, "hold")
    for file in set(flights(path)) - set(own):
        file.unlink()
    await queue.recover(NOW + 1)
    (lease,) = await queue.lease(room(), NOW + 1)
    assert set(lease.progress.states) == {State.SENT}


async def test_a_reboot(queue: SqliteQueue, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder from before the machine started is not believed."""
    await stored(queue, batch(5))
    await killed(path, "hold")
    monkeypatch.setattr(flight, "boot_id", lambda: b"another")
    await queue.recover(NOW + 1)
    (lease,) = await queue.lease(room(), NOW + 1)
    assert set(lease.progress.states) == {State.SENT}


async def test_a_reboot_makes_due_what_was_put_off(
    queue: SqliteQueue, open_queue: Opener, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how long it took, and the machine's clock has begun anew."""
    await stored(queue, batch(5))
    (lease,) = await queue.lease(room(), NOW)
    lease.progress.notes[2] = Note(attempts=2, retry_at=queue.time() + 600.0)
    await queue.defer(lease, 600.0, [], NOW)
    await queue.close()
    clock.now = 3.0
    same = await open_queue("same")
    assert await same.lease(room(), NOW) == []
    await same.close()
    monkeypatch.setattr("gateway.queue.clock.boot_id", lambda: b"another")
    for owner in ("first-after", "second-after"):
        rebooted = await open_queue(owner)
        (lease,) = await rebooted.lease(room(), NOW)
        assert lease.progress.notes[2].retry_at < rebooted.time()
        await rebooted.defer(lease, 0.0, [], NOW)
    await rebooted.defer((await rebooted.lease(room(), NOW))[0], 1.0, [], NOW)
    assert await rebooted.lease(room(), NOW) == []


async def test_recovery_at_start(queue: SqliteQueue, path: Path, open_queue: Opener) -> None:
    """Whoever opens the queue takes up what the dead left."""
    await stored(queue, batch(5))
    await killed(path, "hold")
    successor = await open_queue("child")
    assert len(await successor.lease(room(), NOW + 1)) == 1


async def test_recovering_twice(queue: SqliteQueue, path: Path, open_queue: Opener) -> None:
    """Any number of processes may recover at any time: what the living hold stays theirs."""
    other = await open_queue("second")
    await stored(queue, batch(5), batch(5))
    await killed(path, "hold")
    await asyncio.gather(queue.recover(NOW + 1), other.recover(NOW + 1), queue.recover(NOW + 1))
    leases = await queue.lease(room(), NOW + 1)
    assert [lease.crashes for lease in leases] == [1, 1]
    await asyncio.gather(queue.recover(NOW + 1), other.recover(NOW + 1))
    for lease in leases:
        lease.progress.states[:] = bytes(max(state, State.ACCEPTED) for state in bytes(lease.progress.states))
        await queue.complete(lease, [], NOW + 1)


async def test_kill_9_of_an_upload(queue: SqliteQueue, path: Path) -> None:
    """A dead process's half upload is forgotten, and its idempotency key is free."""
    await killed(path, "upload")
    assert (await queue.depth())[:2] == (2, 6)
    await queue.maintain(NOW + 1)
    assert (await queue.depth())[:2] == (0, 0)
    assert await queue.begin(job(), Idempotency("key", b"")) is None
    counts = await queue.database.read(
        lambda db: [db.execute(f"SELECT count(*) FROM {table}").get for table in ("batches", "work", "recipients")]
    )
    assert counts == [0, 0, 0]


async def test_processes_share_the_work(queue: SqliteQueue, path: Path) -> None:
    """Several processes on one file: each delivery is somebody's, and only one's."""
    jobs = [await stored(queue, *(batch(5) for _ in range(20))) for _ in range(4)]
    processes = [await child(path, "drain") for _ in range(3)]
    outputs = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(int(output) for output, _ in outputs) == 4 * 20 * 5
    assert await queue.depth() == (0, 0, None)
    for new in jobs:
        page = await ReceiptStore(queue.database).receipts(new.id, 0, 1000)
        assert page is not None
        assert len({receipt.id for receipt in page.receipts}) == len(page.receipts) == 100


async def test_a_stopped_process_is_fenced(queue: SqliteQueue, open_queue: Opener, clock: Clock) -> None:
    """A holder that wakes up after its lease ran out still shows what it did, and can change nothing."""
    other = await open_queue("second")
    await stored(queue, batch(3))
    (lease,) = await queue.lease(room(), NOW)
    lease.progress.states[0] = State.ACCEPTED
    clock.advance(LEASE_SECONDS)
    (taken,) = await other.lease(room(), NOW)
    assert list(taken.progress.states) == [State.ACCEPTED, State.SENT, State.SENT]
    accept(lease)
    with pytest.raises(LeaseLost):
        await queue.complete(lease, [], NOW)
    assert list(taken.progress.states) == [State.ACCEPTED, State.SENT, State.SENT]


async def test_all_answered_and_not_told(queue: SqliteQueue, open_queue: Opener, clock: Clock) -> None:
    """A batch whose holder saw the last answer and fell silent is complete: nobody has to hold it again."""
    other = await open_queue("second")
    await stored(queue, batch(3))
    (lease,) = await queue.lease(room(), NOW)
    accept(lease)
    clock.advance(LEASE_SECONDS)
    assert await other.lease(room(), NOW) == []
    assert await other.depth() == (0, 0, None)


async def test_a_cancelled_caller_of_lease(queue: SqliteQueue) -> None:
    """Leases that nobody received are given back fresh."""
    await stored(queue, batch(3))
    asking = asyncio.ensure_future(queue.lease(room(), NOW))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(5):
        while not (leases := await queue.lease(room(), NOW)):
            await asyncio.sleep(0)
    assert bytes(leases[0].progress.states) == bytes(3)
    assert leases[0].crashes == 0


async def test_a_cancelled_caller_of_complete(queue: SqliteQueue) -> None:
    """An end whose caller is gone is an end all the same, and frees its slot."""
    await stored(queue, batch(3))
    for _ in range(40):  # more than there are slots
        (lease,) = await queue.lease(room(), NOW)
        giving = asyncio.ensure_future(queue.defer(lease, 0.0, [], NOW))
        del lease
        await asyncio.sleep(0)
        giving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving
    (lease,) = await queue.lease(room(), NOW)
    assert lease.attempt == 41


async def test_no_more_leases_than_slots(queue: SqliteQueue) -> None:
    """Each leased batch is recorded, so a process holds at most as many as its recorder has room for."""
    await stored(queue, *(batch(1) for _ in range(20)))
    leases = await queue.lease(room(), NOW)
    assert len(leases) == 16
    assert await queue.lease(room(), NOW) == []
    await queue.complete(accept(leases.pop()), [], NOW)
    assert len(await queue.lease(room(), NOW)) == 1


@pytest.mark.parametrize("owner", ["", "a/b", "a b", "x" * 101])
def test_an_owners_name(owner: str, path: Path) -> None:
    """An owner's name is part of a file's name."""
    with pytest.raises(ValueError, match="owner"):
        SqliteQueue(path, owner=owner)
