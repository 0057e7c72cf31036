"""The embedded queue: one SQLite file, shared by the worker processes of one machine.

Beside the file lies a flight recorder of each process (see `flight`). What changes goes through the process's writer
thread, where everything that waits shares a commit.
"""

from __future__ import annotations

import asyncio
import glob
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apsw

from gateway.model import Job, Route, milliseconds_column
from gateway.queue import backlog, clock, flight, leases, parking, sweeping, unreadable, uploads
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
from gateway.queue.columns import Columns
from gateway.queue.database import Database
from gateway.queue.dead import DeadFilter, count_dead, dead_since, known_dead
from gateway.queue.flight import Entry, FlightRecorder, Trace
from gateway.queue.leases import Deaths, Hold, Quiet
from gateway.queue.rows import first, only
from gateway.queue.unreadable import Unreadable
from gateway.queue.uploads import Holder

SWEPT_AT_ONCE = 32
"""Batches ended or deleted in one transaction of the sweep: some milliseconds."""

JOBS_KEPT = 256
"""Decoded jobs at hand, so that a job's message is read and decoded once, not once a batch."""

DEAD_KEPT_UP = 0.5
"""Seconds after which the filter looks for dead targets that other processes wrote."""

DEAD_AT_ONCE = 10_000


class _Leased(NamedTuple):
    """What came of asking for leases."""

    found: list[unreadable.Contents]
    scan_from: int
    blamed: int
    """Batches that are blamed for a holder's death."""
    unreadable: list[Unreadable]
    quiet: Quiet | None


class SqliteQueue:
    """`base.Queue` on one file.

    Args:
        path: the database; its flight recorders lie beside it.
        owner: names this process in leases and in the recorder's file name; letters, digits, `.`, `_`, `-`.
        lease_seconds: how long a batch is held without a checkpoint.
        high_water: most deliveries that may be stored and not complete.
        slots: most batches this process can hold at once.
        max_crashes: with how many dead holders a batch is parked; 2 or more.
        on_crash: told how many batches are blamed for a holder's death.
        on_unreadable: told of each batch that cannot be read, whenever it is tried.
        keep_answers: seconds for which an idempotency key is remembered.
        durable: see `Database`.
        uptime: seconds since the machine started.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        owner: str,
        lease_seconds: float = 60.0,
        high_water: int = 10_000_000,
        slots: int = 6144,
        max_crashes: int = 3,
        on_crash: Callable[[int], None] = lambda batches: None,
        on_unreadable: Callable[[Unreadable], None] = lambda found: None,
        keep_answers: float = 86_400.0,
        durable: bool = True,
        uptime: Callable[[], float] = clock.uptime,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", owner):
            raise ValueError("a queue's owner is 1 to 100 letters, digits, dots, hyphens or underscores")
        self.database = Database(Path(path), durable=durable)
        # A life's own name: a successor with the same owner must not be taken for the one that died.
        self.owner = f"{owner}.{secrets.token_hex(4)}"
        self.lease_seconds = lease_seconds
        self._high_water = high_water
        self._slots = slots
        self._max_crashes = max_crashes
        self._on_crash = on_crash
        self._on_unreadable = on_unreadable
        self._suspect: Entry | None = None  # the batch on its last chance that is in hand
        self._keep_answers = keep_answers
        self._uptime = uptime
        self._boot = clock.boot_id()
        self._epoch = 0.0
        self._looked, self._stood_still = math.inf, -math.inf
        self._recorder: FlightRecorder | None = None
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._scan_from = 0
        # The file's revisions in which nothing was found; while they last, nobody need look again.
        self._without_work: tuple[int, Quiet] | None = None
        self._without_cancellations: tuple[int, int] | None = None  # and the cursor
        self._to_abandon: set[str] = set()
        self._dead = DeadFilter()
        self._dead_revision = 0
        self._dead_looked = float("-inf")
        self._dead_seen: int | None = None  # the file's revision then
        self._looking = asyncio.Lock()
        self._taker: Taker | None = None

    async def open(self) -> None:
        """Open or create the file, and give back what the dead were holding.

        Raises:
            QueueError: the file is not ours, from a newer program, damaged, or out of reach.
        """
        await self.database.open()
        try:
            self._epoch = await self.database.read(partial(clock.epoch, boot=self._boot))
            self._recorder = self._record()
            with suppress(QueueFull):  # what waits can be read without room, and `maintain` tries again
                await self.recover(time.time())
            await self._look_for_dead()
        except BaseException:
            await self.close()
            raise

    def time(self) -> float:
        return self._epoch + self._uptime()

    def _record(self) -> FlightRecorder:
        path = self._recorder_path(self.owner)
        try:
            return FlightRecorder(path, self._slots)
        except OSError as error:
            raise QueueError(
                f"{path} cannot be created ({error.strerror}): see to its directory and its disk"
            ) from error

    async def close(self) -> None:
        """Give back what is still held and let go of the file. Whoever holds a lease must have stopped."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close(remove=await self._hand_back())
        await self.database.close()

    async def _hand_back(self) -> bool:
        """Give back all that is ours. False if the disk is full: then the next recovery does it."""
        trace, now = flight.read(self._recorder_path(self.owner), dead=True), time.time()

        def operation(db: apsw.Connection) -> None:
            leases.release_owned(db, self.owner, trace, now)
            uploads.abandon_all(db, lambda uploader: uploader == self.owner)

        try:
            await self.database.write(operation)
        except QueueFull:
            return False
        return True

    def hand_to(self, taker: Taker) -> None:
        self._taker = taker

    # --- uploads

    async def begin(self, job: Job, idempotency: Idempotency | None) -> Replay | Twin | None:
        keep_until = job.created_at + self._keep_answers
        return await self.database.write(lambda db: uploads.begin(db, job, idempotency, self.owner, keep_until))

    async def put(self, job_id: str, batches: Sequence[NewBatch]) -> None:
        def operation(db: apsw.Connection) -> None:
            uploads.put(db, job_id, batches, self.owner, self._high_water)

        await self.database.write(operation, heavy=True)

    async def seal(self, job_id: str, batches: Sequence[NewBatch], fingerprint: bytes, answer: bytes) -> None:
        def operation(db: apsw.Connection) -> None:
            uploads.put(db, job_id, batches, self.owner, self._high_water)
            uploads.seal(db, job_id, fingerprint, answer, self.owner)

        await self.database.write(operation)
        if self._taker is not None:
            self._taker.wake()

    async def submit(
        self, job: Job, idempotency: Idempotency | None, batches: Sequence[NewBatch], answer: bytes
    ) -> Replay | Twin | None:
        keep_until = job.created_at + self._keep_answers
        slots = self._slots_for(job, batches)
        until = self.time() + self.lease_seconds
        holder = Holder(self.owner, until) if slots else None

        def operation(db: apsw.Connection) -> Replay | Twin | list[int]:
            return uploads.submit(db, job, idempotency, batches, answer, keep_until, self._high_water, holder)

        future = self.database.write(operation, first=partial(self._submitted, job, batches, slots, until))
        stored = await asyncio.shield(future)  # even if its caller is gone, what was leased has its holder
        return None if isinstance(stored, list) else stored

    async def admit(self, job: Job, batches: Sequence[NewBatch], *, total: int, offered: bool) -> frozenset[bytes]:
        """Take in batches of a job that another store keeps as well; more of the same job may come.

        Args:
            total: deliveries of the whole job.
            offered: whether they may be handed over.

        Returns:
            Ids of the batches that were here already: they were left alone.
        """
        slots = self._slots_for(job, batches) if offered else []
        until = self.time() + self.lease_seconds
        holder = Holder(self.owner, until) if slots else None
        admitting = self.database.write(lambda db: uploads.admit(db, job, batches, holder, total))
        admitting.add_done_callback(partial(self._admitted, job, batches, slots, until))
        return (await asyncio.shield(admitting)).known

    def _admitted(
        self,
        job: Job,
        batches: Sequence[NewBatch],
        slots: list[int],
        until: float,
        future: asyncio.Future[uploads.Admitted],
    ) -> None:
        handed = [] if future.cancelled() or future.exception() is not None else future.result().handed
        self._hand_over(job, batches, slots, until, handed)

    def _slots_for(self, job: Job, batches: Sequence[NewBatch]) -> list[int]:
        """Places in the flight recorder for all the batches of a job that can be leased at once; else none."""
        recorder = self._recording()
        due = job.deliver_at is None
        if self._taker is None or not due or len(batches) > recorder.room or not self._taker.wants(job, batches):
            return []
        return recorder.reserve(len(batches))

    def _submitted(
        self,
        job: Job,
        batches: Sequence[NewBatch],
        slots: list[int],
        until: float,
        future: asyncio.Future[Replay | Twin | list[int]],
    ) -> None:
        stored = None if future.cancelled() or future.exception() is not None else future.result()
        if isinstance(stored, list):
            self._hand_over(job, batches, slots, until, stored)
        elif self._recorder is not None:
            self._recorder.unreserve(slots)

    def _hand_over(
        self, job: Job, batches: Sequence[NewBatch], slots: list[int], until: float, stored: list[int]
    ) -> None:
        """Give the taker what was leased as it was stored, or tell it that there is something to lease."""
        if self._recorder is None or self._taker is None:
            return
        if not stored:
            self._recorder.unreserve(slots)
            self._taker.wake()
        else:
            fresh = zip(slots, stored, batches, strict=True)
            self._taker.take([_first_lease(self._recorder, job, until, *each) for each in fresh])

    async def abandon(self, job_id: str) -> None:
        self._to_abandon.add(job_id)  # until it is done: the disk may be full, which is often why
        await self.database.write(lambda db: uploads.abandon(db, job_id, self.owner))
        self._to_abandon.discard(job_id)
        await self._sweep(time.time())

    # --- leases

    async def lease(self, room: Room, now: float) -> list[Lease]:
        recorder = self._recording()
        revision = self.database.revision
        if self._still_quiet(revision, now):
            return []
        slots = recorder.reserve(min(room.batches, recorder.room))
        try:
            found = await self._take(room, len(slots), now, revision)
            self._keep({each.job.id: each.job for each in found})
            self._suspect = next(
                (_entry(each) for each in found if each.taken.crashes >= self._max_crashes - 1), self._suspect
            )
            return [_hand_out(recorder, slots.pop(), each) for each in found]
        finally:
            recorder.unreserve(slots)

    def _still_quiet(self, revision: int | None, now: float) -> bool:
        if self._without_work is None or self.database.failing:
            return False
        self._awake()
        former, quiet = self._without_work
        return revision == former and self.time() < quiet.clock and now < quiet.wall

    async def _take(self, room: Room, limit: int, now: float, revision: int | None) -> list[unreadable.Contents]:
        future = self.database.write(partial(self._leasing, room, limit, now), heavy=True)
        try:
            leased = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._give_back_unseen)
            raise
        self._scan_from = leased.scan_from
        self._without_work = None if revision is None or leased.quiet is None else (revision, leased.quiet)
        self._crashed(leased.blamed)
        for each in leased.unreadable:
            self._on_unreadable(each)
        return leased.found

    def _leasing(self, room: Room, limit: int, now: float, db: apsw.Connection) -> _Leased:
        """The operation; runs in the writer's thread."""
        if self.database.failing:
            db.execute("UPDATE machine SET probes = probes + 1")  # a lease of nothing would not touch the disk
        clock, deaths = self.time(), Deaths(self._max_crashes, now)
        blamed = leases.release_expired(db, deaths, clock, self.owner, self.trace_of, counted=self._awake())
        leases.ripen(db, clock, now)
        until, last_chance = clock + self.lease_seconds, self._max_crashes - 1
        suspected = self._suspect is not None
        taken, scan_from = leases.lease(db, room, limit, self.owner, until, self._scan_from, last_chance, suspected)
        leased = _Leased([], scan_from, blamed, [], leases.quiet(db))
        jobs: dict[str, Job] = {}
        for each in taken:
            try:
                if (job := jobs.get(each.job_id) or self._jobs.get(each.job_id)) is None:
                    job = jobs[each.job_id] = unreadable.job(leases.message(db, each.job_id))
                leased.found.append(unreadable.contents(each, job))
            except ValueError as error:
                leased.unreadable.append(unreadable.put_off(db, each, error, clock, now))
        return leased

    def _awake(self) -> bool:
        """Whether this process saw the last half of a lease pass. Who stood still itself, as when the machine slept,
        cannot say that the others fell silent."""
        now, long = self._uptime(), self.lease_seconds / 2
        if now - self._looked > long:
            self._stood_still = now
        self._looked = now
        return now - self._stood_still > long

    def _crashed(self, blamed: int) -> None:
        if blamed:
            self._on_crash(blamed)

    def _give_back_unseen(self, future: asyncio.Future[_Leased]) -> None:
        """Whoever asked was cancelled, so nobody has these leases and nothing of them was sent."""
        if future.cancelled() or future.exception() is not None or self._recorder is None:
            return
        entries = [_entry(each) for each in future.result().found]
        giving = self.database.write(lambda db: leases.release_untouched(db, entries, time.time()))
        giving.add_done_callback(lambda done: done.cancelled() or done.exception())  # else the lease just expires

    def _keep(self, jobs: dict[str, Job]) -> None:
        self._jobs.update(jobs)
        for job_id in jobs:
            self._jobs.move_to_end(job_id)
        while len(self._jobs) > JOBS_KEPT:
            self._jobs.popitem(last=False)

    async def checkpoint(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        hold, columns, until = self._hold(lease), Columns.of(lease.progress), self.time() + self.lease_seconds
        future = self.database.write(lambda db: leases.checkpoint(db, hold, columns, dead, until), patient=True)
        await self._change(lease, future, dead, last=False)
        lease.until = until

    async def complete(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        hold, columns = self._hold(lease), Columns.of(lease.progress)
        future = self.database.write(lambda db: leases.complete(db, hold, columns, dead, now), patient=True)
        await self._change(lease, future, dead, last=True)

    async def defer(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        hold, columns = self._hold(lease), Columns.of(lease.progress)
        until = self.time() + wait if wait > 0 else None
        future = self.database.write(lambda db: leases.defer(db, hold, columns, until, dead, now))
        await self._change(lease, future, dead, last=True)

    async def fail(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        hold, columns, until = self._hold(lease), Columns.of(lease.progress), self.time() + wait
        operation = partial(leases.defer, hold=hold, columns=columns, until=until, dead=dead, now=now, failed=True)
        await self._change(lease, self.database.write(operation), dead, last=True)

    def _hold(self, lease: Lease) -> Hold:
        return Hold(lease.sequence, lease.attempt, self.owner)

    async def _change(
        self, lease: Lease, future: asyncio.Future[None], dead: Sequence[DeadTarget], *, last: bool
    ) -> None:
        future.add_done_callback(partial(self._changed, lease, dead, last))
        await asyncio.shield(future)  # even if its caller is gone, what was durably ended must free its slot

    def _changed(self, lease: Lease, dead: Sequence[DeadTarget], last: bool, future: asyncio.Future[None]) -> None:
        error = future.exception()
        if error is None:
            self._dead.add(target.key for target in dead)
        if isinstance(error, LeaseLost) or (last and error is None):
            self._let_go(lease)

    def _let_go(self, lease: Lease) -> None:
        lease.progress.states, lease.at_work = bytearray(lease.progress.states), bytearray(1)
        entry = Entry(lease.sequence, lease.attempt)
        if self._suspect == entry:
            self._suspect = None
        if self._recorder is not None:
            self._recorder.disarm(entry)

    # --- cancelling, recovering, upkeep

    async def cancel(self, job_id: str, now: float) -> bool:
        known = await self.database.write(lambda db: sweeping.cancel(db, job_id))
        if known:
            await self._sweep(now)
        return known

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        revision = self.database.revision
        if self._without_cancellations == (revision, after):
            return after, []
        rows = await self.database.read(partial(sweeping.cancellations, after=after))
        self._without_cancellations = None if rows or revision is None else (revision, after)
        return (rows[-1][0] if rows else after), [job_id for _, job_id in rows]

    async def recover(self, now: float) -> None:
        for path in self._recorder_paths():
            with flight.locked_if_dead(path) as dead:
                if dead:
                    owner, trace = self._owner_of(path), flight.read(path, dead=True)
                    deaths = Deaths(self._max_crashes, now)
                    self._crashed(
                        await self.database.write(partial(leases.release_dead, deaths=deaths, owner=owner, trace=trace))
                    )
                    path.unlink(missing_ok=True)
        await self.database.write(partial(self._disown, now))
        await self._sweep(now)

    def _disown(self, now: float, db: apsw.Connection) -> None:
        # Looked up inside the transaction: whoever holds or uploads anything by now had its file before.
        clock.remember(db, self._boot)
        living = {self._owner_of(path) for path in self._recorder_paths()}
        leases.release_orphans(db, living, now)
        uploads.abandon_all(db, lambda uploader: uploader not in living)

    async def maintain(self, now: float) -> None:
        await self.recover(now)
        await self.database.write(lambda db: uploads.forget_answers(db, now))
        for job_id in list(self._to_abandon):
            await self.abandon(job_id)

    async def _sweep(self, now: float) -> None:
        while await self.database.write(lambda db: sweeping.sweep(db, SWEPT_AT_ONCE, now)):
            pass

    # --- parked batches

    async def parked(self, after: int, limit: int, sees: Sees = sees_all) -> list[Parked]:
        return await self.database.read(partial(parking.parked, after=after, limit=limit, sees=sees))

    async def parked_count(self) -> int:
        return await self.database.read(parking.count)

    async def parked_batch(self, batch_id: bytes, sees: Sees = sees_all) -> ParkedBatch | None:
        stored = await self.database.read(partial(parking.contents, batch_id=batch_id, sees=sees))
        if stored is None:
            return None
        parked, job, recipients, columns, states = stored
        return ParkedBatch(
            parked, unreadable.job(job), recipients.decode().split("\n"), unreadable.columns(columns), bytes(states)
        )

    async def replay(self, batch_id: bytes) -> bool:
        last_chance = self._max_crashes - 1
        replayed = await self.database.write(lambda db: parking.replay(db, batch_id, last_chance))
        if replayed and self._taker is not None:
            self._taker.wake()
        return replayed

    async def purge(self, batch_id: bytes, now: float) -> bool:
        return await self.database.write(lambda db: parking.purge(db, batch_id, now))

    # --- looking

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        if time.monotonic() - self._dead_looked > DEAD_KEPT_UP:
            await self._look_for_dead()
        candidates = self._dead.candidates(keys)
        if not candidates:
            return {}
        return await self.database.read(lambda db: known_dead(db, route, candidates))

    async def _look_for_dead(self) -> None:
        """Bring the filter up to what all processes have written."""
        async with self._looking:
            self._dead_looked = time.monotonic()
            revision = self.database.revision
            if revision is not None and revision == self._dead_seen:
                return
            if self._dead_revision == 0 or self._dead.crowded:
                await self._read_dead(DeadFilter(await self.database.read(count_dead)), 0)
            else:
                await self._read_dead(self._dead, self._dead_revision)
            self._dead_seen = revision

    async def _read_dead(self, into: DeadFilter, after: int) -> None:
        rows = [(after, b"")]
        while rows:
            after = rows[-1][0]
            rows = await self.database.read(partial(dead_since, after=after, limit=DEAD_AT_ONCE))
            into.add(key for _, key in rows)
        self._dead, self._dead_revision = into, after

    async def depth(self) -> Depth:
        return await self.database.read(_depth)

    async def backlog(self) -> dict[str, int]:
        """Deliveries stored and not complete, by app. A million batches take some 0.2 s of the reader's thread."""
        return await self.database.read(backlog.by_app)

    # --- flight recorders

    def _recording(self) -> FlightRecorder:
        if self._recorder is None:
            raise QueueError("the queue is closed")
        return self._recorder

    def _recorder_path(self, owner: str) -> Path:
        path = self.database.path
        return path.with_name(f"{path.name}-flight-{owner}")

    def _recorder_paths(self) -> list[Path]:
        path = self.database.path
        return list(path.parent.glob(glob.escape(f"{path.name}-flight-") + "*"))

    def _owner_of(self, recorder: Path) -> str:
        return recorder.name.removeprefix(f"{self.database.path.name}-flight-")

    def trace_of(self, owner: str) -> Trace:
        """What another holder's recorder tells."""
        path = self._recorder_path(owner)
        with flight.locked_if_dead(path) as dead:
            return flight.read(path, dead=dead)


def _entry(found: unreadable.Contents) -> Entry:
    return Entry(found.taken.sequence, found.taken.attempt)


def _hand_out(recorder: FlightRecorder, slot: int, found: unreadable.Contents) -> Lease:
    taken = found.taken
    stored = taken.stored or Columns.fresh(taken.size)
    view, at_work = recorder.arm(slot, _entry(found), stored.states)
    return Lease(
        sequence=taken.sequence,
        batch_id=taken.batch_id,
        attempt=taken.attempt,
        until=taken.until,
        job=found.job,
        route=taken.route,
        count=taken.size,
        columns=found.columns,
        progress=Progress(view, stored.milliseconds_array(), found.notes),
        crashes=taken.crashes,
        failures=taken.failures,
        at_work=at_work,
    )


def _first_lease(recorder: FlightRecorder, job: Job, until: float, slot: int, sequence: int, batch: NewBatch) -> Lease:
    view, at_work = recorder.arm(slot, Entry(sequence, 1), bytes(batch.count))
    return Lease(
        sequence=sequence,
        batch_id=batch.id,
        attempt=1,
        until=until,
        job=job,
        route=batch.route,
        count=batch.count,
        columns=batch.columns,
        progress=Progress(view, milliseconds_column(batch.count), {}),
        at_work=at_work,
    )


def _depth(db: apsw.Connection) -> Depth:
    batches, deliveries = only(db, "SELECT batches, deliveries FROM stored")
    row = first(
        db, "SELECT j.due FROM batches b JOIN jobs j ON j.number = b.job WHERE b.state = 1 ORDER BY b.sequence LIMIT 1"
    )
    return Depth(batches, deliveries, None if row is None else row[0])
