"""What a machine writes for others: receipts, progress, dead targets, dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence, Set
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.kafka import progress, store
from gateway.kafka.producer import Header, Producer, Record
from gateway.kafka.progress import DONE_HEADER, MARK, PROGRESS, WORK
from gateway.kafka.records import VERSION, Kept, Work, encode, partition_of
from gateway.kafka.topics import Topics
from gateway.model import Route
from gateway.queue.base import NewBatch
from gateway.queue.columns import Columns
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.events import (
    Event,
    accepted_event,
    batch_event,
    delivery_events,
    invalid_token_event,
    kafka_headers,
)
from gateway.receipts.states import InvalidToken

REASON_HEADER = "carillon-reason"
ORIGIN_HEADER = "carillon-origin"
"""`topic/partition/offset` of the record that became a dead letter."""

_decode_columns = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode


class Standing(NamedTuple):
    """How far a batch is."""

    batch_id: bytes
    columns: Columns
    in_hand: bool
    attempt: int
    crashes: int


class Outgoing:
    """All methods return when the records are stored.

    Raises:
        Unreachable: as `Producer.store`.
    """

    def __init__(
        self, topics: Topics, producer: Producer, local: SqliteQueue, receipts: Literal["batch", "delivery"]
    ) -> None:
        self._topics = topics
        self._producer = producer
        self._local = local
        self._events = _whole if receipts == "batch" else _single
        self.receipts_at: dict[int, int] = {}
        """The offset behind the last receipt that is known of, by partition."""

    async def publish(self, rows: Sequence[store.Fresh], ends: Set[bytes]) -> None:
        """Tell of receipts; the last record of a batch that ends says so."""
        last = {row.ended.batch_id: row.revision for row in rows if row.ended.batch_id in ends}
        records = []
        for row in rows:
            batch_id = row.ended.batch_id
            partition = partition_of(batch_id)
            told = [
                Record(self._topics.receipts, partition, event.id.encode(), event.data, kafka_headers(event))
                for event in self._events(row)
            ]
            if last.get(batch_id) == row.revision:
                told[-1] = told[-1]._replace(headers=[*told[-1].headers, (DONE_HEADER, batch_id.hex().encode())])
            records += told
        for stored in await self._producer.store(records):
            self.receipts_at[stored.partition] = max(stored.offset + 1, self.receipts_at.get(stored.partition, 0))

    async def mark(self, leases: Iterable[tuple[bytes, int]]) -> None:
        """Tell that batches are in hand: id, attempt."""
        await self._producer.store(
            [
                Record(self._topics.progress, partition_of(batch_id), batch_id + MARK, encode(attempt))
                for batch_id, attempt in leases
            ]
        )

    async def keep(self, batches: Iterable[Standing]) -> None:
        """Tell how far batches are."""
        clock = time.time() - self._local.time()
        await self._producer.store(
            [
                Record(
                    self._topics.progress,
                    partition_of(each.batch_id),
                    each.batch_id + PROGRESS,
                    encode(
                        Kept(
                            VERSION,
                            *progress.shifted(each.columns, clock),
                            each.in_hand,
                            each.attempt,
                            each.crashes,
                        )
                    ),
                )
                for each in batches
            ]
        )

    async def forget(self, batches: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
        """Batches that are done need nothing of these kinds any more."""
        await self._producer.store(
            [
                Record(self._topics.progress, partition_of(batch_id), batch_id + kind, None)
                for batch_id, kinds in batches
                for kind in kinds
            ]
        )

    async def move(self, batch_ids: Iterable[bytes]) -> set[bytes]:
        """Store the work of batches among the progress; which of them still had work."""
        records, columns = [], []
        moved = set()
        for batch_id in batch_ids:
            found = await self._local.database.read(partial(store.work_of, batch_id=batch_id))
            each = await self._local.database.read(partial(store.held_batch, batch_id=batch_id))
            if found is None or each is None:
                continue
            body, total, route, count, recipients, encoded = found
            batch = NewBatch(batch_id, Route(*route), count, recipients, _decode_columns(encoded))
            work = encode(Work(VERSION, msgspec.Raw(body), (batch,), total))
            kept = Kept(VERSION, *Columns.fresh(count), False, 0, 0, work)
            records.append(Record(self._topics.progress, partition_of(batch_id), batch_id + WORK, encode(kept)))
            columns.append(Standing(batch_id, each.columns, each.leased, each.attempt, each.crashes))
            moved.add(batch_id)
        await self.keep(columns)
        await self._producer.store(records)
        return moved

    async def tell_dead(self, verdicts: Sequence[store.Verdict]) -> None:
        """Tell of dead targets. The topic keeps the last word about each."""
        records = []
        for _, app, provider, target in verdicts:
            token = InvalidToken(provider, target.key.decode(), target.since, target.reason)
            event = invalid_token_event(app, token)
            key = f"{app}/{provider}/{token.key}".encode()
            records.append(Record(self._topics.invalid_tokens, None, key, event.data, kafka_headers(event)))
        await self._producer.store(records)

    async def accepted(self, record: Any, job_id: str, answer: bytes) -> None:
        """Tell who wrote a job into the topic what it became."""
        event = accepted_event(job_id, _place(record), record.timestamp / 1000, answer)
        await self._producer.store(
            [Record(self._topics.receipts, record.partition, event.id.encode(), event.data, kafka_headers(event))]
        )

    async def dead_letter(self, record: Any, reason: str) -> None:
        """Put a record that nobody can do anything with where a person finds it, as it came."""
        headers: list[Header] = [
            *record.headers,
            (REASON_HEADER, reason.encode()[:1_000]),
            (ORIGIN_HEADER, _place(record).encode()),
        ]
        await self._producer.store(
            [Record(self._topics.dead_letters, record.partition, record.key, record.value, headers)]
        )


def _place(record: Any) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def _whole(row: store.Fresh) -> list[Event]:
    return [batch_event(row.ended)]


def _single(row: store.Fresh) -> list[Event]:
    return list(delivery_events(row.ended))
