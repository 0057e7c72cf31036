"""How work is held and given back: what leasing, progress and recovery do inside a transaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

import apsw

from gateway.model import Lane, Route, State
from gateway.queue import columns as column
from gateway.queue.base import DeadTarget, LeaseLost, QueueError, Room
from gateway.queue.columns import Columns
from gateway.queue.dead import remember_dead
from gateway.queue.flight import Entry, Trace
from gateway.queue.ordering import step_out
from gateway.queue.rows import every, first, only
from gateway.queue.schema import BatchState, JobState
from gateway.queue.sharing import Candidate, Chosen, Shares

ROUTES_AT_ONCE = 256
"""Routes looked at by one lease. With more, the next lease goes on where this one ended."""

CANDIDATES_AT_ONCE = 32

PROMOTIONAL_PART = 16
"""One in so many batches of a lease is promotional, however much transactional work there is."""

EXPIRED_AT_ONCE = 32

RIPE_AT_ONCE = 256
"""Batches of one kind of waiting that become ready with one lease: a millisecond."""
SUSPECTS_LOOKED_AT = 64
"""Batches on their last chance among which one is looked for that its holder has room for."""


class Taken(NamedTuple):
    """A leased batch as it is stored."""

    sequence: int
    batch_id: bytes
    attempt: int
    until: float
    crashes: int
    failures: int
    job_id: str
    route: Route
    size: int
    columns: bytes
    stored: Columns | None


class Hold(NamedTuple):
    """What a holder has to show: the fencing of every change to a leased batch."""

    sequence: int
    attempt: int
    owner: str


class Batch(NamedTuple):
    sequence: int
    job: int
    size: int
    created: float
    cancelled: bool
    ordered: bool
    """Whether its job has an ordering key."""
    crashes: int
    stored: Columns | None

    def elapsed(self, now: float) -> int:
        """Milliseconds since its job was created, as the column stores them."""
        return max(0, min(int((now - self.created) * 1000), 0xFFFFFFFF))


# --- taking


def ripen(db: apsw.Connection, clock: float, now: float) -> None:
    """Make ready what waited long enough: the queue's clock shows `clock`, the wall clock `now`."""
    for state, due in ((BatchState.SCHEDULED, now), (BatchState.DEFERRED, clock)):
        # The state is spelt out because SQLite uses a partial index only for what it sees when it compiles.
        db.execute(
            f"UPDATE batches SET state = 1, due = NULL WHERE sequence IN "
            f"(SELECT sequence FROM batches WHERE state = {state:d} AND due <= ? ORDER BY due LIMIT ?)",
            (due, RIPE_AT_ONCE),
        )


class Quiet(NamedTuple):
    """Until when there is nothing to take unless something changes."""

    clock: float
    """Of the queue's clock."""
    wall: float
    """UNIX seconds."""


def quiet(db: apsw.Connection) -> Quiet | None:
    """None if there is something to take now."""
    if first(db, "SELECT 1 FROM batches WHERE state = 1 LIMIT 1") is not None:
        return None
    scheduled, deferred, leased = only(
        db,
        f"SELECT (SELECT min(due) FROM batches WHERE state = {BatchState.SCHEDULED:d}), "
        f"(SELECT min(due) FROM batches WHERE state = {BatchState.DEFERRED:d}), "
        f"(SELECT min(lease_until) FROM batches WHERE state = {BatchState.LEASED:d})",
    )
    waits = [until for until in (deferred, leased) if until is not None]
    return Quiet(min(waits, default=math.inf), math.inf if scheduled is None else scheduled)


def lease(
    db: apsw.Connection,
    room: Room,
    limit: int,
    owner: str,
    until: float,
    scan_from: int,
    last_chance: int,
    holds_suspect: bool,
) -> tuple[list[Taken], int]:
    """Take at most `limit` ready batches; also where the next scan over the routes should start.

    Batches that `last_chance` holders died with are suspects, and a holder has one of them at a time: its death then
    parks that one and no other, and the innocent lose their suspicion by being completed.
    """
    taken: list[Taken] = []
    next_scan = 0
    if limit and not holds_suspect and (suspect := _suspect(db, room, last_chance)) is not None:
        taken.append(_take(db, suspect, owner, until))
    for lane in Lane:
        left = limit - len(taken) - (limit // PROMOTIONAL_PART if lane is Lane.TRANSACTIONAL else 0)
        shares = Shares(room, lane)
        for start in dict.fromkeys((scan_from, 0)):
            if left == 0:
                break
            waiting, end = _waiting(db, lane, room, shares, start, last_chance)
            chosen = shares.choose(waiting, left)
            taken += [_take(db, each, owner, until) for each in chosen]
            left -= len(chosen)
            if start == scan_from:
                next_scan = max(next_scan, end)
    return taken, next_scan


def _suspect(db: apsw.Connection, room: Room, last_chance: int) -> Chosen | None:
    """The first ready batch on its last chance that there is room for."""
    rows = every(
        db,
        "SELECT b.sequence, b.lane, app, provider, origin FROM batches b JOIN routes ON number = route "
        "WHERE state = 1 AND crashes > 0 AND crashes >= ? ORDER BY b.lane, b.sequence LIMIT ?",
        (last_chance, SUSPECTS_LOOKED_AT),
    )
    for sequence, lane, *key in rows:
        route = Route(*key)
        if route not in room.closed and Shares(room, Lane(lane)).open(route):
            return Chosen(sequence, route)
    return None


def _waiting(
    db: apsw.Connection, lane: Lane, room: Room, shares: Shares, start: int, last_chance: int
) -> tuple[dict[Route, Iterator[Candidate]], int]:
    """Ready batches of the routes that may have more, and where a scan over the routes goes on."""
    routes = _routes_with_work(db, lane, start)
    waiting = {
        route: _ready(db, lane, number, last_chance)
        for number, route in routes
        if route not in room.closed and shares.open(route)
    }
    return waiting, routes[-1][0] if len(routes) == ROUTES_AT_ONCE else 0


def _ready(db: apsw.Connection, lane: Lane, number: int, last_chance: int) -> Iterator[Candidate]:
    """A route's ready batches, oldest first, read as far as somebody asks."""
    last = 0
    while True:
        page = every(
            db,
            "SELECT sequence, count FROM batches WHERE state = 1 AND lane = ? AND route = ? AND sequence > ? "
            "AND crashes < ? ORDER BY sequence LIMIT ?",
            (lane, number, last, last_chance, CANDIDATES_AT_ONCE),
        )
        yield from (Candidate(*row) for row in page)
        if len(page) < CANDIDATES_AT_ONCE:
            return
        last = page[-1][0]


def _routes_with_work(db: apsw.Connection, lane: Lane, start: int) -> list[tuple[int, Route]]:
    """Routes after number `start` that have waiting batches: one step of the index each, however many batches."""
    rows = db.execute(
        "WITH RECURSIVE found (route) AS ("
        " SELECT min(route) FROM batches WHERE state = 1 AND lane = :lane AND route > :start"
        " UNION ALL SELECT (SELECT min(route) FROM batches WHERE state = 1 AND lane = :lane AND route > found.route)"
        " FROM found WHERE found.route IS NOT NULL LIMIT :limit) "
        "SELECT number, app, provider, origin FROM found JOIN routes ON number = found.route",
        {"lane": lane, "start": start, "limit": ROUTES_AT_ONCE},
    )
    return [(number, Route(*key)) for number, *key in rows]


def _take(db: apsw.Connection, chosen: Chosen, owner: str, until: float) -> Taken:
    sequence = chosen.sequence
    db.execute(
        "UPDATE batches SET state = ?, attempt = attempt + 1, owner = ?, lease_until = ? WHERE sequence = ?",
        (BatchState.LEASED, owner, until, sequence),
    )
    batch_id, attempt, crashes, failures, job_id, size, columns, states, notes, milliseconds = only(
        db,
        "SELECT b.id, b.attempt, b.crashes, b.failures, j.id, b.count, w.columns, r.states, r.notes, r.milliseconds "
        "FROM batches b JOIN jobs j ON j.number = b.job JOIN work w USING (sequence) "
        "LEFT JOIN receipts r USING (sequence) WHERE b.sequence = ?",
        (sequence,),
    )
    stored = Columns(states, notes, milliseconds) if states is not None else None
    return Taken(sequence, batch_id, attempt, until, crashes, failures, job_id, chosen.route, size, columns, stored)


def message(db: apsw.Connection, job_id: str) -> bytes:
    """A stored job, encoded."""
    sql = "SELECT m.body FROM messages m JOIN jobs j ON j.number = m.job WHERE j.id = ?"
    (body,) = only(db, sql, (job_id,))
    return bytes(body)


# --- holding


def checkpoint(db: apsw.Connection, hold: Hold, columns: Columns, dead: Sequence[DeadTarget], until: float) -> None:
    """Store progress and extend the lease."""
    batch = _held(db, hold)
    _save(db, batch, columns)
    remember_dead(db, batch.sequence, dead)
    db.execute("UPDATE batches SET lease_until = ? WHERE sequence = ?", (until, hold.sequence))


def complete(db: apsw.Connection, hold: Hold, columns: Columns, dead: Sequence[DeadTarget], now: float) -> None:
    """Store the receipts and remove the work."""
    if not column.is_terminal(columns.states):
        raise QueueError("a batch is complete when all its deliveries have a terminal state")
    batch = _held(db, hold)
    _save(db, batch, columns)
    remember_dead(db, batch.sequence, dead)
    _end(db, batch, now)


def defer(
    db: apsw.Connection,
    hold: Hold,
    columns: Columns,
    until: float | None,
    dead: Sequence[DeadTarget],
    now: float,
    *,
    failed: bool = False,
) -> None:
    """Store progress and give the batch back, until a time of the queue's clock if one is given.

    That of a cancelled job ends here.
    """
    batch = _held(db, hold)
    remember_dead(db, batch.sequence, dead)
    give_back(db, batch, columns, until, now)
    if failed:
        db.execute("UPDATE batches SET failures = failures + 1 WHERE sequence = ?", (batch.sequence,))


def _held(db: apsw.Connection, hold: Hold) -> Batch:
    batch = batch_of(db, hold.sequence, "b.state = 2 AND b.attempt = ? AND b.owner = ?", (hold.attempt, hold.owner))
    if batch is None:
        raise LeaseLost("another holder has the batch by now, or its job is gone: drop it")
    return batch


def batch_of(db: apsw.Connection, sequence: int, condition: str, bindings: tuple[object, ...]) -> Batch | None:
    row = first(
        db,
        "SELECT b.job, b.count, j.created, j.state, j.ordering_key IS NOT NULL, b.crashes, "
        "r.states, r.notes, r.milliseconds "
        "FROM batches b JOIN jobs j ON j.number = b.job LEFT JOIN receipts r USING (sequence) "
        "WHERE b.sequence = ? AND " + condition,
        (sequence, *bindings),
    )
    if row is None:
        return None
    job, size, created, job_state, ordered, crashes, states, notes, milliseconds = row
    stored = Columns(states, notes, milliseconds) if states is not None else None
    return Batch(sequence, job, size, created, job_state == JobState.CANCELLED, bool(ordered), crashes, stored)


def _save(db: apsw.Connection, batch: Batch, columns: Columns) -> None:
    """Store columns; whatever became terminal by them gets its place in the feed."""
    if len(columns.states) != batch.size or len(columns.milliseconds) != 4 * batch.size:
        raise QueueError("the columns of a batch are as long as the batch")
    column.check_known(columns.states)
    before = batch.stored or Columns.fresh(batch.size)
    if columns == before:
        return
    column.check_kept(before.states, columns.states)
    db.execute(
        "INSERT OR REPLACE INTO receipts (sequence, states, notes, milliseconds) VALUES (?, ?, ?, ?)",
        (batch.sequence, *columns),
    )
    _publish(db, batch, before.states, columns.states)


def _publish(db: apsw.Connection, batch: Batch, before: bytes, after: bytes) -> None:
    if column.is_terminal(after) and not column.has_terminal(before):
        indexes = None
    else:
        indexes = column.newly_terminal(before, after)
        if not indexes:
            return
    db.execute(
        "INSERT INTO feed (job, sequence, indexes) VALUES (?, ?, ?)",
        (batch.job, batch.sequence, None if indexes is None else column.encode_indexes(indexes)),
    )


def _end(db: apsw.Connection, batch: Batch, now: float) -> None:
    db.execute(
        "UPDATE batches SET state = ?, owner = NULL, lease_until = NULL, finished = ? WHERE sequence = ?",
        (BatchState.DONE, now, batch.sequence),
    )
    db.execute("DELETE FROM work WHERE sequence = ?", (batch.sequence,))
    db.execute(
        "UPDATE jobs SET open_batches = open_batches - 1, finished = iif(open_batches = 1, ?, NULL) WHERE number = ?",
        (now, batch.job),
    )
    if batch.ordered:
        settle_job(db, batch.job)
    db.execute("UPDATE stored SET batches = batches - 1, deliveries = deliveries - ?", (batch.size,))


def settle_job(db: apsw.Connection, job: int) -> None:
    """Let the next of a job's ordering key go if nothing of it is left."""
    if first(db, "SELECT 1 FROM jobs WHERE number = ? AND open_batches = 0", (job,)):
        step_out(db, job)


def give_back(db: apsw.Connection, batch: Batch, columns: Columns, until: float | None, now: float) -> None:
    """Nobody holds the batch any more. It ends here if its job is cancelled or everything in it is answered.

    Otherwise it is ready again, at once or at `until` of the queue's clock.
    """
    if batch.cancelled:
        columns = column.given_up(columns, State.CANCELLED, "", column.CANCELLED_AFTER_SENDING, batch.elapsed(now))
    _save(db, batch, columns)
    if column.is_terminal(columns.states):
        _end(db, batch, now)
        return
    db.execute(
        "UPDATE batches SET state = ?, due = ?, owner = NULL, lease_until = NULL WHERE sequence = ?",
        (BatchState.READY if until is None else BatchState.DEFERRED, until, batch.sequence),
    )


def take_over(db: apsw.Connection, batch: Batch, columns: Columns, now: float) -> None:
    """Store the progress of a former holder of another machine for a batch that waits here. It ends here if nothing
    of it is left, or its job is cancelled; otherwise it waits as it did."""
    if batch.cancelled:
        columns = column.given_up(columns, State.CANCELLED, "", column.CANCELLED_AFTER_SENDING, batch.elapsed(now))
    _save(db, batch, columns)
    if column.is_terminal(columns.states):
        _end(db, batch, now)


def give_up(db: apsw.Connection, batch: Batch, columns: Columns, now: float) -> None:
    """The batch ends with these columns, all of them terminal."""
    _save(db, batch, columns)
    _end(db, batch, now)


# --- recovering


class Deaths(NamedTuple):
    """How deaths count."""

    limit: int
    """A batch with which so many holders died is parked."""
    now: float
    """UNIX seconds."""


def release_expired(
    db: apsw.Connection,
    deaths: Deaths,
    clock: float,
    owner: str,
    trace_of: Callable[[str], Trace],
    *,
    counted: bool,
) -> int:
    """Give back what other holders have not extended in time: the queue's clock shows `clock`.

    `owner`, who asks, is alive and knows what it has.

    Returns:
        How many batches are blamed for it; none unless `counted`.
    """
    expired = every(
        db,
        "SELECT sequence, attempt, owner FROM batches WHERE state = 2 AND lease_until <= ? AND owner != ? LIMIT ?",
        (clock, owner, EXPIRED_AT_ONCE),
    )
    traces = {owner: trace_of(owner) for _, _, owner in expired}
    return sum(
        _release(db, Entry(sequence, attempt), traces[owner], deaths.now, deaths if counted else None)
        for sequence, attempt, owner in expired
    )


def release_dead(db: apsw.Connection, deaths: Deaths, owner: str, trace: Trace) -> int:
    """Give back all that a dead holder had, and say how many batches are blamed for its death."""
    held = _leased_by(db, lambda other: other == owner)
    return sum(_release(db, Entry(*entry), trace, deaths.now, deaths) for entry in held)


def release_owned(db: apsw.Connection, owner: str, trace: Trace, now: float) -> None:
    """Give back all that a holder has who leaves."""
    for sequence, attempt in _leased_by(db, lambda other: other == owner):
        _release(db, Entry(sequence, attempt), trace, now, None)


def release_untouched(db: apsw.Connection, entries: Iterable[Entry], now: float) -> None:
    """Give back leases that their holder never saw."""
    for entry in entries:
        _release(db, entry, Trace(True, {}), now, None)


def release(db: apsw.Connection, entry: Entry, trace: Trace, now: float) -> None:
    """Give back what its holder has to give up."""
    _release(db, entry, trace, now, None)


def release_orphans(db: apsw.Connection, living: Container[str], now: float) -> None:
    """Give back what is held by owners who left no trace: nobody knows how they ended, so no batch is blamed."""
    for sequence, attempt in _leased_by(db, lambda owner: owner not in living):
        _release(db, Entry(sequence, attempt), Trace(False, {}), now, None)


def _leased_by(db: apsw.Connection, chosen: Callable[[str], bool]) -> list[tuple[int, int]]:
    rows = every(db, "SELECT sequence, attempt, owner FROM batches WHERE state = 2")
    return [(sequence, attempt) for sequence, attempt, owner in rows if chosen(owner)]


def _release(db: apsw.Connection, entry: Entry, trace: Trace, now: float, deaths: Deaths | None) -> bool:
    """Give a batch back in the name of its holder, with what the flight recorder knows of it.

    Returns:
        Whether its holder's death is put down to it, which it never is without `deaths`. A recorder of another boot
        tells of no batch, so a power cut is nobody's doing.
    """
    batch = batch_of(db, entry.sequence, "b.state = 2 AND b.attempt = ?", (entry.attempt,))
    if batch is None:
        return False
    columns = batch.stored or Columns.fresh(batch.size)
    found = trace.states.get(entry)
    if found is not None and len(found) == batch.size:
        columns = column.recovered(columns, found, batch.elapsed(now))
    if not trace.trusted:
        columns = columns._replace(states=column.pending_may_be_sent(columns.states))
    give_back(db, batch, columns, None, now)
    blamed = deaths is not None and trace.blames(entry)
    if deaths is not None and blamed:
        _count_death(db, batch, deaths)
    return blamed


def _count_death(db: apsw.Connection, batch: Batch, deaths: Deaths) -> None:
    """One more holder died with a batch that was given back, unless that ended it; the last one parks it."""
    park = batch.crashes + 1 >= deaths.limit
    db.execute(
        "UPDATE batches SET crashes = crashes + 1, state = ?, parked = ? WHERE sequence = ? AND state = 1",
        (BatchState.PARKED if park else BatchState.READY, deaths.now if park else None, batch.sequence),
    )
