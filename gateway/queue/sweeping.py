"""What is marked at once and done in small pieces: ending the batches of cancelled jobs, deleting discarded jobs."""

from __future__ import annotations

import apsw

from gateway.model import State
from gateway.queue.columns import Columns, given_up
from gateway.queue.leases import batch_of, give_back, give_up
from gateway.queue.parking import end_expired
from gateway.queue.rows import every, first
from gateway.queue.schema import BatchState, JobState

EXPIRED_BEHIND = "expired while an earlier job of its ordering key had not ended"


def cancel(db: apsw.Connection, job_id: str) -> bool:
    """Mark a job; its batches that nobody holds are out of reach from now on, and `sweep` ends them."""
    row = first(db, "SELECT number, state, finished FROM jobs WHERE id = ?", (job_id,))
    if row is None or row[1] not in (JobState.READY, JobState.CANCELLED):
        return False
    number, state, finished = row
    if state == JobState.READY and finished is None:
        db.execute("UPDATE jobs SET state = ? WHERE number = ?", (JobState.CANCELLED, number))
        db.execute("INSERT INTO cancellations (job) VALUES (?)", (number,))
        db.execute(
            "UPDATE batches SET state = ? WHERE job = ? AND state IN (?, ?, ?, ?, ?)",
            (
                BatchState.CANCELLING,
                number,
                BatchState.READY,
                BatchState.BEHIND,
                BatchState.SCHEDULED,
                BatchState.DEFERRED,
                BatchState.PARKED,
            ),
        )
    return True


def sweep(db: apsw.Connection, pieces: int, now: float) -> bool:
    """Do at most `pieces` of what was left for later: end batches of cancelled jobs, and of expired ones those that are
    parked or wait behind another job; delete discarded jobs.

    Returns:
        Whether there may be more.
    """
    return (
        _sweep_cancelled(db, pieces, now)
        or end_expired(db, pieces, now)
        or _sweep_behind(db, pieces, now)
        or _sweep_discarded(db, pieces)
    )


def _sweep_cancelled(db: apsw.Connection, pieces: int, now: float) -> bool:
    rows = every(db, "SELECT sequence FROM batches WHERE state = 4 LIMIT ?", (pieces,))
    for (sequence,) in rows:
        batch = batch_of(db, sequence, "b.state = 4", ())
        if batch is not None:
            columns = batch.stored or Columns.fresh(batch.size)
            give_back(db, batch, columns, None, now)
    return bool(rows)


def _sweep_behind(db: apsw.Connection, pieces: int, now: float) -> bool:
    """Of jobs that expired while an earlier one of their ordering key had not ended: it may be parked, for days."""
    rows = every(
        db,
        "SELECT sequence FROM jobs j JOIN batches b ON b.job = j.number WHERE ordering_key IS NOT NULL "
        "AND j.finished IS NULL AND j.expires <= ? AND b.state = 5 LIMIT ?",
        (now, pieces),
    )
    for (sequence,) in rows:
        batch = batch_of(db, sequence, "b.state = 5", ())
        if batch is not None:
            ended = given_up(Columns.fresh(batch.size), State.EXPIRED, EXPIRED_BEHIND, "", batch.elapsed(now))
            give_up(db, batch, ended, now)
    return bool(rows)


def _sweep_discarded(db: apsw.Connection, pieces: int) -> bool:
    row = first(db, "SELECT number FROM jobs WHERE state = 3 LIMIT 1")
    if row is None:
        return False
    (job,) = row
    rows = every(db, "SELECT sequence, count, state FROM batches WHERE job = ? LIMIT ?", (job, pieces))
    for sequence, count, state in rows:
        for table in ("work", "recipients", "receipts", "batches"):
            db.execute(f"DELETE FROM {table} WHERE sequence = ?", (sequence,))
        if state != BatchState.DONE:
            db.execute("UPDATE stored SET batches = batches - 1, deliveries = deliveries - ?", (count,))
    db.execute(
        "DELETE FROM feed WHERE revision IN (SELECT revision FROM feed WHERE job = ? LIMIT ?)", (job, 4 * pieces)
    )
    if not rows and first(db, "SELECT 1 FROM feed WHERE job = ? LIMIT 1", (job,)) is None:
        db.execute("DELETE FROM cancellations WHERE job = ?", (job,))
        db.execute("DELETE FROM messages WHERE job = ?", (job,))
        db.execute("DELETE FROM jobs WHERE number = ?", (job,))
    return True


def cancellations(db: apsw.Connection, after: int) -> list[tuple[int, str]]:
    sql = "SELECT revision, id FROM cancellations JOIN jobs ON number = job WHERE revision > ? ORDER BY revision"
    return every(db, sql, (after,))
