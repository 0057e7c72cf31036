"""Records that nobody could do anything with: looking at them, and putting them back where they came from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from gateway.kafka.cluster import Cluster
from gateway.kafka.outgoing import ORIGIN_HEADER, REASON_HEADER
from gateway.kafka.producer import Producer, Record
from gateway.kafka.progress import to_the_end
from gateway.kafka.topics import Topics
from gateway.queue.base import QueueError

_OURS = (ORIGIN_HEADER, REASON_HEADER)


class DeadLetter(NamedTuple):
    """One of them."""

    id: str
    """`partition/offset` in the topic of dead letters."""
    at: float
    """UNIX seconds."""
    reason: str
    origin: str
    """`topic/partition/offset`."""
    record: Any


class DeadLetters:
    """What is in the topic now."""

    def __init__(self, cluster: Cluster, topics: Topics) -> None:
        self._cluster = cluster
        self._topic = topics.dead_letters

    async def all(self) -> AsyncIterator[DeadLetter]:
        """From the oldest on, partition by partition.

        Raises:
            QueueError: there is no such topic, or the brokers are out of reach.
        """
        lanes = await self._lanes()
        reader = self._cluster.reader(patience=0.01)
        await reader.start()
        try:
            reader.assign(lanes)
            await reader.seek_to_beginning(*lanes)
            async for record in to_the_end(reader, lanes):
                yield _letter(record)
        finally:
            await reader.stop()

    async def _lanes(self) -> list[TopicPartition]:
        async with self._cluster.admin() as admin:
            (found,) = await admin.describe_topics([self._topic])
        if found["error_code"]:
            raise QueueError(f"the topic {self._topic} does not exist: run `carillon topics create`")
        return [
            TopicPartition(self._topic, number) for number in sorted(each["partition"] for each in found["partitions"])
        ]

    async def one(self, letter_id: str) -> DeadLetter:
        """The one with this id.

        Raises:
            QueueError: there is none.
        """
        async for letter in self.all():
            if letter.id == letter_id:
                return letter
        raise QueueError(f"there is no dead letter {letter_id}: `carillon dlq list` shows those that are there")


async def replay(producer: Producer, letter: DeadLetter) -> str:
    """Write the record once more to the topic that it came from, as it was; returns that topic."""
    topic, partition, _ = letter.origin.rsplit("/", 2)
    headers = [(name, value) for name, value in letter.record.headers if name not in _OURS]
    await producer.store([Record(topic, int(partition), letter.record.key, letter.record.value, headers)])
    return topic


def _letter(record: Any) -> DeadLetter:
    headers = dict(record.headers)
    return DeadLetter(
        f"{record.partition}/{record.offset}",
        record.timestamp / 1000,
        headers.get(REASON_HEADER, b"").decode("utf-8", "replace"),
        headers.get(ORIGIN_HEADER, b"").decode(),
        record,
    )
