"""A leased batch on its way: which of its deliveries are still to be sent, on the wire, waiting, or done."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from gateway.model import INDEX_DIGITS, Job, Note, State, delivery_prefix
from gateway.policy.screening import given_up, overdue
from gateway.queue.base import BATCH_LOAD, DeadTarget, Lease, load
from providers.base import Plan, Rows

_SENT = bytes([State.SENT]) * len(INDEX_DIGITS)
_LONGEST = 0xFFFFFFFF
"""Of the milliseconds column: 49 days."""

COARSE = 0.25
"""Of a wait: retries of a batch come together in steps of about that much, as each slice costs whatever is in it."""

FIRST_STORED = 2.0
"""Seconds until what was answered of a batch that only waits is stored, so that its receipts can be read; the next
time it takes twice as long, for there is less of it each time."""

Column = Sequence[bytes] | Mapping[int, bytes]
"""Of a batch, by index; of a tail, what is left."""

SUSPECT_CUTS = 2
"""Connections that broke off under a delivery, after which it is sent alone."""


def age(job: Job, wall: float) -> int:
    """Milliseconds since a job was created, as the column stores them; `wall` is in UNIX seconds."""
    return min(max(0, int((wall - job.created_at) * 1000)), _LONGEST)


class Flight:
    """The columns of a lease and a cursor through them.

    Each delivery is in exactly one place: ready (in `_fresh` beyond the cursor, or in `_again`), ready to be sent alone
    (in `suspects`), on the wire (`on_wire` counts them, their state is SENT), waiting for a retry (in `_waiting`), or
    done (its state is terminal).
    `left` counts those that are not done.
    """

    __slots__ = (
        "_again", "_cursor", "_fresh", "_phase", "_prefix", "_stored_left", "_tail", "_tail_pause", "_waiting",
        "body_size", "cancelled", "checkpointed_at", "dead", "job", "lease", "left", "load", "milliseconds", "notes",
        "on_wire", "plan", "queued", "registered", "states", "suspects", "targets", "variables",
    )  # fmt: skip

    def __init__(
        self, lease: Lease, plan: Plan, columns: Sequence[list[bytes]], target_columns: int, now: float
    ) -> None:
        """`columns` as in `NewBatch`, decoded; `now` is the loop's time."""
        self.lease = lease
        self.job = lease.job
        self.plan = plan
        self.targets: tuple[Column, ...] = tuple(columns[:target_columns])
        self.variables: tuple[Column, ...] = tuple(columns[target_columns:-1])
        self.registered: Column = columns[-1]
        self.states = lease.progress.states
        self.milliseconds = lease.progress.milliseconds
        self.notes = lease.progress.notes
        self.dead: list[DeadTarget] = []
        self.on_wire = 0
        self.queued = False
        self.cancelled = False
        self.body_size = 512
        """The largest body of the last slice, in bytes: what the next one will need of a window."""
        self.checkpointed_at = now
        self._stored_left = lease.count
        self._tail = False
        self._tail_pause = FIRST_STORED
        self._phase = now  # of the steps in which its retries come: each batch has its own
        self._prefix = delivery_prefix(lease.batch_id).encode()
        self._fresh: Sequence[int] = range(lease.count)
        self._cursor = 0
        self._again: deque[int] = deque()
        self.suspects: deque[int] = deque()
        self._waiting: list[tuple[float, int]] = []  # heap of due times, in the loop's seconds, and indexes
        self.left = lease.count
        self.load = 0
        """What it counts for in its sender's hands (`queue.base.load`)."""

    def record(self, states: bytearray | memoryview) -> None:
        """Go on in this column, which outlives the process (`gateway.queue.flight`)."""
        states[:] = self.states
        self.states = self.lease.progress.states = states

    @property
    def ready(self) -> bool:
        """Whether anything can be sent now."""
        return self._cursor < len(self._fresh) or bool(self._again)

    @property
    def first_time(self) -> bool:
        """Whether what is sent next is sent for the first time."""
        return not self._again

    @property
    def waiting(self) -> int:
        """How many wait for a retry."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether all that is left waits for a later retry."""
        return len(self._waiting) == self.left > 0

    @property
    def burden(self) -> int:
        """What it counts for in its sender's hands now. Of a tail, what is done takes five bytes each."""
        return BATCH_LOAD + self.left if self._tail else load(self.lease.count, self.left)

    def asleep(self, now: float, wall: float) -> bool:
        """Whether a look at it would find nothing new: it waits, for a later retry, and was counted so."""
        return (
            self._tail
            and self.idle
            and self._waiting[0][0] > now
            and self.load == self.burden
            and overdue(self.job, self.cancelled, wall) is None
        )

    def shrink(self) -> None:
        """Where all that is left waits, keep of the columns only what is left."""
        if self._tail or not self.idle:
            return
        self._tail = True
        left = [index for _, index in self._waiting]
        self.targets = tuple({index: column[index] for index in left} for column in self.targets)
        self.variables = tuple({index: column[index] for index in left} for column in self.variables)
        self.registered = {index: self.registered[index] for index in left}

    def unstored(self, now: float) -> bool:
        """Whether only retries are left, and what was answered meanwhile is to be stored by now."""
        return now - self.checkpointed_at > self._tail_pause and self.left < self._stored_left and self.idle

    def storing(self, now: float) -> None:
        """Its progress goes to the queue."""
        if self.idle:
            self._tail_pause *= 2
        self._stored_left = self.left
        self.checkpointed_at = now

    @property
    def due(self) -> float | None:
        """The loop's time of the next retry."""
        return self._waiting[0][0] if self._waiting else None

    def age(self, wall: float) -> int:
        """See `age`."""
        return age(self.job, wall)

    def resume(self, pending: Sequence[int]) -> None:
        """Go on with these deliveries only; the others are done or waiting."""
        suspects = {index for index, note in self.notes.items() if note.cuts >= SUSPECT_CUTS}
        if suspects:
            self.suspects.extend(index for index in pending if index in suspects)
            pending = [index for index in pending if index not in suspects]
        self._fresh = pending
        self._cursor = 0

    def next(self, count: int) -> Sequence[int]:
        """The next deliveries to send, at most `count`, marked as SENT."""
        if self._again:
            indexes: Sequence[int] = [self._again.popleft() for _ in range(min(count, len(self._again)))]
        else:
            indexes = self._fresh[self._cursor : self._cursor + count]
            self._cursor += len(indexes)
        if isinstance(indexes, range):
            self.states[indexes.start : indexes.stop] = _SENT[: len(indexes)]
        else:
            for index in indexes:
                self.states[index] = State.SENT
        self.on_wire += len(indexes)
        return indexes

    def next_suspect(self) -> Sequence[int]:
        """The next delivery to send alone, marked as SENT."""
        index = self.suspects.popleft()
        self.states[index] = State.SENT
        self.on_wire += 1
        return (index,)

    def rows(self, indexes: Sequence[int]) -> Rows:
        """The columns of these deliveries."""
        prefix = self._prefix
        if isinstance(indexes, range):
            part = slice(indexes.start, indexes.stop)
            return Rows(
                [prefix + digits for digits in INDEX_DIGITS[part]],
                tuple(cast(list[bytes], column)[part] for column in self.targets),
                tuple(cast(list[bytes], column)[part] for column in self.variables),
            )
        return Rows(
            [prefix + INDEX_DIGITS[index] for index in indexes],
            tuple([column[index] for index in indexes] for column in self.targets),
            tuple([column[index] for index in indexes] for column in self.variables),
        )

    def put_back(self, index: int) -> None:
        """A delivery that is on the wire, or was about to be, has to be sent (again) as soon as possible."""
        self._take_off(index)
        self._make_ready(index)

    def _take_off(self, index: int) -> None:
        """A delivery is not on the wire any more.

        One of which a try got no answer goes on being SENT in the column: the note that tells of it dies with this
        process, and whoever takes over must not call it unsent. What is stored says PENDING, beside the note.
        """
        self.on_wire -= 1
        note = self.notes.get(index)
        if note is None or not note.unanswered:
            self.states[index] = State.PENDING

    def _make_ready(self, index: int) -> None:
        note = self.notes.get(index)
        suspect = note is not None and note.cuts >= SUSPECT_CUTS
        (self.suspects if suspect else self._again).append(index)

    def step(self, now: float, wait: float) -> float:
        """When a retry comes that is to wait so many seconds from `now` on: then, or somewhat later, see `COARSE`."""
        step = COARSE * math.ldexp(0.5, math.frexp(max(wait, COARSE))[1])  # of the power of two below
        return self._phase + math.ceil((now + wait - self._phase) / step) * step

    def put_off(self, index: int, due: float) -> None:
        """A delivery on the wire is to be tried again at `due`, the loop's time."""
        self._take_off(index)
        self.wait(index, due)

    def wait(self, index: int, due: float) -> None:
        """A delivery that is in no place is to be tried at `due`, the loop's time."""
        heapq.heappush(self._waiting, (due, index))

    def bring_back(self, now: float, most: int) -> int:
        """Make ready what has waited long enough, at most so many, and say how many there were."""
        before = len(self._waiting)
        while self._waiting and self._waiting[0][0] <= now and before - len(self._waiting) < most:
            self._make_ready(heapq.heappop(self._waiting)[1])
        return before - len(self._waiting)

    def held_back(self, now: float) -> int:
        """How many have waited long enough, and were not brought back."""
        return sum(due <= now for due, _ in self._waiting)

    def finish(self, index: int, state: State, milliseconds: int, reason: str) -> None:
        """End a delivery that is on the wire, or was about to be."""
        self.on_wire -= 1
        self.end(index, state, milliseconds, reason)

    def end(self, index: int, state: State, milliseconds: int, reason: str) -> None:
        """End a delivery that is in no place."""
        self.left -= 1
        self.states[index] = state
        self.milliseconds[index] = milliseconds
        if reason:
            note = self.note(index)
            note.reason = reason
            note.retry_at = 0.0

    def abandon(self, state: State, milliseconds: int, reason: str) -> int:
        """End all deliveries that are not on the wire, and say how many: expiry and cancellation."""
        ended = 0
        tried = {*self._again, *self.suspects, *(index for _, index in self._waiting)}
        for index, former in enumerate(bytes(self.states)):
            if former == State.PENDING or index in tried:
                note = self.notes.get(index)
                self.end(index, given_up(state, note.unanswered if note else 0), milliseconds, reason)
                ended += 1
        self._stop()
        return ended

    def detach(self) -> None:
        """Let go of the lease: nothing more is sent, and late answers touch nothing of what the queue has by now."""
        self.states = bytearray(self.states)
        if self.on_wire:
            self.milliseconds = self.milliseconds[:]
            self.notes = {index: msgspec.structs.replace(note) for index, note in self.notes.items()}
        self._stop()

    def _stop(self) -> None:
        self._cursor = len(self._fresh)
        self._again.clear()
        self.suspects.clear()
        self._waiting.clear()

    def note(self, index: int) -> Note:
        """The delivery's note, made if there is none."""
        note = self.notes.get(index)
        if note is None:
            note = self.notes[index] = Note()
        return note
