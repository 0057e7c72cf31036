"""Machines of one group in one process, each with a folder and a name of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from gateway.kafka.queue import KafkaQueue
from gateway.queue.base import Lease
from gateway.queue.sqlite import SqliteQueue
from gateway.settings import Kafka
from tests.gateway.kafka.sharing import Sharing
from tests.gateway.queue.samples import NOW, room


class Quiet:
    """A `Meter`."""

    def rebalanced(self, partitions: int) -> None: ...

    def lag(self, records: object) -> None: ...

    def dead_letter(self) -> None: ...

    def failed(self, reason: str) -> None: ...


class Machines:
    """Makes them; each has a folder of its own."""

    def __init__(self, ours: Kafka, folder: Path) -> None:
        self._ours = ours
        self._folder = folder
        self._shared = Sharing()
        self.running: list[KafkaQueue] = []

    async def start(self, name: str, disk: str = "") -> KafkaQueue:
        """`disk` is another one than it had before."""
        local = SqliteQueue(
            self._folder / name / disk / "mirror.db", owner="worker-0", lease_seconds=4.0, durable=False
        )
        ours = self._ours.model_copy(update={"instance": name})
        queue = KafkaQueue(ours, local, shared=self._shared, meter=Quiet())
        await queue.open()
        self.running.append(queue)
        return queue

    def local(self, name: str, disk: str = "") -> SqliteQueue:
        """What is on a machine's disk."""
        path = self._folder / name / disk / "mirror.db"
        return SqliteQueue(path, owner="worker-0", lease_seconds=4.0, durable=False)

    async def told(self) -> list[dict[str, Any]]:
        """The receipts that are on the topic."""
        reader = AIOKafkaConsumer(
            f"{self._ours.prefix}.receipts",
            bootstrap_servers=list(self._ours.servers),
            auto_offset_reset="earliest",
        )
        await reader.start()
        try:
            found = await reader.getmany(timeout_ms=2_000)
        finally:
            await reader.stop()
        return [json.loads(record.value) for records in found.values() for record in records]

    async def stop(self, queue: KafkaQueue) -> None:
        """As kill -9: nothing is said to anybody."""
        self.running.remove(queue)
        queue.mirror = None
        await queue.close()

    async def leave(self, queue: KafkaQueue) -> None:
        """As an operator stops it."""
        self.running.remove(queue)
        await queue.close()


async def leased(*queues: KafkaQueue, count: int, seconds: float = 30.0) -> list[Lease]:
    """So many leases, from any of them."""
    found: list[Lease] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            for queue in queues:
                found += await queue.lease(room(), NOW)
            await asyncio.sleep(0.05)
    return found


async def both_belong(*queues: KafkaQueue) -> None:
    """Until each has its part."""
    async with asyncio.timeout(30):
        while not all(queue.belongs and queue.partitions for queue in queues):
            await asyncio.sleep(0.05)
