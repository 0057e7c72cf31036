"""How work enters: what `begin`, `put`, `seal`, `submit` and `abandon` do inside a transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence, Sized
from typing import NamedTuple

import apsw
import msgspec

from gateway.model import BATCH_SIZE, Job, Route
from gateway.queue.base import Idempotency, NewBatch, QueueError, QueueFull, Replay, Twin
from gateway.queue.ordering import line_up
from gateway.queue.rows import every, first, only
from gateway.queue.schema import BatchState, JobState

encode_columns = msgspec.msgpack.Encoder().encode
_encode_job = msgspec.msgpack.Encoder().encode


class Holder(NamedTuple):
    """Who leases what is stored, in the same transaction."""

    owner: str
    until: float


class _Upload(NamedTuple):
    number: int
    lane: int
    due: float
    scheduled: bool
    app: str
    ordering_key: str | None


def begin(
    db: apsw.Connection, job: Job, idempotency: Idempotency | None, uploader: str, keep_until: float
) -> Replay | Twin | None:
    """Open a job for upload, unless its idempotency key was used before."""
    if idempotency is not None:
        former = _former_answer(db, idempotency.key, job.created_at)
        if former is not None:
            return former
    _insert_job(db, job, JobState.UPLOADING, uploader)
    if idempotency is not None:
        _remember(db, job, idempotency, None, keep_until)
    return None


def submit(
    db: apsw.Connection,
    job: Job,
    idempotency: Idempotency | None,
    batches: Sequence[NewBatch],
    answer: bytes,
    keep_until: float,
    high_water: int,
    holder: Holder | None,
) -> Replay | Twin | list[int]:
    """Store a whole job, unless its idempotency key was used before.

    Returns:
        The former answer, or the numbers of the batches that `holder` has by now: all of them, or none.
    """
    if idempotency is not None:
        former = _former_answer(db, idempotency.key, job.created_at)
        if former is not None:
            return former
    _count_in(db, batches, high_water)
    if idempotency is not None:
        _remember(db, job, idempotency, answer, keep_until)
    number = _insert_job(db, job, JobState.READY, None, batches)
    scheduled = _due(job) > job.created_at
    state = _first_state(db, number, job.app, job.ordering_key, scheduled, batches)
    upload = _Upload(number, job.lane, _due(job), scheduled, job.app, job.ordering_key)
    held = holder if state is BatchState.READY else None
    sequences = [_insert(db, upload, batch, state, held) for batch in batches]
    return sequences if held is not None else []


class Admitted(NamedTuple):
    """What became of batches that another store keeps as well."""

    handed: list[int]
    """Numbers of the batches that the holder has by now: all of them, or none."""
    known: frozenset[bytes]
    """Ids of those that were here already, at work or done."""


def admit(db: apsw.Connection, job: Job, batches: Sequence[NewBatch], holder: Holder | None, total: int) -> Admitted:
    """Take in batches that are visible, of a job of `total` deliveries that may have others here and elsewhere. Those
    that are known are left alone."""
    known = frozenset(batch.id for batch in batches if first(db, "SELECT 1 FROM batches WHERE id = ?", (batch.id,)))
    fresh = [batch for batch in batches if batch.id not in known]
    row = first(db, "SELECT number, state FROM jobs WHERE id = ?", (job.id,))
    if not fresh and (known or row is not None):
        return Admitted([], known)
    _count_in(db, fresh, sys.maxsize)
    scheduled = _due(job) > job.created_at
    if row is None:
        number = _insert_job(db, job, JobState.READY, None, fresh)
        db.execute("UPDATE jobs SET deliveries = ? WHERE number = ?", (total, number))
        state = _first_state(db, number, job.app, job.ordering_key, scheduled, fresh)
    else:
        number, job_state = row
        state = _later_state(db, number, job, job_state, scheduled)
        db.execute(
            "UPDATE jobs SET open_batches = open_batches + ?, finished = NULL WHERE number = ?", (len(fresh), number)
        )
    upload = _Upload(number, job.lane, _due(job), scheduled, job.app, job.ordering_key)
    held = holder if state is BatchState.READY and not known else None
    sequences = [_insert(db, upload, batch, state, held) for batch in fresh]
    return Admitted(sequences if held is not None else [], known)


def _later_state(db: apsw.Connection, number: int, job: Job, job_state: int, scheduled: bool) -> BatchState:
    """The state in which more batches of a job become visible that is visible itself."""
    if job_state != JobState.READY:
        return BatchState.CANCELLING
    if job.ordering_key is not None:
        line = first(
            db, "SELECT job FROM lines WHERE app = ? AND key = ? ORDER BY number LIMIT 1", (job.app, job.ordering_key)
        )
        if line is None or line[0] != number:
            if line is None or first(db, "SELECT 1 FROM lines WHERE job = ?", (number,)) is None:
                line_up(db, number, job.app, job.ordering_key)
            if line is not None:
                return BatchState.BEHIND
    return BatchState.SCHEDULED if scheduled else BatchState.READY


def _due(job: Job) -> float:
    return job.created_at if job.deliver_at is None else job.deliver_at


def _insert_job(
    db: apsw.Connection, job: Job, state: JobState, uploader: str | None, batches: Sequence[NewBatch] = ()
) -> int:
    due = _due(job)
    finished = None if batches or state == JobState.UPLOADING else due
    db.execute(
        "INSERT INTO jobs (id, app, lane, due, created, state, uploader, deliveries, open_batches, finished, "
        "ordering_key, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            job.app,
            job.lane,
            due,
            job.created_at,
            state,
            uploader,
            sum(batch.count for batch in batches),
            len(batches),
            finished,
            job.ordering_key,
            job.expires_at,
        ),
    )
    number = db.last_insert_rowid()
    db.execute("INSERT INTO messages VALUES (?, ?)", (number, _encode_job(job)))
    return number


def _remember(db: apsw.Connection, job: Job, idempotency: Idempotency, answer: bytes | None, keep_until: float) -> None:
    db.execute(
        "INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)",
        (idempotency.key, job.id, idempotency.fingerprint, answer, keep_until),
    )


def _former_answer(db: apsw.Connection, key: str, now: float) -> Replay | Twin | None:
    row = first(db, "SELECT job_id, fingerprint, answer, expires FROM idempotency WHERE key = ?", (key,))
    if row is None:
        return None
    job_id, fingerprint, answer, expires = row
    if answer is None:
        return Twin.IN_FLIGHT
    if expires > now:
        return Replay(job_id, fingerprint, answer)
    db.execute("DELETE FROM idempotency WHERE key = ?", (key,))
    return None


def put(db: apsw.Connection, job_id: str, batches: Sequence[NewBatch], uploader: str, high_water: int) -> None:
    """Add invisible batches."""
    upload = _upload(db, job_id, uploader)
    _count_in(db, batches, high_water)
    for batch in batches:
        _insert(db, upload, batch, BatchState.UPLOADING)


def seal(db: apsw.Connection, job_id: str, fingerprint: bytes, answer: bytes, uploader: str) -> None:
    """Make all batches of a job visible at once."""
    number, _, due, scheduled, app, ordering_key = _upload(db, job_id, uploader)
    count, deliveries = only(db, "SELECT count(*), coalesce(sum(count), 0) FROM batches WHERE job = ?", (number,))
    state = _first_state(db, number, app, ordering_key, scheduled, range(count))
    db.execute("UPDATE batches SET state = ? WHERE job = ?", (state, number))
    db.execute(
        "UPDATE jobs SET state = ?, uploader = NULL, open_batches = ?, deliveries = ?, finished = ? WHERE number = ?",
        (JobState.READY, count, deliveries, None if count else due, number),
    )
    db.execute("UPDATE idempotency SET fingerprint = ?, answer = ? WHERE job_id = ?", (fingerprint, answer, job_id))


def _first_state(
    db: apsw.Connection, number: int, app: str, ordering_key: str | None, scheduled: bool, batches: Sized
) -> BatchState:
    """The state in which a job's batches become visible."""
    if ordering_key is not None and batches and line_up(db, number, app, ordering_key):
        return BatchState.BEHIND
    return BatchState.SCHEDULED if scheduled else BatchState.READY


def abandon(db: apsw.Connection, job_id: str, uploader: str) -> None:
    """Give up an upload of this process; what it stored is swept away later."""
    row = first(
        db,
        "SELECT number FROM jobs WHERE id = ? AND state = ? AND uploader = ?",
        (job_id, JobState.UPLOADING, uploader),
    )
    if row is not None:
        discard(db, row[0], job_id)


def abandon_all(db: apsw.Connection, chosen: Callable[[str], bool]) -> None:
    """Give up the uploads of chosen processes."""
    uploads = every(db, "SELECT number, id, uploader FROM jobs WHERE state = 0")
    for number, job_id, uploader in uploads:
        if chosen(uploader):
            discard(db, number, job_id)


def discard(db: apsw.Connection, number: int, job_id: str) -> None:
    """Hide a job from everyone and free its idempotency key if it was not answered."""
    db.execute("UPDATE jobs SET state = ?, uploader = NULL WHERE number = ?", (JobState.DISCARDED, number))
    db.execute("DELETE FROM idempotency WHERE job_id = ? AND answer IS NULL", (job_id,))


def forget_answers(db: apsw.Connection, now: float) -> None:
    """Free the idempotency keys that were kept long enough."""
    db.execute("DELETE FROM idempotency WHERE expires <= ? AND answer IS NOT NULL", (now,))


def _upload(db: apsw.Connection, job_id: str, uploader: str) -> _Upload:
    row = first(
        db,
        "SELECT state, uploader, number, lane, due, due > created, app, ordering_key FROM jobs WHERE id = ?",
        (job_id,),
    )
    if row is None or row[:2] != (JobState.UPLOADING, uploader):
        raise QueueError(f"{job_id} is not being uploaded by this process: begin it again")
    return _Upload(*row[2:])


def _count_in(db: apsw.Connection, batches: Sequence[NewBatch], high_water: int) -> None:
    if any(not 0 < batch.count <= BATCH_SIZE for batch in batches):
        raise QueueError(f"a batch has 1 to {BATCH_SIZE} deliveries")
    deliveries = sum(batch.count for batch in batches)
    db.execute(
        "UPDATE stored SET batches = batches + ?, deliveries = deliveries + ? WHERE deliveries <= ?",
        (len(batches), deliveries, high_water - deliveries),
    )
    if not db.changes():
        # Without numbers: it is told to callers, and how much others have queued is not their affair.
        raise QueueFull("as many deliveries are queued as there is room for: try again when some have been sent")


def _insert(
    db: apsw.Connection, upload: _Upload, batch: NewBatch, state: BatchState, holder: Holder | None = None
) -> int:
    """Add a batch, as `holder`'s first lease if there is one; its number."""
    route = _route_number(db, batch.route)
    owner, until = (None, None) if holder is None else holder
    db.execute(
        "INSERT INTO batches (id, job, route, lane, due, count, state, attempt, owner, lease_until) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            upload.number,
            route,
            upload.lane,
            upload.due if upload.scheduled else None,
            batch.count,
            state if holder is None else BatchState.LEASED,
            int(holder is not None),
            owner,
            until,
        ),
    )
    sequence = db.last_insert_rowid()
    db.execute("INSERT INTO work VALUES (?, ?)", (sequence, encode_columns(batch.columns)))
    db.execute("INSERT INTO recipients VALUES (?, ?)", (sequence, batch.recipients))
    return sequence


def _route_number(db: apsw.Connection, route: Route) -> int:
    key = (route.app, route.provider, route.origin)
    row = first(db, "SELECT number FROM routes WHERE app = ? AND provider = ? AND origin = ?", key)
    if row is not None:
        return int(row[0])
    db.execute("INSERT INTO routes (app, provider, origin) VALUES (?, ?, ?)", key)
    return db.last_insert_rowid()
