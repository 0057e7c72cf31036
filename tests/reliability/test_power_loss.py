"""The power is cut at any moment: whatever was answered is there when the machine comes back, and nothing is torn."""

from __future__ import annotations

import asyncio
import random
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from gateway.model import State, delivery_prefix
from gateway.queue import clock, flight, writer
from gateway.queue.base import Idempotency, Replay
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.samples import FCM, NOW, batch, job, room
from tests.reliability.conftest import Evidence
from tests.reliability.disk import Disk

ROW = "R3"

POINTS_OF_A_LIFE = 25


class Told:
    """What the callers and holders of a queue were told is durable."""

    def __init__(self) -> None:
        self.jobs: dict[str, int] = {}
        """Deliveries of jobs that were answered."""
        self.begun: dict[str, int] = {}
        """Deliveries of all jobs that may have been stored."""
        self.states: dict[bytes, bytes] = {}
        """Columns that were checkpointed or completed."""

    def copy(self) -> Told:
        other = Told()
        other.jobs, other.begun, other.states = self.jobs.copy(), self.begun.copy(), self.states.copy()
        return other


class Life:
    """A queue at work on a disk, and the moments at which its power is cut."""

    def __init__(self, folder: Path, seed: int, points: int) -> None:
        self.chance = random.Random(seed)
        self.path = folder / "queue.db"
        self.folder = folder
        self.points = points
        self.told = Told()
        self.cuts: list[tuple[Path, Told]] = []

    def moment(self) -> None:
        """In the writer's thread, before the disk is touched. What is told from now on is not yet durable."""
        if len(self.cuts) < self.points and self.chance.random() < 0.05:
            told, folder = self.told.copy(), self.folder / f"cut-{len(self.cuts)}"
            self.disk.survivors(folder, self.chance)
            for recorder in self.folder.glob("*-flight-*"):
                shutil.copy(recorder, folder)  # the page cache may have been written, or a part of it
            self.cuts.append((folder, told))

    async def live(self) -> None:
        self.disk = Disk(self.moment)
        queue = SqliteQueue(self.path, owner="before", slots=64)
        try:
            await queue.open()
            while len(self.cuts) < self.points:
                await asyncio.gather(*(self.submit(queue) for _ in range(3)), self.upload(queue))
                await asyncio.gather(self.hold(queue), self.submit(queue))
                await queue.maintain(NOW)
            await queue.close()
        finally:
            self.disk.unregister()

    async def submit(self, queue: SqliteQueue) -> None:
        new, batches = job(), [batch(self.chance.randint(1, 40)) for _ in range(self.chance.randint(1, 3))]
        self.told.begun[new.id] = count = sum(each.count for each in batches)
        await queue.submit(new, Idempotency(new.id, b"f"), batches, b"answer")
        self.told.jobs[new.id] = count

    async def upload(self, queue: SqliteQueue) -> None:
        new, first, last = job(), batch(30, FCM), batch(7)
        self.told.begun[new.id] = 37
        await queue.begin(new, Idempotency(new.id, b""))
        await queue.put(new.id, [first])
        if self.chance.random() < 0.3:
            await queue.abandon(new.id)
            return
        await queue.seal(new.id, [last], b"f", b"answer")
        self.told.jobs[new.id] = 37

    async def hold(self, queue: SqliteQueue) -> None:
        for lease in await queue.lease(room(batches=self.chance.randint(1, 5)), NOW):
            lease.progress.states[: lease.count // 2] = bytes([State.ACCEPTED]) * (lease.count // 2)
            await queue.checkpoint(lease, [], NOW)
            self.told.states[lease.batch_id] = bytes(lease.progress.states)
            if self.chance.random() < 0.2:
                await queue.defer(lease, 0.0, [], NOW)
                continue
            lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
            await queue.complete(lease, [], NOW)
            self.told.states[lease.batch_id] = bytes(lease.progress.states)


async def come_back(folder: Path, told: Told) -> None:
    """Start on what is left, hold it against what was told, and end the work."""
    path = folder / "queue.db"
    queue = SqliteQueue(path, owner="after", slots=256)
    await queue.open()
    store = ReceiptStore(queue.database)
    with closing(apsw.Connection(str(path))) as db:
        assert db.execute("PRAGMA integrity_check").get == "ok"
    for batch_id, states in told.states.items():
        await _holds(store, batch_id, states)
    while leases := await queue.lease(room(), NOW):
        for lease in leases:
            known = told.states.get(lease.batch_id, bytes(lease.count))
            kept = bytes(lease.progress.states)
            assert all(new == old for old, new in zip(known, kept, strict=True) if old >= State.ACCEPTED)
            if lease.crashes:
                assert State.PENDING not in kept, "the recorder of another run of the machine was believed"
            lease.progress.states[:] = bytes(max(state, State.UNKNOWN) if state < 2 else state for state in kept)
            await queue.complete(lease, [], NOW)
    for job_id, count in told.begun.items():
        status = await store.job(job_id)
        assert status is not None or job_id not in told.jobs, "an answered job is gone"
        if status is None:
            continue
        page = await store.receipts(job_id, 0, 10_000)
        assert page is not None
        assert status.finished
        assert status.total == count == len(page.receipts) == len({receipt.id for receipt in page.receipts})
        if job_id in told.jobs:
            assert isinstance(await queue.begin(job(), Idempotency(job_id, b"")), Replay)
    assert (await queue.depth())[:2] == (0, 0)
    await queue.close()


async def _holds(store: ReceiptStore, batch_id: bytes, states: bytes) -> None:
    """The receipts that were told of are there."""
    ended = [index for index, state in enumerate(states) if state >= State.ACCEPTED]
    names = [f"{delivery_prefix(batch_id)}{index:04x}" for index in ended]
    found = await store.deliveries(names)
    assert [found[name].state for name in names] == ["accepted"] * len(names)


@pytest.mark.timeout(600)
async def test_power_is_lost_at_any_moment(
    long: bool, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answered job, no stored receipt and no idempotent answer is lost; unanswered jobs are there whole or not."""
    points, seed = (1000, 3) if long else (100, random.randrange(1 << 32))
    print(f"seed {seed}")
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 12)  # so that the log is copied and begun anew all the time
    answered = syncs = 0
    for life in range(0, points, POINTS_OF_A_LIFE):
        folder = tmp_path / str(life)
        folder.mkdir()
        living = Life(folder, seed + life, POINTS_OF_A_LIFE)
        await living.live()
        syncs += living.disk.syncs
        with monkeypatch.context() as rebooted:
            rebooted.setattr(clock, "boot_id", lambda: b"another")
            rebooted.setattr(flight, "boot_id", lambda: b"another")
            for survivors, told in living.cuts:
                answered += len(told.jobs)
                await come_back(survivors, told)
        shutil.rmtree(folder)
    assert answered > points
    evidence.record(
        f"power cut at {points} moments before a write, sync or truncation; what was not synced is dropped, kept, or "
        "torn by sectors",
        {"cuts": points, "syncs": syncs, "answered_jobs_checked": answered, "lost": 0, "seed": seed},
    )
