"""Stores records, or says in time that it did not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
)

from gateway.kafka.cluster import Cluster, Unreachable
from gateway.queue.base import QueueError

BACKOFF = 1.0
"""Seconds between tries to reach brokers that could not be reached; meanwhile callers are told so at once."""

Header = tuple[str, bytes]


class Record(NamedTuple):
    topic: str
    partition: int | None
    """None: by the key."""
    key: bytes | None
    value: bytes | None
    """None removes the key from a compacted topic."""
    headers: Sequence[Header] = ()


class Producer:
    """One idempotent producer, made anew when the brokers have lost track of the last one (aiokafka's issue 1017).

    An idempotent producer of aiokafka never gives a record up, so each call has its own deadline; after it the producer
    is thrown away, and with it whatever it has not sent yet.
    """

    def __init__(self, cluster: Cluster, timeout: float) -> None:
        self._cluster = cluster
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._failed_at = float("-inf")
        self._closing: set[asyncio.Task[None]] = set()

    async def store(self, records: Sequence[Record]) -> list[Any]:
        """Return when all of them are on all replicas in sync: their places (`RecordMetadata`).

        Raises:
            Unreachable: at least one is not, or not known to be.
            QueueError: one is larger than the brokers take.
        """
        if not records:
            return []
        try:
            async with asyncio.timeout(self._timeout):
                producer = await self._started()
                stored = [await _send(producer, record) for record in records]
                return await asyncio.gather(*stored)
        except MessageSizeTooLargeError as error:
            raise QueueError(f"a record is larger than the brokers take: {error}") from error
        except (TimeoutError, ProducerClosed, OutOfOrderSequenceNumber, ProducerFenced, IllegalStateError) as error:
            self._give_up()
            raise Unreachable(type(error).__name__) from error
        except (KafkaError, OSError) as error:
            self._give_up()
            raise Unreachable(type(error).__name__) from error

    async def close(self) -> None:
        """Let go; whoever stores has been told by now."""
        self._give_up()
        if self._closing:
            await asyncio.wait(list(self._closing))

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        if self._loop.time() - self._failed_at < BACKOFF:
            raise Unreachable("it did not a moment ago")
        async with self._starting:
            if self._producer is None:
                producer = self._cluster.producer()
                try:
                    await producer.start()
                except BaseException:
                    self._failed_at = self._loop.time()
                    self._discard(producer)
                    raise
                self._producer = producer
        return self._producer

    def _give_up(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            self._discard(producer)

    def _discard(self, producer: AIOKafkaProducer) -> None:
        task = self._loop.create_task(_stop(producer))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _send(producer: AIOKafkaProducer, record: Record) -> asyncio.Future[Any]:
    topic, partition, key, value, headers = record
    future: asyncio.Future[Any] = await producer.send(topic, value, key, partition, headers=headers)
    future.add_done_callback(_seen)
    return future


def _seen(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more if another of its call failed first."""
    if not future.cancelled():
        future.exception()


async def _stop(producer: AIOKafkaProducer) -> None:
    """End it at once. Its own `stop` waits for brokers, which is what this one is thrown away for."""
    producer._closed = True
    task = producer._sender.sender_task
    if task is not None:
        task.cancel()
        await asyncio.wait([task], timeout=BACKOFF)
    await producer.client.close()
