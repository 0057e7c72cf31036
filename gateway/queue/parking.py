"""Batches that holder after holder died with: listing them, looking into them, and what an operator can do.

Nobody leases a parked batch. It keeps its columns, counts as stored, and ends by a purge, a cancellation or its job's
expiry; a replay gives it back to the queue on its last chance.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import apsw

from gateway.model import Lane, Route, State
from gateway.queue import columns as column
from gateway.queue.base import Parked, Sees
from gateway.queue.columns import Columns
from gateway.queue.leases import Batch, batch_of, give_up
from gateway.queue.rows import every, first, only

PURGED = "its batch was parked, for process after process died with it, and then purged"
PURGED_AFTER_SENDING = "purged after it was sent; no answer was seen"
EXPIRED = "expired while its batch was parked"
EXPIRED_AFTER_SENDING = "expired after it was sent; no answer was seen"

_PARKED = """
SELECT b.sequence, b.id, j.id, routes.app, provider, origin, b.lane, b.count, b.crashes, b.parked
FROM batches b JOIN jobs j ON j.number = b.job JOIN routes ON routes.number = b.route WHERE b.state = 8 AND {condition}
"""


class Contents(NamedTuple):
    """A parked batch as it is stored."""

    parked: Parked
    job: bytes
    recipients: bytes
    columns: bytes
    states: bytes


def parked(db: apsw.Connection, after: int, limit: int, sees: Sees) -> list[Parked]:
    rows = db.execute(_PARKED.format(condition="b.sequence > ? ORDER BY b.sequence"), (after,))
    seen = (each for row in rows if sees((each := _parked(row)).route.app))
    return list(islice(seen, limit))


def count(db: apsw.Connection) -> int:
    (number,) = only(db, "SELECT count(*) FROM batches WHERE state = 8")
    return int(number)


def contents(db: apsw.Connection, batch_id: bytes, sees: Sees) -> Contents | None:
    row = first(db, _PARKED.format(condition="b.id = ?"), (batch_id,))
    if row is None or not sees((batch := _parked(row)).route.app):
        return None
    return Contents(
        batch,
        *only(
            db,
            "SELECT m.body, p.ids, w.columns, coalesce(r.states, zeroblob(b.count)) FROM batches b "
            "JOIN messages m USING (job) JOIN recipients p USING (sequence) JOIN work w USING (sequence) "
            "LEFT JOIN receipts r USING (sequence) WHERE sequence = ?",
            (batch.sequence,),
        ),
    )


def replay(db: apsw.Connection, batch_id: bytes, last_chance: int) -> bool:
    """Give a parked batch back to the queue, suspected as before: it is leased apart from other suspects."""
    if _find(db, batch_id) is None:
        return False
    db.execute(
        "UPDATE batches SET state = 1, crashes = ?, failures = 0, parked = NULL WHERE id = ?", (last_chance, batch_id)
    )
    return True


def purge(db: apsw.Connection, batch_id: bytes, now: float) -> bool:
    """End a parked batch."""
    batch = _find(db, batch_id)
    if batch is None:
        return False
    _end(db, batch, State.DEAD_LETTERED, PURGED, PURGED_AFTER_SENDING, now)
    return True


def end_expired(db: apsw.Connection, pieces: int, now: float) -> bool:
    """End at most `pieces` parked batches whose jobs have expired, and say whether there were any."""
    rows = every(
        db,
        "SELECT sequence FROM batches b JOIN jobs j ON j.number = b.job WHERE b.state = 8 AND j.expires <= ? LIMIT ?",
        (now, pieces),
    )
    for (sequence,) in rows:
        batch = batch_of(db, sequence, "b.state = 8", ())
        if batch is not None:
            _end(db, batch, State.EXPIRED, EXPIRED, EXPIRED_AFTER_SENDING, now)
    return bool(rows)


def _find(db: apsw.Connection, batch_id: bytes) -> Batch | None:
    row = first(db, "SELECT sequence FROM batches WHERE id = ? AND state = 8", (batch_id,))
    return None if row is None else batch_of(db, row[0], "b.state = 8", ())


def _end(db: apsw.Connection, batch: Batch, state: State, reason: str, reason_if_sent: str, now: float) -> None:
    columns = batch.stored or Columns.fresh(batch.size)
    ended = column.given_up(columns, state, reason, reason_if_sent, batch.elapsed(now))
    give_up(db, batch, ended, now)


def _parked(row: tuple[Any, ...]) -> Parked:
    sequence, batch_id, job_id, app, provider, origin, lane, size, crashes, parked_at = row
    return Parked(sequence, batch_id, job_id, Route(app, provider, origin), Lane(lane), size, crashes, parked_at)
