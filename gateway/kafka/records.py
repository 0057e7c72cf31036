"""What stands in the topics that machines write for each other, and how it is divided into records.

Partition p of every topic belongs together, and a batch's id says which p that is: so whoever has a partition has all
there is of its batches, and whoever knows a delivery's id knows where to look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from gateway.model import Job
from gateway.queue.base import NewBatch, QueueError
from gateway.queue.columns import Columns

VERSION = 1

RECORD_BYTES = 900_000
"""Most of a record's value. A broker takes 1 MiB unless told otherwise, frame and headers included."""

_OVERHEAD = 200
"""Bytes of a batch in a record beside its columns, at most."""


class Work(msgspec.Struct, array_like=True, frozen=True):
    """A record of a topic of batches: a job, and some or all of its batches."""

    version: int
    job: msgspec.Raw
    batches: tuple[NewBatch, ...]
    total: int
    """Deliveries of the whole job."""
    sealed: bool = True
    """Whether that is the whole job. Otherwise it is invisible until a `Seal` has been read."""
    offered: bool = True
    """Whether it may be handed to a dispatcher as it is stored (`Taker.wants`)."""


class Seal(msgspec.Struct, array_like=True, frozen=True):
    """A record of the topic of seals, which every machine reads: all records of a job are there. Its key is the job."""

    version: int
    records: int


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """A record of the topic of progress, by batch: what the next holder has to know."""

    version: int
    states: bytes
    """Empty where nothing is known but that it was in hand."""
    notes: bytes | None
    milliseconds: bytes
    in_hand: bool
    """Whether a holder has it, so that what is not known of its deliveries may be on its way."""
    attempt: int
    """Of its leases; a mark of a later one says that it is in hand by now."""
    crashes: int = 0
    work: bytes = b""
    """The encoded `Work`, of this batch alone, where its record in the topic of batches was left behind."""

    @property
    def columns(self) -> Columns:
        return Columns(self.states, self.notes, self.milliseconds)


encode = msgspec.msgpack.Encoder().encode
decode_work = msgspec.msgpack.Decoder(Work).decode
decode_seal = msgspec.msgpack.Decoder(Seal).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode
decode_attempt = msgspec.msgpack.Decoder(int).decode
decode_job = msgspec.msgpack.Decoder(Job).decode


def partition_of(batch_id: bytes) -> int:
    """The partition that a batch's id names."""
    return int.from_bytes(batch_id[12:14], "big")


def placed(batch_id: bytes, partition: int) -> bytes:
    """The id, naming a partition in place of 16 of its random bits."""
    return batch_id[:12] + partition.to_bytes(2, "big") + batch_id[14:]


def partition_for(job: Job, batch: NewBatch, partitions: int) -> int:
    """Where a batch goes: evenly over all, but the jobs of an ordering key after each other in one."""
    if job.ordering_key is None:
        return int.from_bytes(batch.id[10:14], "big") % partitions
    digest = hashlib.blake2b(f"{job.app}\n{job.ordering_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions


def size(batch: NewBatch) -> int:
    """Bytes it takes in a record, nearly."""
    return len(batch.recipients) + sum(map(len, batch.columns)) + _OVERHEAD


def fitting(batches: Iterable[NewBatch], room: int, split: Iterator[bytes]) -> Iterator[NewBatch]:
    """The batches, in halves where they are too large for a record; `split` gives ids for the halves.

    Raises:
        QueueError: one recipient alone is too large.
    """
    for batch in batches:
        if size(batch) <= room:
            yield batch
        elif batch.count == 1:
            raise QueueError(f"a recipient takes more than the {room:,} bytes that a record of Kafka holds")
        else:
            yield from fitting(_halves(batch, split), room, split)


def _halves(batch: NewBatch, split: Iterator[bytes]) -> list[NewBatch]:
    middle = batch.count // 2
    cut = [_cut(column, middle) for column in (batch.recipients, *batch.columns)]
    halves = zip(*cut, strict=True)
    counts = (middle, batch.count - middle)
    return [
        NewBatch(id=next(split), route=batch.route, count=count, recipients=recipients, columns=tuple(columns))
        for count, (recipients, *columns) in zip(counts, halves, strict=True)
    ]


def _cut(column: bytes, middle: int) -> tuple[bytes, bytes]:
    lines = column.split(b"\n")
    return b"\n".join(lines[:middle]), b"\n".join(lines[middle:])


def works(job: bytes, batches: Sequence[NewBatch], total: int, *, offered: bool) -> list[Work]:
    """A job's records, `total` deliveries in all: one if that holds it, else as many as it takes, which a seal has to
    follow.

    All batches of one record are in one partition.
    """
    groups: list[list[NewBatch]] = []
    room = 0
    for batch in sorted(batches, key=lambda each: partition_of(each.id)):
        left = size(batch)
        if not groups or left > room or partition_of(groups[-1][0].id) != partition_of(batch.id):
            groups.append([])
            room = RECORD_BYTES - len(job)
        groups[-1].append(batch)
        room -= left
    sealed = len(groups) == 1
    return [Work(VERSION, msgspec.Raw(job), tuple(group), total, sealed, offered and sealed) for group in groups]
