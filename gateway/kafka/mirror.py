"""What a machine has of its partitions, from the records to its local store, and from there to receipts and commits.

One process of the machine does this (`store.only_speaker`); the others lease from the store all the same. Everything
here happens in one loop and is told apart by partition: a record is read, its batches are admitted to the store, their
receipts are published as the store's feed tells of them, and when nothing of a record is left its offset may be
committed. See docs/kafka.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from gateway.kafka import progress, store
from gateway.kafka.cluster import Cluster
from gateway.kafka.hand import Batch, Hand, Record
from gateway.kafka.outgoing import Outgoing, Standing
from gateway.kafka.progress import Legacy
from gateway.kafka.records import Kept, Work, decode_job, decode_work
from gateway.kafka.seals import Seals
from gateway.kafka.topics import Topics
from gateway.kafka.watermark import Watermark
from gateway.model import Job
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

ALIVE_SHARE = 0.9
"""Of the session's timeout for which a commit proves that the partitions are still ours."""

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
        left: Callable[[], None],
        meter: Meter,
    ) -> None:
        """`left` is called as soon as nothing may be sent any more because the group changes."""
        self._cluster = cluster
        self._topics = topics
        self._local = local
        self._outgoing = outgoing
        self._seals = seals
        self._session = session
        self._handover = handover
        self._cancelled = cancelled
        self._left = left
        self._meter = meter
        self._jobs: Jobs | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._watermarks: dict[TopicPartition, Watermark] = {}
        self._hand = Hand(local.database, outgoing, self._owns, self._certain)
        self._legacy = Legacy({}, {}, {}, set(), {})
        self._loading: set[int] = set()
        """Partitions that were assigned and are not read yet."""
        self._owned: set[int] = set()
        self._paused: set[TopicPartition] = set()
        self._committed: dict[TopicPartition, int] = {}
        self._moved_at = time.monotonic()
        self._generation = -1
        self._leaving = True
        self._alive_until = float("-inf")
        self._queues: dict[TopicPartition, asyncio.Task[None]] = {}
        """Of each partition of jobs, the last of its records that are being taken."""
        self._assigned = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def partitions(self) -> int:
        """How many are ours and read."""
        return 0 if self._loading or self._leaving else len(self._owned)

    @property
    def open_records(self) -> int:
        """Read, and not done."""
        return sum(watermark.span for watermark in self._watermarks.values())

    async def move_now(self) -> None:
        """What is in hand leaves its records behind, however short it has waited."""
        await self._hand.move(time.monotonic())

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
            except* Exception as group:
                reason = f"{type(_first(group)).__name__}: the log says more"
                log.exception("kafka.mirror_failed")
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
                for loop in (self._read, self._commit_for_ever, self._hand.publish_for_ever, self._hand.move_for_ever):
                    tasks.create_task(loop())
        finally:
            self._consumer = None
            await consumer.stop()
            self._forget()

    def _forget(self) -> None:
        """What this consumer knew of its partitions. The store keeps what it has: see `_arrive`."""
        self._watermarks.clear()
        self._hand.clear()
        self._queues.clear()
        self._owned.clear()
        self._loading.clear()
        self._paused.clear()
        self._committed.clear()

    def _owns(self, partition: int) -> bool:
        return partition in self._owned

    def _certain(self) -> bool:
        """Whether the last commit proves that our partitions are nobody else's."""
        return self._local.time() < self._alive_until

    # Coming and going of partitions: called by the listener

    async def revoked(self) -> None:
        """The group changes: give back what is in hand, tell where it stands, and commit."""
        assert self._consumer is not None
        self._leaving = True
        if not self._owned:
            return
        await self._local.database.write(store.leave)
        self._left()
        out = self._consumer._coordinator.member_id == ""  # others may have had the partitions for a while
        await self._given_back(0.0 if out else self._handover)
        if not out:
            await self._hand.publish_all()
            await self._hand_over()
            await self._commit()

    async def leave(self) -> None:
        """As when the group changes, for a process that ends and has given back what it had. aiokafka calls nothing
        then, and its member stays: whoever comes back within the session goes on as it."""
        if self._owned and not self._leaving:
            await self._hand.publish_all()
            await self._hand_over()
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
        await self._local.database.write(lambda db: store.release_leased(db, self._owns, trace_of, now))

    async def _hand_over(self) -> None:
        """Write down how far our batches are."""
        held = await self._local.database.read(lambda db: store.held(db, self._owns))
        told = [each for each in held if each.touched or self._hand.told(each.batch_id)]
        await self._outgoing.keep(
            [Standing(each.batch_id, each.columns, each.leased, each.attempt, each.crashes) for each in told]
        )
        for each in told:
            self._hand.keep(each.batch_id)

    async def assigned(self, partitions: set[TopicPartition]) -> None:
        """These are ours now; `_arrive` does what takes time, as nobody sends heartbeats while this runs."""
        assert self._consumer is not None
        self._consumer.pause(*partitions)
        self._generation = self._consumer._coordinator.generation
        self._queues = {}
        self._paused = set(partitions)
        self._watermarks = {each: Watermark() for each in partitions}
        self._loading = {each.partition for each in partitions}
        self._meter.rebalanced(len(partitions))
        self._assigned.set()

    async def _arrive(self) -> None:
        """Learn what earlier holders left of the partitions, then read them."""
        consumer, watermarks = self._consumer, self._watermarks
        partitions = {each.partition for each in watermarks}
        assert consumer is not None
        generation = self._generation
        known = await self._local.database.read(store.member)
        stayed = self._stayed(known.generation, generation, partitions)
        former = await self._local.database.read(lambda db: store.held(db, lambda number: number not in stayed))
        commits = await consumer._coordinator.fetch_committed_offsets(list(watermarks))
        since = progress.noted(commits)
        starts = await consumer.beginning_offsets([each for each in watermarks if each not in commits])
        legacy = await progress.read(self._cluster, self._topics, sorted(partitions), since)
        if watermarks is not self._watermarks:
            return  # the group changed once more meanwhile
        clock = time.time() - self._local.time()
        for each in former:
            # What was here before others had the partition is worth no less than what they tell.
            legacy.progress[each.batch_id] = progress.merged(each, legacy.progress.get(each.batch_id), clock)
        sequences = [each.sequence for each in former]
        await self._local.database.write(lambda db: store.drop(db, sequences))
        self._legacy = legacy
        self._outgoing.receipts_at.update(legacy.ends)
        self._committed = starts | {each: found.offset for each, found in commits.items()}
        self._hand.clear()
        self._owned = partitions
        await self._admit_moved()
        if watermarks is not self._watermarks:
            return
        await self._local.database.write(lambda db: store.joined(db, generation))
        self._loading = set()
        consumer.resume(*watermarks)
        self._paused = set()
        self._leaving = False
        await self._commit()
        log.info("kafka.assigned", partitions=sorted(partitions), generation=generation)

    def _stayed(self, former: int, generation: int, partitions: set[int]) -> set[int]:
        """Partitions that nobody else had since they were ours: whoever is away for longer misses a generation."""
        if former == generation:
            return partitions
        return self._owned & partitions if former == generation - 1 else set()

    async def _admit_moved(self) -> None:
        for batch_id, kept in self._legacy.moved.items():
            work = decode_work(kept.work)
            (batch,) = work.batches
            self._hand.take(batch_id, Batch(None, batch.count, kept=True, marked=True, lone=True))
            await self._admit(work, batch, self._legacy.progress.get(batch_id, kept), None)

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
            self._queue_jobs(lane, watermark, records)
            return
        await asyncio.gather(*(self._take_work(lane, watermark, record) for record in records))

    def _queue_jobs(self, lane: TopicPartition, watermark: Watermark, records: Sequence[Any]) -> None:
        """Take them one after the other, beside everything else: one that has to wait holds up its partition alone."""
        assert self._tasks is not None
        self._queues[lane] = self._tasks.create_task(self._take_jobs(self._queues.get(lane), lane, watermark, records))

    async def _take_jobs(
        self,
        before: asyncio.Task[None] | None,
        lane: TopicPartition,
        watermark: Watermark,
        records: Sequence[Any],
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        for record in records:
            if self._jobs is None or self._watermarks.get(lane) is not watermark:
                return  # whoever has the partition next reads it as well
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
                self._hand.take(batch.id, Batch(at, batch.count, kept=True, marked=True))
                await self._admit(work, batch, legacy.progress.pop(batch.id), at)
            else:
                await self._admit_plain(work, [batch], at)

    def _has_history(self, batch_id: bytes, legacy: Legacy) -> bool:
        return batch_id in legacy.progress or batch_id in legacy.done or batch_id in legacy.moved

    async def _admit_plain(self, work: Work, batches: Sequence[NewBatch], at: Record) -> None:
        """Batches of which nobody has told anything."""
        job = decode_job(work.job)
        for batch in batches:
            self._hand.take(batch.id, Batch(at, batch.count, marked=not job.resend_unknown))
        offered = work.offered and self._may_offer(job)
        if offered and not job.resend_unknown:
            await self._outgoing.mark([(batch.id, 1) for batch in batches])
        for batch_id in await self._local.admit(job, batches, total=work.total, offered=offered):
            await self._hand.meet(batch_id, at)
        if self._cancelled(job.id):
            await self._local.cancel(job.id, time.time())

    def _may_offer(self, job: Job) -> bool:
        """Whether its batches may be on the wire as soon as they are stored: their leases end before our partitions
        can be others'."""
        lasts = self._alive_until - self._local.time() > self._local.lease_seconds
        return lasts and not self._leaving and not self._cancelled(job.id)

    async def _admit(self, work: Work, batch: NewBatch, kept: Kept, at: Record | None) -> None:
        """A batch that was in other hands before."""
        job, now = decode_job(work.job), time.time()
        columns = kept.columns if kept.states else column.Columns.fresh(batch.count)
        if kept.in_hand:
            columns = columns._replace(states=column.pending_may_be_sent(columns.states))
        columns = progress.shifted(columns, self._local.time() - now)

        def operation(db: Any) -> None:
            if batch.id not in uploads.admit(db, job, [batch], None, work.total).known:
                store.resume(db, batch.id, columns, kept.crashes, kept.attempt, now)

        await self._local.database.write(operation)
        await self._hand.meet(batch.id, at)
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
        if consumer is None or not watermarks or self._loading:
            return
        began = self._local.time()
        offsets = {}
        for lane, watermark in watermarks.items():
            position = self._committed[lane] if watermark.position is None else watermark.position
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
        self._alive_until = until = began + self._session * ALIVE_SHARE
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
