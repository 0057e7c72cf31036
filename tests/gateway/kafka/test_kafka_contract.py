"""The queue on Kafka keeps what `Queue` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from bench.kafka import Brokers
from gateway.kafka import store, topics
from gateway.kafka.cluster import Cluster
from gateway.kafka.queue import KafkaQueue
from gateway.kafka.records import Work
from gateway.model import Job
from gateway.queue.base import Idempotency, Lease, NewBatch, Queue, Replay, Room, Twin
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.kafka.machines import Quiet
from tests.gateway.kafka.sharing import Sharing
from tests.gateway.queue.contract import HIGH_WATER, LEASE_SECONDS, SLOTS, Clock, Opener, QueueContract
from tests.gateway.queue.samples import batch, job
from tests.kafka_broker import settings


class Caught(KafkaQueue):
    """Comes back from what stores when the machine's mirror has it: on Kafka it is visible some moments later."""

    async def submit(
        self, job: Job, idempotency: Idempotency | None, batches: Sequence[NewBatch], answer: bytes
    ) -> Replay | Twin | None:
        former = await super().submit(job, idempotency, batches, answer)
        await self._caught_up()
        return former

    async def seal(self, job_id: str, batches: Sequence[NewBatch], fingerprint: bytes, answer: bytes) -> None:
        await super().seal(job_id, batches, fingerprint, answer)
        await self._caught_up()

    async def lease(self, room: Room, now: float) -> list[Lease]:
        while not self.belongs:  # a test's clock may have passed what the last commit proved
            await asyncio.sleep(0.01)
        return await super().lease(room, now)

    async def open(self) -> None:
        await super().open()
        self._written: list[bytes] = []
        write = self._incoming.write

        async def noted(topic: str, found: Sequence[Work]) -> None:
            await write(topic, found)
            self._written += [batch.id for work in found for batch in work.batches]

        self._incoming.write = noted  # type: ignore[method-assign]

    async def _caught_up(self) -> None:
        written, self._written = self._written, []
        for batch_id in written:
            while await self.database.read(lambda db, batch_id=batch_id: store.standing(db, batch_id)) is None:
                await asyncio.sleep(0.002)
        await asyncio.sleep(0.005)  # whom it is handed to learns of it after the commit


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_queue(tmp_path: Path, clock: Clock, brokers: Brokers) -> AsyncIterator[Opener]:
    ours = settings(brokers, session_timeout=1500.0)
    await topics.create(Cluster(ours), ours)
    queues: list[KafkaQueue] = []
    shared = Sharing()

    async def opener(owner: str) -> KafkaQueue:
        local = SqliteQueue(
            tmp_path / "mirror.db",
            owner=owner,
            lease_seconds=LEASE_SECONDS,
            slots=SLOTS,
            durable=False,
            uptime=clock,
        )
        queue = Caught(ours, local, shared=shared, meter=Quiet(), high_water=HIGH_WATER)
        queues.append(queue)
        await queue.open()
        while not queue.belongs:
            await asyncio.sleep(0.01)
        return queue

    yield opener
    for queue in queues:
        await queue.close()


class TestKafkaContract(QueueContract):
    async def test_a_key_is_forgotten_after_a_day(self, queue: Queue) -> None:
        """How long a key is kept is the shared state's concern; then it is free."""
        assert isinstance(queue, KafkaQueue)
        assert await queue.submit(job(), Idempotency("key", b"one"), [batch()], b"answer") is None
        assert isinstance(await queue.begin(job(), Idempotency("key", b"")), Replay)
        assert isinstance(queue.shared, Sharing)
        queue.shared.forget("key")
        assert await queue.begin(job(), Idempotency("key", b"")) is None
