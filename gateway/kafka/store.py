"""The mirror: the embedded queue's file, holding what of this machine's partitions is in hand.

It outlives the processes of the gateway and not the machine's start: Kafka keeps the work. Beside the queue's own
tables there is one row that the workers share: who speaks for this machine in the group, and how far it got.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from gateway.kafka.records import partition_of
from gateway.queue import columns as column
from gateway.queue import leases
from gateway.queue.base import DeadTarget, QueueError
from gateway.queue.clock import boot_id
from gateway.queue.columns import Columns
from gateway.queue.flight import Entry, Trace
from gateway.queue.lock import locked
from gateway.queue.rows import every, first, only
from gateway.queue.schema import BatchState
from gateway.receipts.events import Ended

_MEMBER = """
CREATE TABLE IF NOT EXISTS member (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL,
    alive_until REAL NOT NULL,
    leaving INTEGER NOT NULL,
    published INTEGER NOT NULL,
    told INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO member VALUES (1, -1, 0, 0, 0, 0);
"""

FEED_AT_ONCE = 64
"""Rows of the feed that are published together: some milliseconds of the reader's thread."""


class Member(NamedTuple):
    """What the machine's workers share of its place in the group."""

    generation: int
    """Of the group, when the partitions were assigned that the batches here are of; -1 for none."""
    alive_until: float
    """Of the queue's clock: until then nobody else has these partitions."""
    leaving: bool
    """Whether the group changes right now: nothing is leased, and what is leased is to be given back."""
    published: int
    """Revision of the feed up to which the receipts are in Kafka."""
    told: int
    """Revision of the dead targets up to which they are in Kafka."""


class Fresh(NamedTuple):
    """A row of the feed, and how its batch stands."""

    revision: int
    ended: Ended
    attempt: int
    leased: bool

    @property
    def deliveries(self) -> int:
        """How many it tells of."""
        return len(self.ended.columns.states) if self.ended.indexes is None else len(self.ended.indexes)


class Held(NamedTuple):
    """A batch that is not done, or not told, as it stands here."""

    sequence: int
    batch_id: bytes
    columns: Columns
    """SENT where a delivery may be on its way."""
    crashes: int
    attempt: int
    leased: bool
    touched: bool
    """Whether it was ever leased, or has progress."""


def forget_other_start(path: Path) -> None:
    """Remove the mirror that an earlier start of the machine left: a power cut may have damaged it.

    Raises:
        QueueError: its folder cannot be written.
    """
    mark = path.with_name(f"{path.name}-boot")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the machine's workers start at the same time
            file.seek(0)
            if (boot := boot_id()) and file.read() == boot:
                return
            for old in path.parent.glob(f"{path.name}*"):
                if old != mark:
                    old.unlink()
            file.truncate(0)
            file.write(boot)
    except OSError as error:
        raise QueueError(f"{path} cannot be prepared ({error.strerror}): see to its folder") from error


@contextlib.contextmanager
def only_speaker(path: Path) -> Iterator[bool]:
    """Whether this process is the one of its machine that speaks with the group, for as long as the block runs."""
    with locked(path.with_name(f"{path.name}-speaker"), create=True) as alone:
        yield alone


def prepare(db: apsw.Connection) -> None:
    """Make the table of this module."""
    db.execute(_MEMBER)


def member(db: apsw.Connection) -> Member:
    generation, alive_until, leaving, published, told = only(
        db, "SELECT generation, alive_until, leaving, published, told FROM member"
    )
    return Member(generation, alive_until, bool(leaving), published, told)


def joined(db: apsw.Connection, generation: int) -> None:
    db.execute("UPDATE member SET generation = ?, leaving = 0", (generation,))


def alive(db: apsw.Connection, until: float) -> None:
    db.execute("UPDATE member SET alive_until = ?", (until,))


def leave(db: apsw.Connection) -> None:
    db.execute("UPDATE member SET leaving = 1")


def published(db: apsw.Connection, revision: int) -> None:
    db.execute("UPDATE member SET published = ?", (revision,))


def told(db: apsw.Connection, revision: int) -> None:
    db.execute("UPDATE member SET told = ?", (revision,))


# --- what goes out


def feed(db: apsw.Connection, after: int) -> list[Fresh]:
    """Receipts since a revision, in the order of their writing."""
    rows = db.execute(
        "SELECT f.revision, f.indexes, b.id, b.attempt, b.state, j.id, j.created, t.app, t.provider, p.ids, "
        "r.states, r.notes, r.milliseconds FROM feed f JOIN batches b ON b.sequence = f.sequence "
        "JOIN jobs j ON j.number = b.job JOIN routes t ON t.number = b.route "
        "JOIN recipients p ON p.sequence = b.sequence "
        "JOIN receipts r ON r.sequence = b.sequence WHERE f.revision > ? ORDER BY f.revision LIMIT ?",
        (after, FEED_AT_ONCE),
    )
    return [_fresh(*row) for row in rows]


def _fresh(
    revision: int,
    indexes: bytes | None,
    batch_id: bytes,
    attempt: int,
    state: int,
    job: str,
    created: float,
    app: str,
    provider: str,
    ids: bytes,
    *columns: Any,
) -> Fresh:
    told = None if indexes is None else column.decode_indexes(indexes)
    ended = Ended(batch_id, job, app, provider, created, ids, Columns(*columns), told)
    return Fresh(revision, ended, attempt, state == BatchState.LEASED)


def waits(db: apsw.Connection) -> bool:
    """Whether there are receipts that are not published."""
    return first(db, "SELECT 1 FROM feed WHERE revision > (SELECT published FROM member) LIMIT 1") is not None


def unpublished(db: apsw.Connection, batch_id: bytes) -> int:
    """Receipts of a batch that are not published."""
    rows = db.execute(
        "SELECT f.indexes, b.count FROM feed f JOIN batches b USING (sequence) "
        "WHERE f.revision > (SELECT published FROM member) AND b.id = ?",
        (batch_id,),
    )
    return sum(count if indexes is None else len(column.decode_indexes(indexes)) for indexes, count in rows)


class Verdict(NamedTuple):
    """A dead target and whose it is."""

    revision: int
    app: str
    provider: str
    target: DeadTarget


def verdicts(db: apsw.Connection, after: int) -> list[Verdict]:
    """Dead targets since a revision."""
    rows = every(
        db,
        "SELECT revision, app, provider, key, since, reason FROM dead_targets WHERE revision > ? "
        "ORDER BY revision LIMIT 1000",
        (after,),
    )
    return [
        Verdict(revision, app, provider, DeadTarget(key, since, reason))
        for revision, app, provider, key, since, reason in rows
    ]


def untold(db: apsw.Connection) -> tuple[list[Fresh], list[Verdict]]:
    """What the feeds have that is not in Kafka."""
    known = member(db)
    return feed(db, known.published), verdicts(db, known.told)


# --- what is here


def standing(db: apsw.Connection, batch_id: bytes) -> tuple[int, bytes | None] | None:
    """A batch's count of deliveries and their states, if any were stored; None if it is not here."""
    row = first(
        db, "SELECT count, r.states FROM batches LEFT JOIN receipts r USING (sequence) WHERE id = ?", (batch_id,)
    )
    return None if row is None else (row[0], row[1])


_HELD = """
SELECT sequence, b.id, b.count, b.state, b.attempt, b.crashes, r.states, r.notes, r.milliseconds
FROM batches b LEFT JOIN receipts r USING (sequence) WHERE
"""
_OPEN = "b.state != 3"
_UNTOLD = "sequence IN (SELECT sequence FROM feed WHERE revision > (SELECT published FROM member))"


def held(db: apsw.Connection, chosen: Callable[[int], bool]) -> list[Held]:
    """What of the partitions chosen is not done, or not told."""
    return [_held(row) for row in db.execute(f"{_HELD} {_OPEN} OR {_UNTOLD}") if chosen(partition_of(row[1]))]


def held_batch(db: apsw.Connection, batch_id: bytes) -> Held | None:
    """A batch, if it is here and not done."""
    row = first(db, f"{_HELD} {_OPEN} AND b.id = ?", (batch_id,))
    return None if row is None else _held(row)


def _held(row: tuple[Any, ...]) -> Held:
    sequence, batch_id, count, state, attempt, crashes, *stored = row
    columns = Columns.fresh(count) if stored[0] is None else Columns(*stored)
    leased = state == BatchState.LEASED
    if leased:
        columns = columns._replace(states=column.pending_may_be_sent(columns.states))
    return Held(sequence, batch_id, columns, crashes, attempt, leased, attempt > 0 or stored[0] is not None)


def drop(db: apsw.Connection, sequences: Sequence[int]) -> None:
    """Forget batches that are others' by now. Whoever holds one learns it when it says something."""
    for sequence in sequences:
        job, count, state = only(db, "SELECT job, count, state FROM batches WHERE sequence = ?", (sequence,))
        db.execute("DELETE FROM feed WHERE job = ? AND sequence = ?", (job, sequence))
        for table in ("work", "recipients", "receipts", "batches"):
            db.execute(f"DELETE FROM {table} WHERE sequence = ?", (sequence,))
        left = int(state != BatchState.DONE)
        if left:
            db.execute("UPDATE stored SET batches = batches - 1, deliveries = deliveries - ?", (count,))
        db.execute("UPDATE jobs SET open_batches = open_batches - ? WHERE number = ?", (left, job))
        leases.settle_job(db, job)
        if first(db, "SELECT 1 FROM batches WHERE job = ? LIMIT 1", (job,)) is None:
            for table in ("cancellations", "messages"):
                db.execute(f"DELETE FROM {table} WHERE job = ?", (job,))
            db.execute("DELETE FROM jobs WHERE number = ?", (job,))


def resume(db: apsw.Connection, batch_id: bytes, columns: Columns, crashes: int, attempt: int, now: float) -> None:
    """Give a batch that was just admitted the progress it had elsewhere."""
    row = first(db, "SELECT sequence FROM batches WHERE id = ?", (batch_id,))
    batch = None if row is None else leases.batch_of(db, row[0], "b.state NOT IN (2, 3)", ())
    if batch is None or len(columns.states) != batch.size:
        return
    # It was leased before: what is marked as SENT was interrupted there.
    db.execute(
        "UPDATE batches SET crashes = ?, attempt = ? WHERE sequence = ?", (crashes, max(attempt, 1), batch.sequence)
    )
    leases.take_over(db, batch, columns, now)


def release_leased(
    db: apsw.Connection, chosen: Callable[[int], bool], trace_of: Callable[[str], Trace], now: float
) -> None:
    """Give back, in the name of whoever has them, the leases of the partitions chosen."""
    rows = every(db, "SELECT sequence, attempt, owner, id FROM batches WHERE state = 2")
    traces: Mapping[str, Trace] = {owner: trace_of(owner) for _, _, owner, _ in rows}
    for sequence, attempt, owner, batch_id in rows:
        if chosen(partition_of(batch_id)):
            leases.release(db, Entry(sequence, attempt), traces[owner], now)


def leased(db: apsw.Connection) -> int:
    """Batches that somebody holds."""
    (count,) = only(db, "SELECT count(*) FROM batches WHERE state = 2")
    return int(count)


def work_of(db: apsw.Connection, batch_id: bytes) -> tuple[bytes, int, tuple[str, str, str], int, bytes, bytes] | None:
    """A batch's job and that one's total, route, count, recipients and columns, encoded as they are stored."""
    row = first(
        db,
        "SELECT m.body, j.deliveries, t.app, t.provider, t.origin, b.count, p.ids, w.columns FROM batches b "
        "JOIN jobs j ON j.number = b.job JOIN messages m USING (job) "
        "JOIN routes t ON t.number = b.route JOIN recipients p USING (sequence) "
        "JOIN work w USING (sequence) WHERE b.id = ? AND b.state != 3",
        (batch_id,),
    )
    if row is None:
        return None
    body, total, app, provider, origin, count, ids, columns = row
    return bytes(body), total, (app, provider, origin), count, bytes(ids), bytes(columns)
