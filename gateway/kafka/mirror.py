"""What a machine has of its partitions, from the records to its local store, and from there to receipts and commits.

One process of the machine does this (`store.only_speaker`); the others lease from the store all the same. Everything
here happens in one loop and is told apart by partition: a record is read, its batches are admitted to the store, their
receipts are published as the store's feed tells of them, and when nothing of a record is left its offset may be
committed. See docs/kafka.md.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from gateway.kafka import progress, store
from gateway.kafka.cluster import Cluster
from gateway.kafka.outgoing import Outgoing
from gateway.kafka.progress import Legacy
from gateway.kafka.records import Kept, Work, decode_job, decode_work, partition_of
from gateway.kafka.seals import Seals
from gateway.kafka.topics import Topics
from gateway.kafka.watermark import Watermark
from gateway.model import State
from gateway.queue import columns as column
from gateway.queue import uploads
from gateway.queue.base import NewBatch, QueueError
from gateway.queue.sqlite import SqliteQueue

SPAN_BYTES = 16 << 20
SPAN_RECORDS = 20_000
"""Of a partition, from the first record that is not done on: what is read once more after a loss. From here on it is
paused, and goes on at half of it, because a pause throws away what was fetched."""

COMMIT_INTERVAL = 1.0
AGAIN = 1.0
"""Seconds until what failed is made anew."""

STILL = 60.0
"""Seconds without progress, while there is something to read, after which the consumer is made anew (aiokafka's issue
1037)."""

LONG = 30.0
"""Seconds after which work that is not done leaves its record behind, so that one slow device pins no partition."""

ALIVE_SHARE = 0.9
"""Of the session's timeout for which a commit proves that the partitions are still ours."""

_TERMINAL = bytes(state for state in State if state >= State.ACCEPTED)

log = structlog.get_logger()

Jobs = Callable[[Any], Awaitable[None]]
"""Takes a record of the topic of jobs; returns when its batches are stored, or it is among the dead letters."""


class Meter(Protocol):
    """Where counts go."""

    def rebalanced(self, partitions: int) -> None:
        """Partitions were assigned."""

    def lag(self, records: Mapping[str, int]) -> None:
        """Records of this machine's partitions that are not read, by kind of topic."""

    def dead_letter(self) -> None:
        """A record was put aside."""

    def failed(self, reason: str) -> None:
        """Nothing comes from the group, for now."""


class Record:
    """A record that was read: done when nothing of its batches is left."""

    __slots__ = ("at", "left", "offset", "watermark")

    def __init__(self, watermark: Watermark, offset: int, left: int) -> None:
        self.watermark = watermark
        self.offset = offset
        self.left = left
        self.at = time.monotonic()

    def less(self) -> None:
        """One of its batches is done, or kept elsewhere."""
        self.left -= 1
        if self.left <= 0:
            self.watermark.done(self.offset)


class Batch:
    """A batch of this machine's partitions that is not done."""

    __slots__ = ("kept", "left", "lone", "record")

    def __init__(self, record: Record | None, left: int, *, kept: bool, lone: bool) -> None:
        self.record = record
        """Which it was read from; None for one that left its record behind."""
        self.left = left
        """Deliveries whose receipts are not published."""
        self.kept = kept
        """Whether the topic of progress tells of it."""
        self.lone = lone
        """Whether its work is in the topic of progress."""


class Mirror:
    """Runs for as long as this process speaks for its machine."""

    def __init__(
        self,
        cluster: Cluster,
        topics: Topics,
        local: SqliteQueue,
        outgoing: Outgoing,
        seals: Seals,
        *,
        session: float,
        handover: float,
        cancelled: Callable[[str], bool],
        meter: Meter,
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._local = local
        self._outgoing = outgoing
        self._seals = seals
        self._session = session
        self._handover = handover
        self._cancelled = cancelled
        self._meter = meter
        self._jobs: Jobs | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._watermarks: dict[TopicPartition, Watermark] = {}
        self._batches: dict[bytes, Batch] = {}
        self._legacy = Legacy({}, {}, set(), {})
        self._loading: set[int] = set()
        """Partitions that were assigned and are not read yet."""
        self._owned: set[int] = set()
        self._paused: set[TopicPartition] = set()
        self._committed: dict[TopicPartition, int] = {}
        self._moved_at = time.monotonic()
        self._unpublished: dict[bytes, int] = {}
        self._assigned = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.reads = asyncio.Event()
        """Set while there are partitions, and all of them are read."""

    def take_jobs(self, jobs: Jobs) -> None:
        """From now on records of the topic of jobs go there."""
        self._jobs = jobs

    async def run(self) -> None:
        """Mirror until cancelled; what fails is made anew."""
        while True:
            reason = "it ended"
            try:
                await self._mirror()
            except* (KafkaError, OSError, QueueError, TimeoutError) as group:
                first = _first(group)
                reason = str(first) or type(first).__name__
            log.warning("kafka.mirror_failed", reason=reason)
            self._meter.failed(reason)
            await asyncio.sleep(AGAIN)

    async def _mirror(self) -> None:
        self._consumer = consumer = self._cluster.member()
        try:
            consumer.subscribe(list(self._topics.work), listener=_Listener(self))
            await consumer.start()
            self._moved_at = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for loop in (self._read, self._publish, self._commit_for_ever, self._move_for_ever):
                    tasks.create_task(loop())
        finally:
            self.reads.clear()
            self._consumer = None
            await consumer.stop()
            self._forget()

    def _forget(self) -> None:
        """What this consumer knew of its partitions. The store keeps what it has: see `_arrive`."""
        self._watermarks.clear()
        self._batches.clear()
        self._owned.clear()
        self._loading.clear()
        self._paused.clear()
        self._committed.clear()

    # Coming and going of partitions: called by the listener

    async def revoked(self) -> None:
        """The group changes: give back what is in hand, tell where it stands, and commit."""
        self.reads.clear()
        if not self._owned:
            return
        await self._local.database.write(store.leave)
        await self._given_back(self._handover)
        await self._flush()
        await self._hand_over(self._owned)
        await self._commit()

    async def _given_back(self, deadline: float) -> None:
        """Wait until nobody holds anything, and take it from those who still do."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if not await self._local.database.read(store.leased):
                return
            await asyncio.sleep(0.02)
        now = time.time()
        trace_of = self._local.trace_of
        await self._local.database.write(lambda db: store.release_leased(db, self._owned.__contains__, trace_of, now))

    async def _hand_over(self, partitions: Iterable[int]) -> None:
        """Write down how far the batches of these partitions are."""
        chosen = frozenset(partitions)
        held = await self._local.database.read(lambda db: store.held(db, chosen.__contains__))
        told = [
            each
            for each in held
            if each.touched or (each.batch_id in self._batches and self._batches[each.batch_id].kept)
        ]
        await self._outgoing.keep([(each.batch_id, each.columns, each.crashes) for each in told], in_hand=False)
        for each in told:
            if each.batch_id in self._batches:
                self._batches[each.batch_id].kept = True

    async def assigned(self, partitions: set[TopicPartition]) -> None:
        """These are ours now; `_arrive` does what takes time, as nobody sends heartbeats while this runs."""
        assert self._consumer is not None
        self._consumer.pause(*partitions)
        self._paused = set(partitions)
        self._watermarks = {each: Watermark() for each in partitions}
        self._loading = {each.partition for each in partitions}
        self._meter.rebalanced(len(partitions))
        self._assigned.set()

    async def _arrive(self) -> None:
        """Learn what earlier holders left of the partitions, then read them."""
        consumer, partitions, watermarks = self._consumer, set(self._loading), self._watermarks
        assert consumer is not None
        generation = consumer._coordinator.generation
        known = await self._local.database.read(store.member)
        stayed = self._owned & partitions if self._owned else partitions if known.generation == generation else set()
        former = await self._local.database.read(lambda db: store.held(db, lambda number: number not in stayed))
        commits = await consumer._coordinator.fetch_committed_offsets(list(watermarks))
        since = _noted(commits)
        legacy = await progress.read(self._cluster, self._topics, sorted(partitions), since)
        if watermarks is not self._watermarks:
            return  # the group changed once more meanwhile
        clock = time.time() - self._local.time()
        for each in former:
            # What was here before others had the partition is worth no less than what they tell.
            legacy.progress[each.batch_id] = _merged(each, legacy.progress.get(each.batch_id), clock)
        sequences = [each.sequence for each in former]
        await self._local.database.write(lambda db: store.drop(db, sequences))
        self._legacy = legacy
        self._outgoing.receipts_at.update(legacy.ends)
        self._committed = {each: found.offset for each, found in commits.items() if found.offset >= 0}
        self._batches = {}
        self._owned = partitions
        unpublished = await self._local.database.read(lambda db: store.unpublished(db, known.published))
        self._unpublished = unpublished
        await self._admit_moved()
        await self._local.database.write(lambda db: store.joined(db, generation))
        self._loading = set()
        consumer.resume(*watermarks)
        self._paused = set()
        await self._commit()
        self.reads.set()
        log.info("kafka.assigned", partitions=sorted(partitions), generation=generation)

    async def _admit_moved(self) -> None:
        for batch_id, kept in self._legacy.moved.items():
            if kept.work is None:
                continue
            work = decode_work(kept.work)
            (batch,) = work.batches
            self._batches[batch_id] = Batch(None, await self._left(batch), kept=True, lone=True)
            await self._admit(work, batch, self._legacy.progress.get(batch_id, kept))

    async def _left(self, batch: NewBatch) -> int:
        """Deliveries of a batch whose receipts are not published, as far as it is here."""
        found = await self._local.database.read(lambda db: store.states_of(db, [batch.id]))
        if batch.id not in found:
            return batch.count
        count, states, _ = found[batch.id]
        ended = 0 if states is None else len(states) - len(states.translate(None, _TERMINAL))
        return count - ended + self._unpublished.get(batch.id, 0)

    # Reading

    async def _read(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while True:
            if self._assigned.is_set():
                self._assigned.clear()
                await self._arrive()
            # Also while all is paused: who does not ask leaves the group.
            found = await consumer.getmany(timeout_ms=100, max_records=2_000)
            watermarks = self._watermarks
            for lane in sorted(found, key=lambda each: each.topic != self._topics.transactional):
                if lane in watermarks and lane.partition not in self._loading:
                    self._moved_at = time.monotonic()
                    await self._take(lane, watermarks[lane], found[lane])
            self._regulate()

    async def _take(self, lane: TopicPartition, watermark: Watermark, records: Sequence[Any]) -> None:
        """Admit the batches of some records of a partition, in their order."""
        for record in records:
            watermark.seen(record.offset, len(record.value or b""), self._outgoing.receipts_at.get(lane.partition, 0))
        if lane.topic == self._topics.jobs:
            await self._take_jobs(watermark, records)
            return
        await asyncio.gather(*(self._take_work(lane, watermark, record) for record in records))

    async def _take_jobs(self, watermark: Watermark, records: Sequence[Any]) -> None:
        if self._jobs is None:
            raise QueueError("nobody takes jobs from Kafka")
        for record in records:
            await self._jobs(record)
            watermark.done(record.offset)

    async def _take_work(self, lane: TopicPartition, watermark: Watermark, record: Any) -> None:
        try:
            work = decode_work(record.value)
            job_id = decode_job(work.job).id
        except (ValueError, TypeError) as error:
            await self._outgoing.dead_letter(record, f"is no record of a batch: {error}")
            self._meter.dead_letter()
            watermark.done(record.offset)
            return
        if work.sealed or self._seals.known(job_id):
            await self._take_visible(work, watermark, record.offset)
        else:
            assert self._tasks is not None
            self._tasks.create_task(self._await_seal(lane, watermark, record, work, job_id))

    async def _await_seal(
        self, lane: TopicPartition, watermark: Watermark, record: Any, work: Work, job_id: str
    ) -> None:
        sealed = await self._seals.wait(job_id, record.timestamp / 1000)
        if self._watermarks.get(lane) is not watermark:
            return  # whoever has the partition by now reads it as well
        if sealed:
            await self._take_visible(work, watermark, record.offset)
        else:
            watermark.done(record.offset)  # its upload broke off: nobody was told that it was accepted

    async def _take_visible(self, work: Work, watermark: Watermark, offset: int) -> None:
        at = Record(watermark, offset, len(work.batches))
        legacy = self._legacy
        plain = [batch for batch in work.batches if not self._has_history(batch.id, legacy)]
        if len(plain) == len(work.batches):
            await self._admit_plain(work, plain, at)
            return
        for batch in work.batches:
            if batch.id in legacy.done or batch.id in legacy.moved:
                at.less()
            elif batch.id in legacy.progress:
                self._batches[batch.id] = Batch(at, await self._left(batch), kept=True, lone=False)
                await self._admit(work, batch, legacy.progress.pop(batch.id))
            else:
                await self._admit_plain(work, [batch], at)

    def _has_history(self, batch_id: bytes, legacy: Legacy) -> bool:
        return batch_id in legacy.progress or batch_id in legacy.done or batch_id in legacy.moved

    async def _admit_plain(self, work: Work, batches: Sequence[NewBatch], at: Record) -> None:
        """Batches of which nobody has told anything."""
        job = decode_job(work.job)
        for batch in batches:
            self._batches.setdefault(batch.id, Batch(at, batch.count, kept=not job.resend_unknown, lone=False))
        known = await self._local.admit(job, batches, offered=work.offered and not self._cancelled(job.id))
        for batch in batches:
            if batch.id in known:
                await self._meet_again(batch, at)
        if self._cancelled(job.id):
            await self._local.cancel(job.id, time.time())

    async def _meet_again(self, batch: NewBatch, at: Record) -> None:
        """A batch that is here already: it was read before this process spoke for the machine, or stored twice."""
        here = self._batches[batch.id]
        if here.record is not at:
            at.less()  # another record has it
            return
        here.left = await self._left(batch)
        if here.left <= 0:
            del self._batches[batch.id]
            at.less()

    async def _admit(self, work: Work, batch: NewBatch, kept: Kept) -> None:
        """A batch that was in other hands before."""
        job, now = decode_job(work.job), time.time()
        states = column.pending_may_be_sent(kept.states) if kept.in_hand else kept.states
        columns = progress.shifted(kept.columns._replace(states=states), self._local.time() - now)

        def operation(db: Any) -> None:
            if batch.id not in uploads.admit(db, job, [batch], None).known:
                store.resume(db, batch.id, columns, kept.crashes, now)

        await self._local.database.write(operation)
        if self._cancelled(job.id):
            await self._local.cancel(job.id, now)

    def _regulate(self) -> None:
        """Pause partitions of which much is in hand, with room between stopping and going on."""
        assert self._consumer is not None
        for lane, watermark in self._watermarks.items():
            if lane.partition in self._loading:
                continue
            if lane in self._paused:
                if watermark.size <= SPAN_BYTES // 2 and watermark.span <= SPAN_RECORDS // 2:
                    self._consumer.resume(lane)
                    self._paused.discard(lane)
            elif watermark.size > SPAN_BYTES or watermark.span > SPAN_RECORDS:
                self._consumer.pause(lane)
                self._paused.add(lane)

    # Receipts

    async def _publish(self) -> None:
        while True:
            if not await self._publish_some():
                await asyncio.sleep(0.02)

    async def _publish_some(self) -> bool:
        """Publish what the store's feed has; whether there may be more."""
        known = await self._local.database.read(store.member)
        fresh = await self._local.database.read(lambda db: store.feed(db, known.published))
        if fresh:
            await self._publish_rows([row for row in fresh if partition_of(row.ended.batch_id) in self._owned])
            await self._local.database.write(lambda db: store.published(db, fresh[-1].revision))
        verdicts = await self._local.database.read(lambda db: store.verdicts(db, known.told))
        if verdicts:
            await self._outgoing.tell_dead(verdicts)
            await self._local.database.write(lambda db: store.told(db, verdicts[-1].revision))
        return len(fresh) == store.FEED_AT_ONCE

    async def _publish_rows(self, rows: Sequence[store.Fresh]) -> None:
        batches = self._batches
        left: Counter[bytes] = Counter()
        for row in rows:
            left[row.ended.batch_id] += _told(row)
        ends = {name for name, told in left.items() if name in batches and batches[name].left <= told}
        # How far they are before what of them is told: whoever takes over must not tell otherwise.
        parts = {row.ended.batch_id: row.ended for row in rows if row.ended.batch_id not in ends}
        known = {name: ended for name, ended in parts.items() if name in batches}
        await self._outgoing.keep([(name, ended.columns, 0) for name, ended in known.items()], in_hand=True)
        for name in known:
            batches[name].kept = True
        await self._outgoing.publish(rows, ends)
        await self._outgoing.forget([(name, batches[name].lone) for name in ends if batches[name].kept])
        for name in left.keys() & batches.keys():
            batches[name].left -= left[name]
            if name in ends and (record := batches.pop(name).record) is not None:
                record.less()

    async def _flush(self) -> None:
        """Publish all there is."""
        while await self._publish_some():
            pass

    # Offsets

    async def _commit_for_ever(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL)
            if self._owned and not self._loading:
                await self._commit()
            self._watch()

    async def _commit(self) -> None:
        """Commit what is done. A group that changes meanwhile refuses it, and whoever is next reads it once more."""
        consumer, watermarks = self._consumer, self._watermarks
        if consumer is None or not watermarks:
            return
        began = self._local.time()
        offsets = {}
        for lane, watermark in watermarks.items():
            position = watermark.position
            if position is None:
                position = self._committed.get(lane, 0)
            note = self._outgoing.receipts_at.get(lane.partition, 0) if watermark.note is None else watermark.note
            offsets[lane] = OffsetAndMetadata(position, str(note))
        try:
            await asyncio.wait_for(consumer.commit(offsets), self._session / 3)
        except (CommitFailedError, IllegalStateError, TimeoutError) as error:
            log.info("kafka.commit_refused", reason=type(error).__name__)
            return
        for lane, offset in offsets.items():
            if self._committed.get(lane) != offset.offset:
                self._moved_at = time.monotonic()
            self._committed[lane] = offset.offset
        until = began + self._session * ALIVE_SHARE
        await self._local.database.write(lambda db: store.alive(db, until))

    def lag(self) -> dict[str, int]:
        """Records not read, by kind of topic."""
        lags: Counter[str] = Counter()
        for lane, watermark in self._watermarks.items():
            end = None if self._consumer is None else self._consumer.highwater(lane)
            if end is not None:
                position = watermark.next
                lags[lane.topic.rpartition(".")[2]] += max(
                    0, end - (self._committed.get(lane, 0) if position is None else position)
                )
        return dict(lags)

    def _watch(self) -> None:
        """Raise where this consumer has stopped by itself, so that it is made anew."""
        lags = self.lag()
        self._meter.lag(lags)
        if self._paused or not sum(lags.values()):
            self._moved_at = time.monotonic()
        elif time.monotonic() - self._moved_at > STILL:
            raise QueueError(f"nothing was read for {STILL:g} s, and there is something to read")

    # What waits for long

    async def _move_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LONG / 6)
            await self._move(time.monotonic() - LONG)

    async def _move(self, before: float) -> None:
        """Store the work of batches that were read before then anew, so that their records may be left behind."""
        batches = self._batches
        by_record: defaultdict[Record, list[bytes]] = defaultdict(list)
        for batch_id, batch in batches.items():
            if batch.record is not None and batch.record.at < before:
                by_record[batch.record].append(batch_id)
        for record, batch_ids in by_record.items():
            moved = await self._outgoing.move(batch_ids)
            for batch_id in batch_ids:
                here = batches.get(batch_id)
                if batch_id not in moved:
                    continue
                if here is None or here.record is not record:
                    await self._outgoing.forget([(batch_id, True)])  # it ended meanwhile
                    continue
                here.record, here.kept, here.lone = None, True, True
                record.less()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._mirror.revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._mirror.assigned(assigned)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _noted(commits: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[int, int]:
    """Where the tail of the receipts begins, by partition: what the last commits noted."""
    since: dict[int, int] = {}
    for lane, found in commits.items():
        if found.metadata.isdecimal():
            since[lane.partition] = min(int(found.metadata), since.get(lane.partition, sys.maxsize))
    return since


def _told(row: store.Fresh) -> int:
    """Deliveries that a row of the feed tells of."""
    indexes = row.ended.indexes
    return len(row.ended.columns.states) if indexes is None else len(indexes)


def _merged(held: store.Held, kept: Kept | None, clock: float) -> Kept:
    """What of a batch is known here and elsewhere: a verdict counts, then that it may be on its way."""
    here = progress.shifted(held.columns, clock)
    if kept is None or len(kept.states) != len(here.states):
        return Kept(1, *here, False, held.crashes)
    states, notes = bytearray(kept.states), kept.columns.notes_by_index()
    milliseconds = kept.columns.milliseconds_array()
    mine, took = held.columns.notes_by_index(), held.columns.milliseconds_array()
    for index, state in enumerate(here.states):
        if state > states[index] and states[index] < State.ACCEPTED:
            states[index], milliseconds[index] = state, took[index]
            if index in mine:
                notes[index] = mine[index]
    merged = column.Columns(bytes(states), progress.encode_notes(notes), milliseconds.tobytes())
    return Kept(1, *merged, kept.in_hand, max(held.crashes, kept.crashes))
