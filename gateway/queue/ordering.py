"""Ordering keys: the jobs of one app and key go one after the other, in the order in which they were sealed.

A job that has to wait for another keeps its batches out of every lease's sight (`BatchState.BEHIND`), and the end of
the one before it brings them in. So a lease looks at nothing for it, and a job without a key pays nothing.
"""

from __future__ import annotations

import apsw

from gateway.queue.rows import first
from gateway.queue.schema import BatchState


def line_up(db: apsw.Connection, job: int, app: str, key: str) -> bool:
    """Put a job at the end of its key's line; whether somebody is before it."""
    waits = first(db, "SELECT 1 FROM lines WHERE app = ? AND key = ? LIMIT 1", (app, key)) is not None
    db.execute("INSERT INTO lines (app, key, job) VALUES (?, ?, ?)", (app, key, job))
    return waits


def step_out(db: apsw.Connection, job: int) -> None:
    """A job with a key has ended, wherever in the line it was: whoever is the first now can go."""
    row = first(db, "DELETE FROM lines WHERE job = ? RETURNING app, key", (job,))
    if row is not None:
        db.execute(
            "UPDATE batches SET state = iif(due IS NULL, ?, ?) WHERE state = ? AND job = "
            "(SELECT job FROM lines WHERE app = ? AND key = ? ORDER BY number LIMIT 1)",
            (BatchState.READY, BatchState.SCHEDULED, BatchState.BEHIND, *row),
        )
