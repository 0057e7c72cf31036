"""Stored batches that cannot be read: by a program that is older than their writer, or because the file is damaged.

One of them is put off, longer and longer, as a newer program may come; after so many tries it is given up. Its
neighbours are leased as if it were not there.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw
import msgspec

from gateway.model import Job, Note, Route, State
from gateway.queue import columns as column
from gateway.queue.columns import Columns
from gateway.queue.leases import Taken, batch_of, give_up
from gateway.queue.schema import BatchState

TRIES = 20
FIRST_WAIT = 1.0
"""Seconds; it doubles with each try."""
LONGEST_WAIT = 60.0

REASON = "could not be read from the queue, {} times"
REASON_IF_SENT = "could not be read from the queue after it was sent; no answer was seen"

_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_columns = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode


class Unreadable(NamedTuple):
    """What is known of one."""

    job_id: str
    batch_id: bytes
    route: Route
    failures: int
    given_up: bool
    error: str
    """What kind of error it was. Its words may hold what somebody wrote into a message."""


class Contents(NamedTuple):
    """A leased batch, decoded."""

    taken: Taken
    job: Job
    columns: tuple[bytes, ...]
    notes: dict[int, Note]


def job(body: bytes) -> Job:
    """Decode a stored job.

    Raises:
        ValueError: it cannot be read.
    """
    return _decode_job(body)


def columns(body: bytes) -> tuple[bytes, ...]:
    """Decode the columns of a stored batch.

    Raises:
        ValueError: they cannot be read.
    """
    return _decode_columns(body)


def contents(taken: Taken, its: Job) -> Contents:
    """Decode a leased batch of a job.

    Raises:
        ValueError: it cannot be read.
    """
    return Contents(taken, its, columns(taken.columns), taken.stored.notes_by_index() if taken.stored else {})


def put_off(db: apsw.Connection, taken: Taken, error: ValueError, clock: float, now: float) -> Unreadable:
    """Give a leased batch back for a while, or up for good: the queue's clock shows `clock`, the wall clock `now`."""
    failures = taken.failures + 1
    found = Unreadable(taken.job_id, taken.batch_id, taken.route, failures, failures >= TRIES, type(error).__name__)
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(taken.failures, TRIES))
    db.execute(
        "UPDATE batches SET state = ?, due = ?, failures = ?, owner = NULL, lease_until = NULL WHERE sequence = ?",
        (BatchState.DEFERRED, clock + wait, failures, taken.sequence),
    )
    batch = batch_of(db, taken.sequence, "b.state = 7", ()) if found.given_up else None
    if batch is not None:
        reason = REASON.format(failures)
        stored = _without_what_is_unreadable(taken)
        ended = column.given_up(stored, State.DEAD_LETTERED, reason, REASON_IF_SENT, batch.elapsed(now))
        give_up(db, batch, ended, now)
    return found


def _without_what_is_unreadable(taken: Taken) -> Columns:
    """Verdicts stay, though nobody can say any more how they came about."""
    stored = taken.stored or Columns.fresh(taken.size)
    try:
        stored.notes_by_index()
    except ValueError:
        return stored._replace(notes=None)
    return stored
