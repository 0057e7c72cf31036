"""Stand-ins that keep the contracts of the real parts, in memory."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import apsw

from gateway.access import keys
from gateway.access.keys import ApiKey, NewKey, Wish
from gateway.audit.log import NO_DETAIL, Actor, Detail, Entry
from gateway.credentials.records import Record, Refused, Step
from gateway.model import INDEX_DIGITS, Job, Lane, Route, State, delivery_prefix, milliseconds_column
from gateway.queue import schema
from gateway.queue.base import (
    DeadTarget,
    Depth,
    Idempotency,
    Lease,
    LeaseLost,
    NewBatch,
    Parked,
    ParkedBatch,
    Progress,
    QueueError,
    QueueFull,
    Replay,
    Room,
    Sees,
    Taker,
    Twin,
    sees_all,
)
from gateway.queue.columns import stored_states
from gateway.queue.sharing import Candidate, Shares
from gateway.receipts.states import PENDING, WORDS, InvalidToken, InvalidTokens, JobStatus, Page, Receipt
from gateway.webhooks import courier as webhooks
from gateway.webhooks.service import Standing
from providers.base import Material


@dataclass
class StoredBatch:
    """A batch as `MemoryQueue` keeps it."""

    new: NewBatch
    due: float
    progress: Progress
    attempt: int = 0
    held_until: float = 0.0
    failures: int = 0
    complete_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.complete_at is not None


@dataclass
class StoredJob:
    """A job as `MemoryQueue` keeps it."""

    job: Job
    batches: list[StoredBatch] = field(default_factory=list)
    sealed: bool = False
    cancelled: bool = False

    @property
    def count(self) -> int:
        return sum(batch.new.count for batch in self.batches)


class MemoryQueue:
    """`gateway.queue.base.Queue` and what reads its receipts, for one process and without a disk."""

    def __init__(
        self,
        *,
        high_water: int = 10_000_000,
        lease_seconds: float = 60.0,
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self.jobs: dict[str, StoredJob] = {}
        self.keys: dict[str, tuple[str, bytes, bytes | None]] = {}
        self.dead: dict[tuple[Route, bytes], DeadTarget] = {}
        self.puts = 0
        self._sequence: list[tuple[StoredJob, StoredBatch]] = []
        self._cancelled: list[str] = []
        self._high_water = high_water
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._taker: Taker | None = None

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    def hand_to(self, taker: Taker) -> None:
        self._taker = taker

    # --- uploads

    async def begin(self, job: Job, idempotency: Idempotency | None) -> Replay | Twin | None:
        if idempotency is not None:
            if idempotency.key in self.keys:
                job_id, fingerprint, answer = self.keys[idempotency.key]
                return Twin.IN_FLIGHT if answer is None else Replay(job_id, fingerprint, answer)
            self.keys[idempotency.key] = (job.id, idempotency.fingerprint, None)
        self.jobs[job.id] = StoredJob(job)
        return None

    async def put(self, job_id: str, batches: Sequence[NewBatch]) -> None:
        self.puts += 1
        job = self._upload(job_id)
        if sum(each.count for each in self.jobs.values()) + sum(batch.count for batch in batches) > self._high_water:
            raise QueueFull("the queue is full: try again when some have been sent")
        for new in batches:
            progress = Progress(bytearray(new.count), milliseconds_column(new.count), {})
            job.batches.append(StoredBatch(new, job.job.deliver_at or job.job.created_at, progress))

    async def seal(self, job_id: str, batches: Sequence[NewBatch], fingerprint: bytes, answer: bytes) -> None:
        await self._seal(job_id, batches, fingerprint, answer)
        if self._taker is not None:
            self._taker.wake()

    async def _seal(self, job_id: str, batches: Sequence[NewBatch], fingerprint: bytes, answer: bytes) -> None:
        await self.put(job_id, batches)
        job = self._upload(job_id)
        job.sealed = True
        self._sequence += [(job, batch) for batch in job.batches]
        for key, (owner, _, _) in self.keys.items():
            if owner == job_id:
                self.keys[key] = (job_id, fingerprint, answer)

    async def submit(
        self, job: Job, idempotency: Idempotency | None, batches: Sequence[NewBatch], answer: bytes
    ) -> Replay | Twin | None:
        former = await self.begin(job, idempotency)
        if former is None:
            try:
                await self._seal(job.id, batches, idempotency.fingerprint if idempotency else b"", answer)
            except QueueFull:
                await self.abandon(job.id)
                raise
            self._hand_over(job, batches)
        return former

    def _hand_over(self, job: Job, batches: Sequence[NewBatch]) -> None:
        if self._taker is None:
            return
        stored = self.jobs[job.id]
        if job.deliver_at is None and self._first_of_its_key(stored) and self._taker.wants(job, batches):
            start = len(self._sequence) - len(batches)
            self._taker.take([self._take(number) for number in range(start, len(self._sequence))])
        else:
            self._taker.wake()

    async def abandon(self, job_id: str) -> None:
        if job_id in self.jobs and not self.jobs[job_id].sealed:
            del self.jobs[job_id]
            self.keys = {key: value for key, value in self.keys.items() if value[0] != job_id}

    def _upload(self, job_id: str) -> StoredJob:
        job = self.jobs.get(job_id)
        if job is None or job.sealed:
            raise QueueError(f"{job_id} is not being uploaded: begin it again")
        return job

    # --- leases

    def time(self) -> float:
        return self._clock()

    async def lease(self, room: Room, now: float) -> list[Lease]:
        taken: list[Lease] = []
        for lane in Lane:
            left = room.batches - len(taken)
            chosen = Shares(room, lane).choose(self._waiting(lane, room, now), left)
            taken += [self._take(number) for number, _ in chosen]
        return taken

    def _waiting(self, lane: Lane, room: Room, now: float) -> dict[Route, Iterator[Candidate]]:
        waiting: defaultdict[Route, list[Candidate]] = defaultdict(list)
        for number, (job, batch) in enumerate(self._sequence):
            due = not batch.ended and batch.due <= now and batch.held_until <= self.time()
            if due and job.job.lane is lane and batch.new.route not in room.closed and self._first_of_its_key(job):
                waiting[batch.new.route].append(Candidate(number, batch.new.count))
        return {route: iter(candidates) for route, candidates in waiting.items()}

    def _take(self, number: int) -> Lease:
        job, batch = self._sequence[number]
        batch.attempt += 1
        batch.held_until = self.time() + self._lease_seconds
        new = batch.new
        return Lease(
            sequence=number,
            batch_id=new.id,
            attempt=batch.attempt,
            until=batch.held_until,
            job=job.job,
            route=new.route,
            count=new.count,
            columns=new.columns,
            progress=_copy(batch.progress),
            failures=batch.failures,
        )

    def _first_of_its_key(self, stored: StoredJob) -> bool:
        """Whether no job with its ordering key that was sealed earlier has work left."""
        key = (stored.job.app, stored.job.ordering_key)
        ahead = (job for job, batch in self._sequence if (job.job.app, job.job.ordering_key) == key and not batch.ended)
        return stored.job.ordering_key is None or next(ahead, stored) is stored

    async def checkpoint(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        self._held(lease, dead).held_until = lease.until = self.time() + self._lease_seconds

    async def complete(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        self._held(lease, dead).complete_at = now

    async def defer(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        batch = self._held(lease, dead)
        batch.held_until = self.time() + wait
        batch.attempt += 1

    async def fail(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        await self.defer(lease, wait, dead, now)
        self._sequence[lease.sequence][1].failures += 1

    def _held(self, lease: Lease, dead: Sequence[DeadTarget]) -> StoredBatch:
        batch = self._sequence[lease.sequence][1]
        if batch.attempt != lease.attempt or batch.complete_at is not None:
            raise LeaseLost("another holder has the batch")
        batch.progress = _copy(lease.progress)
        self.dead.update({(lease.route, target.key): target for target in dead})
        return batch

    # --- parked batches: nobody dies here

    async def parked(self, after: int, limit: int, sees: Sees = sees_all) -> list[Parked]:
        return []

    async def parked_count(self) -> int:
        return 0

    async def parked_batch(self, batch_id: bytes, sees: Sees = sees_all) -> ParkedBatch | None:
        return None

    async def replay(self, batch_id: bytes) -> bool:
        return False

    async def purge(self, batch_id: bytes, now: float) -> bool:
        return False

    # --- the rest

    async def cancel(self, job_id: str, now: float) -> bool:
        job = self.jobs.get(job_id)
        if job is None or not job.sealed:
            return False
        if not job.cancelled:
            job.cancelled = True
            self._cancelled.append(job_id)
        return True

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        return len(self._cancelled), self._cancelled[after:]

    async def recover(self, now: float) -> None:
        return

    async def maintain(self, now: float) -> None:
        return

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        return {key: self.dead[route, key] for key in keys if (route, key) in self.dead}

    async def depth(self) -> Depth:
        work = [batch for job in self.jobs.values() for batch in job.batches if batch.complete_at is None]
        waiting = [batch.due for batch in work if batch.held_until <= self.time()]
        return Depth(len(work), sum(batch.new.count for batch in work), min(waiting, default=None))


def _copy(progress: Progress) -> Progress:
    return Progress(bytearray(stored_states(progress)), progress.milliseconds[:], dict(progress.notes))


class MemoryReceipts:
    """What `gateway.receipts.store.ReceiptStore` reads, of a `MemoryQueue`."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue

    async def app_of(self, job_id: str) -> str | None:
        stored = self._visible(job_id)
        return None if stored is None else stored.job.app

    async def job(self, job_id: str, sees: Sees = sees_all) -> JobStatus | None:
        stored = self._visible(job_id)
        if stored is None or not sees(stored.job.app):
            return None
        states = Counter(WORDS[state] for batch in stored.batches for state in batch.progress.states)
        ends = [batch.complete_at for batch in stored.batches if batch.complete_at is not None]
        finished = len(ends) == len(stored.batches)
        return JobStatus(
            id=job_id,
            app=stored.job.app,
            lane=stored.job.lane,
            created_at=stored.job.created_at,
            cancelled=stored.cancelled,
            finished=finished,
            total=stored.count,
            parked=0,
            counts={word: states[word] for word in dict.fromkeys(WORDS)},
            first_finished_at=min(ends, default=None),
            finished_at=max(ends) if finished and ends else None,
        )

    async def receipts(self, job_id: str, after: int, limit: int) -> Page | None:
        stored = self._visible(job_id)
        if stored is None:
            return None
        ended = [receipt for receipt in self._of(stored) if receipt.state != PENDING]
        page = ended[after : after + limit]
        return Page(page, after + len(page), after + len(page) == stored.count)

    async def deliveries(self, delivery_ids: Iterable[str], sees: Sees = sees_all) -> dict[str, Receipt]:
        wanted = set(delivery_ids)
        jobs: Collection[StoredJob] = [job for job in self._queue.jobs.values() if job.sealed and sees(job.job.app)]
        return {receipt.id: receipt for job in jobs for receipt in self._of(job) if receipt.id in wanted}

    async def invalid_tokens(self, app: str, after: int, limit: int) -> InvalidTokens:
        dead = [(route, target) for (route, _), target in self._queue.dead.items() if route.app == app]
        page = dead[after : after + limit]
        tokens = [InvalidToken(route.provider, t.key.decode(), t.since, t.reason) for route, t in page]
        return InvalidTokens(tokens, after + len(page))

    def _visible(self, job_id: str) -> StoredJob | None:
        stored = self._queue.jobs.get(job_id)
        return stored if stored is not None and stored.sealed else None

    def _of(self, stored: StoredJob) -> list[Receipt]:
        job = stored.job
        return [
            Receipt(
                id=delivery_prefix(batch.new.id) + INDEX_DIGITS[index].decode(),
                job=job.id,
                recipient=recipient,
                app=job.app,
                provider=batch.new.route.provider,
                state=WORDS[batch.progress.states[index]],
                at=job.created_at + batch.progress.milliseconds[index] / 1000
                if batch.progress.states[index] >= State.ACCEPTED
                else None,
            )
            for batch in stored.batches
            for index, recipient in enumerate(batch.new.recipients.decode().split("\n"))
        ]


class MemoryAudit:
    """Keeps what `gateway.audit.log.AuditLog` would."""

    def __init__(self) -> None:
        self.rows: list[tuple[Actor, str, str, Detail]] = []

    async def record(self, actor: Actor, action: str, subject: str, detail: Detail = NO_DETAIL) -> None:
        self.rows.append((actor, action, subject, detail))

    async def entries(self, after: int, limit: int, tenant: str) -> list[Entry]:
        own = [row for row in self.rows if row[0].tenant == tenant][after : after + limit]
        return [
            Entry(0, 0.0, tenant, who.name, action, subject, dict(detail), "") for who, action, subject, detail in own
        ]


class MemoryKeys:
    """Keys as `gateway.access.keystore.KeyStore` keeps them."""

    def __init__(self) -> None:
        self._db = apsw.Connection(":memory:")
        for step in schema.MIGRATIONS:
            self._db.execute(step)

    async def create(self, actor: Actor, wish: Wish) -> NewKey:
        return keys.create(self._db, time.time(), actor, wish)

    async def revoke(self, actor: Actor, key_id: str, tenant: str) -> ApiKey:
        return keys.revoke(self._db, time.time(), actor, key_id, tenant)

    async def of_tenant(self, tenant: str) -> list[ApiKey]:
        return keys.all_keys(self._db, tenant)


class Unlimited:
    """A tenant that may ask for anything."""

    async def take_job(self, tenant: str) -> None:
        return

    def take_recipients(self, tenant: str, number: int) -> None:
        return

    def headers(self, tenant: str) -> dict[str, str]:
        return {}


class Counts:
    """Counts recipients as `gateway.observe.metrics.Metrics` does."""

    def __init__(self) -> None:
        self.accepted: Counter[tuple[str, str, Lane]] = Counter()
        self.refused: Counter[tuple[str, str, Lane]] = Counter()

    def lane(self, app: str, provider: str, lane: Lane) -> LaneCounts:
        return LaneCounts(self, (app, provider, lane))


@dataclass
class LaneCounts:
    counts: Counts
    labels: tuple[str, str, Lane]

    def recipients(self, accepted: int, refused: int) -> None:
        self.counts.accepted[self.labels] += accepted
        self.counts.refused[self.labels] += refused


class NoCredentials:
    """A `CredentialDesk` of a gateway that has none."""

    async def credentials(self) -> list[Record]:
        return []

    async def history(self, after: int, limit: int, sees: Callable[[str], bool]) -> list[Step]:
        return []

    async def get(self, number: int) -> Record:
        raise Refused(f"there is no credential {number}")

    async def add(self, app: str, provider: str, material: Material, actor: Actor) -> Record:
        raise Refused(f"no [apps.{app}.{provider}] is configured")

    async def probe(self, number: int, actor: Actor) -> Record:
        return await self.get(number)

    rotate = promote = rollback = retire = probe


class NoWebhooks:
    """A `WebhookDesk` of a gateway that tells nobody."""

    async def list(self, sees: Callable[[str], bool]) -> list[Standing]:
        return []

    async def standing(self, app: str, name: str) -> Standing:
        raise KeyError((app, name))

    async def enable(self, app: str, name: str) -> None:
        raise KeyError((app, name))

    async def replay(self, app: str, name: str, since: float | None) -> int:
        raise KeyError((app, name))

    async def test(self, app: str, name: str) -> webhooks.Answer:
        raise KeyError((app, name))
