"""`Queue` over many machines: what is put goes to Kafka, what is leased comes from the machine's mirror.

A worker writes jobs and progress itself; one worker of the machine also mirrors (`mirror`). Idempotency, cancellations
and dead targets are the shared state's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog
from aiokafka.errors import KafkaError

from gateway.kafka import store
from gateway.kafka.cluster import Cluster
from gateway.kafka.incoming import Incoming, derived
from gateway.kafka.mirror import Jobs, Meter, Mirror
from gateway.kafka.outgoing import Outgoing
from gateway.kafka.producer import Producer
from gateway.kafka.seals import Seals
from gateway.kafka.spool import Spool
from gateway.kafka.topics import Topics
from gateway.model import Job, Route
from gateway.queue.base import (
    DeadTarget,
    Depth,
    Idempotency,
    Lease,
    NewBatch,
    Parked,
    ParkedBatch,
    QueueError,
    QueueFull,
    Replay,
    Room,
    Sees,
    Taker,
    Twin,
    sees_all,
)
from gateway.queue.sqlite import SqliteQueue
from gateway.settings import Kafka
from gateway.shared.base import Orphan, SharedState, SharedUnavailable

FOLLOW_INTERVAL = 0.1
"""Seconds between looks at what the machine's other workers say of the group."""

SPEAKER_INTERVAL = 0.5
"""Seconds between tries to speak for the machine: as long as it is mute after its speaker died."""

CANCELLATIONS_INTERVAL = 0.5
LEAVE_DEADLINE = 3.0
"""Seconds for telling, at the end, how far everything is; without it others go by what was told before."""

CANCELLED_AT_HAND = 100_000
"""Jobs of which it is remembered that they were cancelled, for records of theirs that come later."""

CANCELLED_KEPT = 7 * 86_400.0

_JOB_ID = re.compile(r"job_[0-9a-f]{32}")

log = structlog.get_logger()


class KafkaQueue:
    """`base.Queue` on Kafka.

    Args:
        settings: how to reach it.
        local: what of it is in hand, not open yet; all workers of the machine have it in common.
        shared: what machines share at speed, open.
        meter: where the group's counts go.
        high_water: most deliveries that may be stored and not complete, as far as this machine knows.
    """

    def __init__(
        self, settings: Kafka, local: SqliteQueue, *, shared: SharedState, meter: Meter, high_water: int = 10_000_000
    ) -> None:
        self._settings = settings
        self.local = local
        self.database = local.database
        self.shared = shared
        self._path = local.database.path
        self._high_water = high_water
        self.topics = Topics.of(settings.prefix)
        self._cluster = Cluster(settings)
        self._meter = meter
        self._spools: dict[str, Spool] = {}
        self._taker: Taker | None = None
        self._jobs: Jobs | None = None
        self._alive_until = float("-inf")
        self._leaving = True
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self.mirror: Mirror | None = None
        """If this process speaks for the machine."""

    # --- being there

    async def open(self) -> None:
        store.forget_other_start(self._path)
        await self.local.open()
        await self.database.write(store.prepare)
        self._producer = Producer(self._cluster, self._settings.timeout)
        self._incoming = Incoming(self.topics, self._producer, self._settings.partitions)
        self.outgoing = Outgoing(self.topics, self._producer, self.local, self._settings.receipts)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in (self._speak(), self._follow(), self._follow_cancellations())]

    async def close(self) -> None:
        if self.mirror is not None:
            try:
                await asyncio.wait_for(self.mirror.leave(), LEAVE_DEADLINE)
            except (QueueError, KafkaError, OSError, TimeoutError) as error:
                log.warning("kafka.left_untold", reason=str(error) or type(error).__name__)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for spool in self._spools.values():
            spool.close()
        await self._producer.close()
        await self.local.close()

    def hand_to(self, taker: Taker) -> None:
        self._taker = taker
        self.local.hand_to(taker)

    def take_jobs(self, jobs: Jobs) -> None:
        """Records of the topic of jobs go there."""
        self._jobs = jobs
        if self.mirror is not None:
            self.mirror.take_jobs(jobs)

    async def _speak(self) -> None:
        """Speak for the machine once nobody else does."""
        while True:
            with store.only_speaker(self._path) as alone:
                if alone:
                    seals = Seals(self._cluster, self.topics)
                    mirror = self.mirror = self._mirror(seals)
                    if self._jobs is not None:
                        mirror.take_jobs(self._jobs)
                    try:
                        await asyncio.gather(mirror.run(), _again(seals.run))
                    finally:
                        self.mirror = None
            await asyncio.sleep(SPEAKER_INTERVAL)

    def _mirror(self, seals: Seals) -> Mirror:
        return Mirror(
            self._cluster,
            self.topics,
            self.local,
            self.outgoing,
            seals,
            session=self._settings.session_timeout,
            handover=self._settings.handover,
            cancelled=self._cancelled.__contains__,
            left=self._leave,
            meter=self._meter,
        )

    async def _follow(self) -> None:
        """Learn from the speaker whether the partitions are ours."""
        while True:
            try:
                self._heed(await self.database.read(store.member))
            except QueueError as error:
                log.warning("kafka.member_unknown", reason=str(error))
            await asyncio.sleep(FOLLOW_INTERVAL)

    def _heed(self, member: store.Member) -> None:
        self._alive_until = member.alive_until
        if member.leaving or member.generation < 0:
            self._leave()
        elif self._leaving:
            self._leaving = False
            if self._taker is not None:
                self._taker.go_on()

    def _leave(self) -> None:
        if not self._leaving:
            self._leaving = True
            if self._taker is not None:
                self._taker.recall()

    @property
    def belongs(self) -> bool:
        """Whether this machine has its part of the partitions, and may work on it."""
        return not self._leaving and self._alive_until > self.time()

    @property
    def partitions(self) -> int:
        """How many this process speaks for."""
        return 0 if self.mirror is None else self.mirror.partitions

    async def published(self) -> None:
        """Wait until all receipts that are stored here are in Kafka."""
        while await self.database.read(store.waits):
            await asyncio.sleep(FOLLOW_INTERVAL)

    def time(self) -> float:
        return self.local.time()

    # --- what comes in

    async def begin(self, job: Job, idempotency: Idempotency | None) -> Replay | Twin | None:
        former = None if idempotency is None else await self._begin_stream(job, idempotency)
        if former is None:
            self._spools[job.id] = Spool(self._path.parent, job, idempotency)
        return former

    async def _begin_stream(self, job: Job, idempotency: Idempotency) -> Replay | Twin | None:
        """As of `begin`. An orphan was no job yet, as nothing of a stream is in a topic before its last moments."""
        former = await self.shared.begin(job.id, idempotency)
        if isinstance(former, Orphan):
            await self.shared.release(former.job_id, idempotency.key)
            former = await self.shared.begin(job.id, idempotency)
        return Twin.IN_FLIGHT if isinstance(former, Orphan) else former

    async def put(self, job_id: str, batches: Sequence[NewBatch]) -> None:
        spool = self._spool(job_id)
        await self._make_room(batches)
        spool.put(batches)

    def _spool(self, job_id: str) -> Spool:
        spool = self._spools.get(job_id)
        if spool is None:
            raise QueueError(f"{job_id} is not being uploaded by this process: begin it again")
        return spool

    async def _make_room(self, batches: Sequence[NewBatch]) -> None:
        deliveries = sum(batch.count for batch in batches)
        stored = (await self.depth()).deliveries
        if stored + deliveries > self._high_water:
            raise QueueFull(
                f"{stored} deliveries are queued and the limit is {self._high_water}: try again when some have been "
                "sent"
            )

    async def seal(self, job_id: str, batches: Sequence[NewBatch], fingerprint: bytes, answer: bytes) -> None:
        spool = self._spool(job_id)
        await self.put(job_id, batches)
        await self._incoming.store(spool.job, spool.read(), spool.deliveries, offered=False)
        if spool.idempotency is not None:
            await self._settle(spool.job, spool.idempotency._replace(fingerprint=fingerprint), answer)
        self._spools.pop(job_id).close()

    async def submit(
        self, job: Job, idempotency: Idempotency | None, batches: Sequence[NewBatch], answer: bytes
    ) -> Replay | Twin | None:
        former = None if idempotency is None else await self.shared.begin(job.id, idempotency)
        if isinstance(former, Replay | Twin):
            return former
        replay = None
        if isinstance(former, Orphan) and idempotency is not None:
            # Whoever began with this key may have stored it as its job: ours has the same ids, so that it is one.
            answer = answer.replace(job.id.encode(), former.job_id.encode())
            job = msgspec.structs.replace(job, id=former.job_id)
            replay = Replay(job.id, idempotency.fingerprint, answer)
        try:
            await self._make_room(batches)
            total = sum(batch.count for batch in batches)
            named = batches if idempotency is None else derived(job, batches)
            await self._incoming.store(job, named, total, offered=True)
        except BaseException:
            if idempotency is not None:
                await asyncio.shield(self._release(job.id, idempotency.key))
            raise
        if idempotency is not None:
            await self._settle(job, idempotency, answer)
        return replay

    async def _settle(self, job: Job, idempotency: Idempotency, answer: bytes) -> None:
        """The job is stored, whatever becomes of its key."""
        try:
            await self.shared.settle(job.id, idempotency, answer)
        except QueueError as error:
            log.warning("kafka.key_not_settled", reason=str(error))

    async def _release(self, job_id: str, key: str) -> None:
        with contextlib.suppress(SharedUnavailable):  # it is free after half a minute of silence
            await self.shared.release(job_id, key)

    async def abandon(self, job_id: str) -> None:
        spool = self._spools.pop(job_id, None)
        if spool is not None:
            spool.close()
            if spool.idempotency is not None:
                await self._release(job_id, spool.idempotency.key)

    # --- leases

    async def lease(self, room: Room, now: float) -> list[Lease]:
        if not self.belongs:
            return []
        leases = await self.local.lease(room, now)
        # What is reported as unknown after a loss has to be known to be in hand before anything of it is sent.
        marked = [each for each in leases if not each.job.resend_unknown]
        try:
            await self.outgoing.mark([(each.batch_id, each.attempt) for each in marked])
        except BaseException:
            for each in leases:
                await asyncio.shield(self.local.defer(each, 0.0, [], now))
            raise
        for each in leases:
            each.until = min(each.until, self._alive_until)
        return leases

    async def checkpoint(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        await self.local.checkpoint(lease, dead, now)
        lease.until = min(lease.until, self._alive_until)
        await self._share(lease.route, dead)

    async def complete(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        await self.local.complete(lease, dead, now)
        await self._share(lease.route, dead)

    async def defer(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        await self.local.defer(lease, wait, dead, now)
        await self._share(lease.route, dead)

    async def fail(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        await self.local.fail(lease, wait, dead, now)
        await self._share(lease.route, dead)

    async def _share(self, route: Route, dead: Sequence[DeadTarget]) -> None:
        """Tell the others. That it does not reach them all costs a request to a dead target."""
        if dead:
            with contextlib.suppress(SharedUnavailable):
                await self.shared.add_dead(route, dead)

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        try:
            return await self.shared.dead_targets(route, keys)
        except SharedUnavailable:
            return await self.local.dead_targets(route, keys)

    # --- cancelling and upkeep

    async def cancel(self, job_id: str, now: float) -> bool:
        """Any job that is no upload: which exist, no machine knows."""
        if not _JOB_ID.fullmatch(job_id) or job_id in self._spools:
            return False
        await self.shared.cancel(job_id, now + CANCELLED_KEPT)
        self._remember_cancelled([job_id])
        await self.local.cancel(job_id, now)
        return True

    def _remember_cancelled(self, job_ids: Iterable[str]) -> None:
        self._cancelled.update(dict.fromkeys(job_ids))
        while len(self._cancelled) > CANCELLED_AT_HAND:
            self._cancelled.popitem(last=False)

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        return await self.local.cancelled(after)

    async def _follow_cancellations(self) -> None:
        cursor = 0
        while True:
            try:
                cursor, ids = await self.shared.cancelled(cursor)
                self._remember_cancelled(ids)
                for job_id in ids:
                    await self.local.cancel(job_id, time.time())
            except QueueError:
                ids = []
            if not ids:
                await asyncio.sleep(CANCELLATIONS_INTERVAL)

    async def recover(self, now: float) -> None:
        await self.local.recover(now)

    async def maintain(self, now: float) -> None:
        await self.local.maintain(now)

    async def depth(self) -> Depth:
        here = await self.local.depth()
        spools = self._spools.values()
        return here._replace(
            batches=here.batches + sum(spool.batches for spool in spools),
            deliveries=here.deliveries + sum(spool.deliveries for spool in spools),
        )

    async def backlog(self) -> dict[str, int]:
        """As of `SqliteQueue`, of what is in hand here."""
        return await self.local.backlog()

    async def parked(self, after: int, limit: int, sees: Sees = sees_all) -> list[Parked]:
        return await self.local.parked(after, limit, sees)

    async def parked_count(self) -> int:
        return await self.local.parked_count()

    async def parked_batch(self, batch_id: bytes, sees: Sees = sees_all) -> ParkedBatch | None:
        return await self.local.parked_batch(batch_id, sees)

    async def replay(self, batch_id: bytes) -> bool:
        return await self.local.replay(batch_id)

    async def purge(self, batch_id: bytes, now: float) -> bool:
        return await self.local.purge(batch_id, now)


async def _again(run: Callable[[], object]) -> None:
    """Run something anew whenever it fails."""
    while True:
        try:
            await run()  # type: ignore[misc]
        except Exception as error:
            log.warning("kafka.reader_failed", reason=type(error).__name__)
        await asyncio.sleep(1.0)
