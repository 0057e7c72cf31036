"""What earlier holders left of a partition: progress, work that waits long, and which batches are done.

Read once, when a partition is assigned, before its records are: the topic of progress whole (it is compacted, and a
batch that is done leaves it), and the tail of the receipts, for a batch of which they tell is done even if no offset
says so yet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition

from gateway.kafka.cluster import Cluster
from gateway.kafka.records import VERSION, Kept, decode_attempt, decode_kept
from gateway.kafka.store import Held
from gateway.kafka.topics import Topics
from gateway.model import Note, State
from gateway.queue.columns import Columns

TAIL_SECONDS = 300.0
"""Of the receipts, at least: a job that was submitted by a record which was read twice has its batches twice within
the time that it takes to notice a loss."""

DONE_HEADER = "carillon-done"
"""On the record that ends a batch: nothing of it is left."""

WORK = b"w"
"""Follows the batch's id in the key of work that was moved, as the others do in those of its progress, and of the mark
that says which lease of it was begun last."""
PROGRESS = b"p"
MARK = b"m"

NOTHING = Kept(VERSION, b"", None, b"", False, 0)

encode_notes = msgspec.msgpack.Encoder().encode


class Legacy(NamedTuple):
    """Of some partitions."""

    progress: dict[bytes, Kept]
    """By batch."""
    moved: dict[bytes, Kept]
    """Work that waits for long, by batch."""
    marks: dict[bytes, int]
    """Leases that were begun, by batch."""
    done: set[bytes]
    ends: dict[int, int]
    """Where the receipts ended, by partition."""


async def read(cluster: Cluster, topics: Topics, partitions: Sequence[int], since: Mapping[int, int]) -> Legacy:
    """Read what is left of these partitions.

    Args:
        since: offsets in the topic of receipts from which on they may tell of batches whose offsets are not
            committed, as far as known.
    """
    legacy = Legacy({}, {}, {}, set(), {})
    if not partitions:
        return legacy
    reader = cluster.reader(patience=0.01)
    await reader.start()
    try:
        await _read_progress(reader, [TopicPartition(topics.progress, number) for number in partitions], legacy)
        await _read_done(reader, [TopicPartition(topics.receipts, number) for number in partitions], since, legacy)
    finally:
        await reader.stop()
    for batch_id in legacy.done:
        for kind in (legacy.progress, legacy.moved, legacy.marks):
            kind.pop(batch_id, None)
    for batch_id, attempt in legacy.marks.items():
        kept = legacy.progress.get(batch_id, NOTHING)
        if attempt > kept.attempt:
            legacy.progress[batch_id] = msgspec.structs.replace(kept, in_hand=True, attempt=attempt)
    return legacy


async def _read_progress(reader: AIOKafkaConsumer, assigned: list[TopicPartition], legacy: Legacy) -> None:
    reader.assign(assigned)
    await reader.seek_to_beginning(*assigned)
    async for record in to_the_end(reader, assigned):
        batch_id, kind = record.key[:16], record.key[16:]
        kinds: dict[bytes, dict[bytes, Any]] = {WORK: legacy.moved, PROGRESS: legacy.progress, MARK: legacy.marks}
        if record.value is None:
            kinds[kind].pop(batch_id, None)
        else:
            kinds[kind][batch_id] = (decode_attempt if kind == MARK else decode_kept)(record.value)


async def _read_done(
    reader: AIOKafkaConsumer, assigned: list[TopicPartition], since: Mapping[int, int], legacy: Legacy
) -> None:
    reader.assign(assigned)
    before = int((time.time() - TAIL_SECONDS) * 1000)
    recent = await reader.offsets_for_times(dict.fromkeys(assigned, before))
    ends = await reader.end_offsets(assigned)
    legacy.ends.update({each.partition: end for each, end in ends.items()})
    for each in assigned:
        start = recent[each].offset if recent.get(each) is not None else ends[each]
        reader.seek(each, min(start, since.get(each.partition, start)))
    async for record in to_the_end(reader, assigned):
        for name, value in record.headers:
            if name == DONE_HEADER:
                legacy.done.add(bytes.fromhex(value.decode()))


async def to_the_end(reader: AIOKafkaConsumer, assigned: list[TopicPartition]):  # type: ignore[no-untyped-def]
    """The records that are there now."""
    ends = await reader.end_offsets(assigned)
    left = {each for each in assigned if await reader.position(each) < ends[each]}
    while left:
        for records in (await reader.getmany(*left, timeout_ms=100)).values():
            for record in records:
                yield record
        # Compaction leaves gaps, also at the end: the position passes them, and no record tells of it.
        left = {each for each in left if await reader.position(each) < ends[each]}


def shifted(columns: Columns, seconds: float) -> Columns:
    """Columns whose waits are told on another clock: each machine's queue has its own."""
    notes = columns.notes_by_index()
    if not any(note.retry_at for note in notes.values()):
        return columns
    moved = {index: _shift(note, seconds) for index, note in notes.items()}
    return columns._replace(notes=encode_notes(moved))


def _shift(note: Note, seconds: float) -> Note:
    return msgspec.structs.replace(note, retry_at=note.retry_at + seconds) if note.retry_at else note


def noted(commits: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[int, int]:
    """Where the tail of the receipts begins, by partition: what the last commits noted."""
    since: dict[int, int] = {}
    for lane, found in commits.items():
        if found.metadata.isdecimal():
            since[lane.partition] = min(int(found.metadata), since.get(lane.partition, sys.maxsize))
    return since


def merged(held: Held, kept: Kept | None, clock: float) -> Kept:
    """What of a batch is known here and elsewhere: a verdict counts, then that it may be on its way."""
    here = shifted(held.columns, clock)
    if kept is None or len(kept.states) != len(here.states):
        in_hand = kept is not None and kept.in_hand
        attempt = held.attempt if kept is None else max(held.attempt, kept.attempt)
        return Kept(VERSION, *here, in_hand, attempt, held.crashes)
    states, notes = bytearray(kept.states), kept.columns.notes_by_index()
    milliseconds = kept.columns.milliseconds_array()
    mine, took = held.columns.notes_by_index(), held.columns.milliseconds_array()
    for index, state in enumerate(here.states):
        if state > states[index] and states[index] < State.ACCEPTED:
            states[index], milliseconds[index] = state, took[index]
            if index in mine:
                notes[index] = mine[index]
    merged = Columns(bytes(states), encode_notes(notes), milliseconds.tobytes())
    attempt = max(held.attempt, kept.attempt)
    return Kept(VERSION, *merged, kept.in_hand, attempt, max(held.crashes, kept.crashes))
