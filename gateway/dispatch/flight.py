"""A leased batch on its way: which of its deliveries are still to be sent, on the wire, waiting, or done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from gateway.model import INDEX_DIGITS, Note, State, delivery_prefix
from gateway.queue.base import DeadTarget, Lease
from providers.base import Plan, Rows

_SENT = bytes([State.SENT]) * len(INDEX_DIGITS)


class Flight:
    """The columns of a lease and a cursor through them.

    Each delivery is in exactly one place: ready (in `_fresh` beyond the cursor, or in `_again`), on the wire
    (`on_wire` counts them, their state is SENT), waiting for a retry (`waiting` counts them; the sender's heap has
    them), or done (its state is terminal). `left` counts those that are not done.
    """

    __slots__ = (
        "_again", "_cursor", "_fresh", "_prefix", "body_size", "cancelled", "checkpointed_at", "dead", "job", "lease",
        "left", "milliseconds", "notes", "on_wire", "plan", "queued", "registered", "states", "targets", "variables",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, lease: Lease, plan: Plan, columns: Sequence[list[bytes]], target_columns: int, now: float
    ) -> None:
        """`columns` as in `NewBatch`, decoded; `now` is the loop's time."""
        self.lease = lease
        self.job = lease.job
        self.plan = plan
        self.targets = tuple(columns[:target_columns])
        self.variables = tuple(columns[target_columns:-1])
        self.registered = columns[-1]
        self.states = lease.progress.states
        self.milliseconds = lease.progress.milliseconds
        self.notes = lease.progress.notes
        self.dead: list[DeadTarget] = []
        self.on_wire = 0
        self.waiting = 0
        self.queued = False
        self.cancelled = False
        self.body_size = 512
        """The largest body of the last slice, in bytes: what the next one will need of a window."""
        self.checkpointed_at = now
        self._prefix = delivery_prefix(lease.batch_id).encode()
        self._fresh: Sequence[int] = range(lease.count)
        self._cursor = 0
        self._again: deque[int] = deque()
        self.left = lease.count

    @property
    def ready(self) -> bool:
        """Whether anything can be sent now."""
        return self._cursor < len(self._fresh) or bool(self._again)

    @property
    def idle(self) -> bool:
        """Whether all that is left waits for a later retry."""
        return self.waiting == self.left > 0

    def resume(self, pending: list[int]) -> None:
        """Go on with these deliveries only; the others are done or waiting."""
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

    def rows(self, indexes: Sequence[int]) -> Rows:
        """The columns of these deliveries."""
        prefix = self._prefix
        if isinstance(indexes, range):
            part = slice(indexes.start, indexes.stop)
            return Rows(
                [prefix + digits for digits in INDEX_DIGITS[part]],
                tuple(column[part] for column in self.targets),
                tuple(column[part] for column in self.variables),
            )
        return Rows(
            [prefix + INDEX_DIGITS[index] for index in indexes],
            tuple([column[index] for index in indexes] for column in self.targets),
            tuple([column[index] for index in indexes] for column in self.variables),
        )

    def put_back(self, index: int) -> None:
        """A delivery that is on the wire, or was about to be, has to be sent (again) as soon as possible."""
        self.on_wire -= 1
        self.states[index] = State.PENDING
        self._again.append(index)

    def put_off(self, index: int) -> None:
        """A delivery on the wire is to wait; `due` brings it back."""
        self.on_wire -= 1
        self.waiting += 1
        self.states[index] = State.PENDING

    def due(self, index: int) -> None:
        """A waiting delivery's time has come. It may have been ended meanwhile."""
        if self.states[index] == State.PENDING:
            self.waiting -= 1
            self._again.append(index)

    def finish(self, index: int, state: State, milliseconds: int, reason: str) -> None:
        """End a delivery that is on the wire, or was about to be."""
        self.on_wire -= 1
        self._end(index, state, milliseconds, reason)

    def end_unsent(self, index: int, state: State, milliseconds: int, reason: str) -> None:
        """End a delivery that is in no place yet, before the flight is the sender's."""
        self._end(index, state, milliseconds, reason)

    def remaining(self) -> Sequence[int]:
        """The deliveries to be sent for the first time by this flight, in order."""
        return self._fresh[self._cursor :]

    def abandon(self, state: State, milliseconds: int, reason: str) -> int:
        """End all deliveries that are not on the wire, and say how many: expiry and cancellation."""
        ended = 0
        for index in self._unsent():
            note = self.notes.get(index)
            unanswered = note.unanswered if note else 0
            self._end(index, State.UNKNOWN if unanswered else state, milliseconds, reason)
            ended += 1
        self._again.clear()
        self._cursor = len(self._fresh)
        self.waiting = 0
        return ended

    def detach(self) -> None:
        """Let go of the lease's columns: late answers of what is on the wire must not touch the next holder's."""
        self.states = bytearray(self.states)

    def note(self, index: int) -> Note:
        """The delivery's note, made if there is none."""
        note = self.notes.get(index)
        if note is None:
            note = self.notes[index] = Note()
        return note

    def _unsent(self) -> Iterator[int]:
        return (index for index in range(self.lease.count) if self.states[index] == State.PENDING)

    def _end(self, index: int, state: State, milliseconds: int, reason: str) -> None:
        self.left -= 1
        self.states[index] = state
        self.milliseconds[index] = milliseconds
        if reason:
            note = self.note(index)
            note.reason = reason
            note.retry_at = 0.0
