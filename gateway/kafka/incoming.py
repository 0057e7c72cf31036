"""Writes jobs into the topics of batches: whole, or not to be seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count

import msgspec

from gateway.kafka.producer import Producer, Record
from gateway.kafka.records import (
    RECORD_BYTES,
    VERSION,
    Seal,
    Work,
    encode,
    fitting,
    partition_for,
    partition_of,
    placed,
    size,
    works,
)
from gateway.kafka.topics import Topics
from gateway.model import Job, derived_batch_id
from gateway.queue.base import NewBatch

IN_FLIGHT_BYTES = 16 << 20
"""Of an upload's records that are on their way to the brokers."""

SPLIT_FROM = 1 << 32
"""Numbers of the ids of batches that did not fit into a record: not those that ingest gives."""


class Incoming:
    """Of one process."""

    def __init__(self, topics: Topics, producer: Producer, partitions: int) -> None:
        self._topics = topics
        self._producer = producer
        self._partitions = partitions

    async def store(self, job: Job, batches: Iterable[NewBatch], total: int, *, offered: bool) -> None:
        """Write the records of a job of so many deliveries, as many at a time as fit into memory, and a seal if there
        is more than one."""
        encoded = encode(job)
        topic, records = self._topics.batches(job.lane), 0
        only: list[Work] = []
        for group in _groups(self._placed(job, batches, len(encoded))):
            found = works(encoded, group, total, offered=offered)
            if records + len(found) == 1:
                only = found
            else:
                await self.write(topic, [_unsealed(work) for work in (*only, *found)])
                only = []
            records += len(found)
        if records == 1:
            await self.write(topic, only)
        elif records:
            seal = Record(self._topics.seals, 0, job.id.encode(), encode(Seal(VERSION, records)))
            await self._producer.store([seal])

    def _placed(self, job: Job, batches: Iterable[NewBatch], job_size: int) -> Iterator[NewBatch]:
        """The batches, each with its partition in its id; those of a small job together in one."""
        partitions = self._partitions
        ids = (derived_batch_id(job.id, number) for number in count(SPLIT_FROM))
        fits = fitting(batches, RECORD_BYTES - job_size, ids)
        first = next(fits, None)
        if first is None:
            return
        common, room = partition_for(job, first, partitions), RECORD_BYTES - job_size
        for batch in chain([first], fits):
            room -= size(batch)
            partition = common if room >= 0 else partition_for(job, batch, partitions)
            yield msgspec.structs.replace(batch, id=placed(batch.id, partition))

    async def write(self, topic: str, found: Sequence[Work]) -> None:
        """Store records, each in the partition that its batches name."""
        await self._producer.store(
            [Record(topic, partition_of(work.batches[0].id), work.batches[0].id, encode(work)) for work in found]
        )


def derived(job: Job, batches: Sequence[NewBatch]) -> list[NewBatch]:
    """The batches with ids that follow from the job's: whoever submits it once more submits the same."""
    return [msgspec.structs.replace(batch, id=derived_batch_id(job.id, number)) for number, batch in enumerate(batches)]


def _unsealed(work: Work) -> Work:
    return msgspec.structs.replace(work, sealed=False, offered=False)


def _groups(batches: Iterator[NewBatch]) -> Iterator[list[NewBatch]]:
    """As much at a time as may be on its way."""
    group: list[NewBatch] = []
    left = IN_FLIGHT_BYTES
    for batch in batches:
        group.append(batch)
        left -= size(batch)
        if left < 0:
            yield group
            group, left = [], IN_FLIGHT_BYTES
    if group:
        yield group
