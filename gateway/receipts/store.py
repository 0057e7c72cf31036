"""Reading the receipts that the queue stores as columns, and forgetting them when their time is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import apsw

from gateway.model import INDEX_DIGITS, Note, State, delivery_prefix, split_delivery_id
from gateway.queue import uploads
from gateway.queue.base import Sees, sees_all
from gateway.queue.columns import Columns, decode_indexes
from gateway.queue.database import Database
from gateway.queue.rows import every, first, only
from gateway.queue.schema import JobState
from gateway.queue.sweeping import sweep
from gateway.receipts.progress import COLUMNS, JobRow, JobsProgress
from gateway.receipts.states import WORDS, InvalidToken, InvalidTokens, JobStatus, Page, Receipt

OFFSET_BITS = 10
"""A cursor is a revision of the feed and, in its low bits, how many of that revision's receipts were read."""

CHANGES_AT_ONCE = 4096
"""Of batches, that one look for an app's receipts goes through."""

JOBS_AT_ONCE = 16
BATCHES_AT_ONCE = 32
PAGES_AT_ONCE = 512
"""What retention does in one transaction: each takes some milliseconds, and work goes on between them."""

FREE_SHARE = 4
"""A file may keep one free page in so many, to be used again; more is given back to the file system."""

_WHOLE = "finished IS NOT NULL AND deliveries <= (SELECT coalesce(sum(count), 0) FROM batches WHERE job = jobs.number)"
"""Whether a job is finished: nothing of it is left here, nor, with Kafka, with another machine."""

_VISIBLE = (JobState.READY, JobState.CANCELLED)
_DIGITS = tuple(digits.decode() for digits in INDEX_DIGITS)
_NO_NOTE = Note()

_BATCH = """
SELECT b.id, b.count, j.id, j.created, t.app, t.provider, p.ids, r.states, r.notes, r.milliseconds{more}
FROM {first} JOIN jobs j ON j.number = b.job JOIN routes t ON t.number = b.route
JOIN recipients p ON p.sequence = b.sequence LEFT JOIN receipts r ON r.sequence = b.sequence
WHERE {condition}
"""
_FEED = _BATCH.format(
    more=", f.revision, f.indexes",
    first="feed f JOIN batches b ON b.sequence = f.sequence",
    condition="f.revision >= :revision {of_job} ORDER BY f.revision",
)
_FEED_OF_APP = _FEED.format(of_job="AND f.revision < :until AND +t.app = :app")  # read by revision, not by route
_FEED_OF_JOB = _FEED.format(of_job="AND f.job = :job")
_FEED_OF_ALL = _FEED.format(of_job="")
_OWNER = "SELECT j.app FROM batches b JOIN jobs j ON j.number = b.job WHERE b.id = ? AND j.state IN (?, ?)"
_ONE_BATCH = _BATCH.format(more="", first="batches b", condition="b.id = ?")


class _Batch(NamedTuple):
    """A batch's receipts, ready to be picked by index."""

    prefix: str
    job: str
    created: float
    app: str
    provider: str
    recipients: list[str]
    states: bytes
    notes: dict[int, Note]
    milliseconds: Sequence[int]

    @classmethod
    def of(cls, row: Sequence[Any]) -> _Batch:
        batch_id, count, job, created, app, provider, ids, states, notes, milliseconds = row
        columns = Columns(states, notes, milliseconds) if states is not None else Columns.fresh(count)
        return cls(
            delivery_prefix(batch_id),
            job,
            created,
            app,
            provider,
            ids.decode().split("\n"),
            columns.states,
            columns.notes_by_index(),
            columns.milliseconds_array(),
        )

    def receipts(self, indexes: Iterable[int]) -> list[Receipt]:
        prefix, job, created, app, provider, recipients, states, notes, milliseconds = self
        picked = []
        for index in indexes:
            state, note = states[index], notes.get(index, _NO_NOTE)
            picked.append(
                Receipt(
                    prefix + _DIGITS[index],
                    job,
                    recipients[index],
                    app,
                    provider,
                    WORDS[state],
                    note.reason,
                    note.attempts,
                    note.unanswered,
                    note.provider_id,
                    created + milliseconds[index] / 1000 if state >= State.ACCEPTED else None,
                )
            )
        return picked


class ReceiptStore:
    """Reads one snapshot a call, on a connection that never waits for writers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._progress = JobsProgress()

    async def app_of(self, job_id: str) -> str | None:
        """The full name of a job's app; None if there is no such job."""

        def query(db: apsw.Connection) -> str | None:
            row = _visible_job(db, job_id, "app")
            return None if row is None else str(row[0])

        return await self._database.read(query)

    async def job(self, job_id: str, sees: Sees = sees_all) -> JobStatus | None:
        """How far a job of an app that is seen has come. A million deliveries take about 10 ms of the reader's thread
        the first time, and then what of them may have changed."""

        def query(db: apsw.Connection) -> JobStatus | None:
            row = _visible_job(db, job_id, COLUMNS)
            if row is None or not sees((job := JobRow(*row)).app):
                return None
            return self._progress.status(db, job_id, job)

        return await self._database.read(query)

    async def receipts(self, job_id: str, after: int, limit: int) -> Page | None:
        """Receipts of a job since a cursor (0: from the start); None if there is no such job."""

        def query(db: apsw.Connection) -> Page | None:
            row = _visible_job(db, job_id, f"number, {_WHOLE}")
            if row is None:
                return None
            number, finished = row
            receipts, cursor, more = _feed(db, _FEED_OF_JOB, {"job": number}, after, limit)
            return Page(receipts, cursor, bool(finished) and not more)

        return await self._database.read(query)

    async def feed(self, after: int, limit: int) -> Page:
        """Receipts of all jobs since a cursor."""

        def query(db: apsw.Connection) -> Page:
            receipts, cursor, _ = _feed(db, _FEED_OF_ALL, {}, after, limit)
            return Page(receipts, cursor, False)

        return await self._database.read(query)

    async def feed_of_app(self, app: str, after: int, limit: int) -> Page:
        """Receipts of an app since a cursor. One call looks at some thousand changes of all apps at most; the cursor
        goes on behind what it has seen."""

        def query(db: apsw.Connection) -> Page:
            until = (after >> OFFSET_BITS) + CHANGES_AT_ONCE
            bindings = {"app": app, "until": until}
            receipts, cursor, more = _feed(db, _FEED_OF_APP, bindings, after, limit)
            if not more:
                (newest,) = only(db, "SELECT coalesce(max(revision), 0) FROM feed")
                cursor = max(cursor, min(newest + 1, until) << OFFSET_BITS)
            return Page(receipts, cursor, not more and cursor >> OFFSET_BITS > newest)

        return await self._database.read(query)

    async def receipts_between(self, app: str, after: int, until: int, limit: int) -> list[Receipt]:
        """Receipts of an app between two cursors of `feed_of_app`, as far as they are still kept."""
        bindings = {"app": app, "until": until + (1 << OFFSET_BITS) - 1 >> OFFSET_BITS}
        return (await self._database.read(lambda db: _feed(db, _FEED_OF_APP, bindings, after, limit)))[0]

    async def tokens_between(self, app: str, after: int, until: int) -> list[InvalidToken]:
        """Targets of an app that were declared dead behind a cursor and up to another."""
        sql = (
            "SELECT provider, key, since, reason FROM dead_targets WHERE app = ? AND revision > ? AND revision <= ? "
            "ORDER BY revision"
        )
        rows = await self._database.read(lambda db: every(db, sql, (app, after, until)))
        return [InvalidToken(provider, key.decode(), since, reason) for provider, key, since, reason in rows]

    async def deliveries(self, delivery_ids: Iterable[str], sees: Sees = sees_all) -> dict[str, Receipt]:
        """What is known of deliveries of the apps that are seen; others are missing. Those without a receipt yet are
        `pending`."""
        wanted: dict[bytes, list[int]] = {}
        for delivery_id in delivery_ids:
            try:
                batch_id, index = split_delivery_id(delivery_id)
            except ValueError:
                continue
            wanted.setdefault(batch_id, []).append(index)
        return await self._database.read(lambda db: _deliveries(db, wanted, sees))

    async def invalid_tokens(self, app: str, after: int, limit: int) -> InvalidTokens:
        """Targets of an app that were declared dead since a cursor (0: from the start)."""

        def query(db: apsw.Connection) -> InvalidTokens:
            rows = every(
                db,
                "SELECT revision, provider, key, since, reason FROM dead_targets WHERE app = ? AND revision > ? "
                "ORDER BY revision LIMIT ?",
                (app, after, limit),
            )
            tokens = [InvalidToken(provider, key.decode(), since, reason) for _, provider, key, since, reason in rows]
            return InvalidTokens(tokens, rows[-1][0] if rows else after)

        return await self._database.read(query)

    async def vacuum(self, now: float, retention: float) -> int:
        """Forget jobs that finished more than `retention` seconds ago, in small transactions.

        Returns:
            How many jobs.
        """
        forgotten = 0
        while jobs := await self._database.write(lambda db: _discard_finished(db, now - retention)):
            forgotten += jobs
            while await self._database.write(lambda db: sweep(db, BATCHES_AT_ONCE, now)):
                pass
        while await self._database.write(_shrink):
            pass
        return forgotten


def _visible_job(db: apsw.Connection, job_id: str, columns: str) -> Any:
    sql = f"SELECT {columns} FROM jobs WHERE id = ? AND state IN (?, ?)"
    return first(db, sql, (job_id, *_VISIBLE))


def _feed(
    db: apsw.Connection, sql: str, bindings: dict[str, Any], after: int, limit: int
) -> tuple[list[Receipt], int, bool]:
    """Receipts, the next cursor, and whether there are more."""
    revision, offset = after >> OFFSET_BITS, after & (1 << OFFSET_BITS) - 1
    receipts: list[Receipt] = []
    cursor = after
    for *row, at, indexes in db.execute(sql, {**bindings, "revision": revision}):
        batch = _Batch.of(row)
        positions = range(len(batch.states)) if indexes is None else decode_indexes(indexes)
        skipped = offset if at == revision else 0
        left = limit - len(receipts)
        receipts += batch.receipts(positions[skipped : skipped + left])
        read = min(len(positions), skipped + left)
        cursor = at << OFFSET_BITS | read
        if read < len(positions):
            return receipts, cursor, True
    return receipts, cursor, False


def _deliveries(db: apsw.Connection, wanted: dict[bytes, list[int]], sees: Sees) -> dict[str, Receipt]:
    found: dict[str, Receipt] = {}
    for batch_id, indexes in wanted.items():
        owner = first(db, _OWNER, (batch_id, *_VISIBLE))
        if owner is not None and sees(owner[0]):
            row = only(db, _ONE_BATCH, (batch_id,))
            batch = _Batch.of(row)
            known = [index for index in indexes if index < len(batch.states)]
            found.update((receipt.id, receipt) for receipt in batch.receipts(known))
    return found


def _discard_finished(db: apsw.Connection, before: float) -> int:
    rows = every(
        db,
        "SELECT number, id FROM jobs WHERE finished < ? AND state IN (?, ?) ORDER BY finished LIMIT ?",
        (before, *_VISIBLE, JOBS_AT_ONCE),
    )
    for number, job_id in rows:
        uploads.discard(db, number, job_id)
    return len(rows)


def _shrink(db: apsw.Connection) -> bool:
    """Give some free pages back to the file system; False if there are few enough."""
    if db.pragma("freelist_count") * FREE_SHARE < db.pragma("page_count") + PAGES_AT_ONCE * FREE_SHARE:
        return False
    every(db, f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
    return True
