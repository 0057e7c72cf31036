"""The queue's contract: what is durable, who holds it, and how often a delivery ends (once).

Work enters as batches of a job that is still being uploaded, becomes visible as a whole by `seal`, is leased,
checkpointed and completed. A batch's progress is columns: one byte of `State` a delivery, one number of milliseconds,
a few `Note`s. The columns are also the receipts, so a delivery cannot have two.

Jobs of one app with the same ordering key are leased one after the other, in the order of their seals: the next when
each batch of the one before has ended. A batch that is put off or parked goes on holding back what is behind it.

Every method that changes something is durable when it returns. `Lease.attempt` fences: whatever a holder says after
its batch was leased again is refused with `LeaseLost` and changes nothing.
"""

from __future__ import annotations

import enum
import sys
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from gateway.model import Job, Lane, Note, Route


class QueueError(Exception):
    """The queue cannot do what was asked of it; the message says what to do."""


class QueueFull(QueueError):
    """More work is queued than the high-water mark allows, or the disk is full. Try again later."""


class LeaseLost(QueueError):
    """Another holder has the batch by now, or the job is gone: forget it."""


Sees = Callable[[str], bool]
"""Whether who asks may know of an app, by its full name."""


def sees_all(_app: str) -> bool:
    """For who looks after all apps."""
    return True


class NewBatch(msgspec.Struct, frozen=True):
    """Recipients of one job on one route, as ingest hands them over."""

    id: bytes
    """16 bytes, `model.new_batch_id`. A queue may use bytes 12 and 13 to say where it keeps the batch."""
    route: Route
    count: int
    recipients: bytes
    """The callers' recipient ids, newline-joined; they stay with the receipts."""
    columns: tuple[bytes, ...]
    """Target columns, then variable columns, then `registered_at` in UNIX seconds (blank where unknown), each
    newline-joined; gone once the batch is complete."""


class Idempotency(NamedTuple):
    """An `Idempotency-Key` and what it stands for."""

    key: str
    """Scoped to the tenant by whoever calls."""
    fingerprint: bytes
    """SHA-256 of the request as far as it is known when asked; b"" while a stream has not ended."""


class Replay(NamedTuple):
    """The request was answered before: this was the answer."""

    job_id: str
    fingerprint: bytes
    answer: bytes


class Twin(enum.Enum):
    """A request with the same key is being answered right now."""

    IN_FLIGHT = "in flight"


class Progress(msgspec.Struct):
    """The columns of a batch that change. `len(states)` is the batch's count."""

    states: bytearray | memoryview
    milliseconds: array[int]
    notes: dict[int, Note]


class Lease(msgspec.Struct):
    """A batch in the hands of one holder."""

    sequence: int
    """The queue's own number of the batch."""
    batch_id: bytes
    attempt: int
    """Counts leases of this batch: the fencing token."""
    until: float
    """Of the queue's clock, as of the last checkpoint: from then on others may take it, so nothing more is sent."""
    job: Job
    route: Route
    count: int
    columns: tuple[bytes, ...]
    """As in `NewBatch`."""
    progress: Progress
    """As of the last checkpoint; SENT where a former holder died with a delivery on the wire."""
    crashes: int = 0
    """How many holders died, or fell silent, with this batch in their hands. None that was at work on another."""
    failures: int = 0
    """How often its holder could not prepare or render it (`Queue.fail`)."""
    at_work: bytearray | memoryview = msgspec.field(default_factory=lambda: bytearray(1))
    """One byte: nonzero while the holder is in the middle of preparing or rendering this batch, so that its death
    then is put down to this batch alone."""


class DeadTarget(NamedTuple):
    """A service's word that a target is dead."""

    key: bytes
    """As of `Provider.registered_keys`."""
    since: float
    """UNIX seconds: registrations up to then are dead."""
    reason: str


BATCH_LOAD = 32
"""What a batch costs its holder beyond its deliveries, in deliveries (some 0.5 KiB each): job, plan, columns' heads."""

BOUNDLESS: Mapping[Lane, int] = dict.fromkeys(Lane, sys.maxsize)


def load(count: int, left: int | None = None) -> int:
    """What a batch of so many deliveries, of which so many are left, takes of a holder's room.

    A finished delivery counts for a tenth: its columns stay in memory as long as some of its batch are to be sent for
    the first time, but those that are done must not keep the route's next ones away.
    """
    return BATCH_LOAD + (count if left is None else left + (count - left) // 10)


def spare(weight: float, free: int, held: int) -> float:
    """Load that an app may take besides what it has, of a lane of which so much is free; see `sharing`."""
    return weight * free - held


class Room(NamedTuple):
    """What a holder can take. See `sharing` for how it is divided."""

    batches: int
    """Most to take now."""
    per_route: int
    """Load of promotional work of one route from which on it gets no more."""
    closed: Collection[Route]
    """Routes that take nothing now."""
    held: Mapping[tuple[Lane, Route], int]
    """Load in hand."""
    capacity: Mapping[Lane, int] = BOUNDLESS
    """Load that may be in hand, by lane: apart, so that neither class stands before the other's door."""
    weights: Mapping[str, float] = {}
    """Of apps; 1 where none is given."""


class Taker(Protocol):
    """Who holds leases in this process. All methods are called on the loop's thread and none of them waits."""

    def wants(self, job: Job, batches: Sequence[NewBatch]) -> bool:
        """Whether these batches could be sent at once if they were stored now; a promise to nobody."""

    def take(self, leases: Sequence[Lease]) -> None:
        """Batches that were wanted, stored and leased in one transaction."""

    def wake(self) -> None:
        """Something new can be leased."""

    def recall(self) -> None:
        """Nothing can be leased until `go_on`: give back what is in hand as soon as what is on the wire was answered,
        and send nothing more of it."""

    def go_on(self) -> None:
        """The end of a recall."""


class Queue(Protocol):
    """See the module's docstring. `now` is UNIX seconds; leases and waits go by `time`, see `clock`."""

    async def open(self) -> None:
        """Get ready, and give back what the dead were holding.

        Raises:
            QueueError: naming what is wrong and what to do.
        """

    async def close(self) -> None:
        """Give back what is still held and let go of everything. Holders must have stopped."""

    def hand_to(self, taker: Taker) -> None:
        """Tell `taker` of new work from now on; jobs of `submit` that are due and that it wants, it has as leases."""

    async def begin(self, job: Job, idempotency: Idempotency | None) -> Replay | Twin | None:
        """Open a job for upload. None: go on; it is invisible until `seal`."""

    async def put(self, job_id: str, batches: Sequence[NewBatch]) -> None:
        """Add batches to a job that is being uploaded.

        Raises:
            QueueFull: nothing of these batches is stored.
        """

    async def seal(self, job_id: str, batches: Sequence[NewBatch], fingerprint: bytes, answer: bytes) -> None:
        """Add the last batches and make the whole job visible, in one transaction. `answer` is kept for repeats."""

    async def submit(
        self, job: Job, idempotency: Idempotency | None, batches: Sequence[NewBatch], answer: bytes
    ) -> Replay | Twin | None:
        """`begin` and `seal` in one transaction, for a job that is known whole. None: it is stored and visible.

        Raises:
            QueueFull: nothing of the job is stored, and its idempotency key is free.
        """

    async def abandon(self, job_id: str) -> None:
        """Forget a job that was not sealed, and free its idempotency key."""

    def time(self) -> float:
        """Seconds on a clock that all holders share and nobody sets: that of leases, waits and `Note.retry_at`."""

    async def lease(self, room: Room, now: float) -> list[Lease]:
        """Take batches that are due: by lane first, then the oldest, fairly over the routes that have any.

        After a change that could not be stored, this stores something to find out whether it can be again.

        What a holder writes to `progress.states` may be known to the queue at once, so that after the holder's death
        a delivery marked as SENT is not taken for PENDING.
        """

    async def checkpoint(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        """Store the columns so far and extend the lease.

        Raises:
            LeaseLost: as all methods that take a lease.
        """

    async def complete(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        """Store the columns, all of them terminal, and remove the work, in one transaction."""

    async def defer(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        """Store the columns and give the batch back; nobody gets it for `wait` seconds."""

    async def fail(self, lease: Lease, wait: float, dead: Sequence[DeadTarget], now: float) -> None:
        """`defer` for a batch that could not be prepared or rendered: its holder lives, and its failures count."""

    async def cancel(self, job_id: str, now: float) -> bool:
        """Mark a job as cancelled: what is not sent becomes `cancelled`. False if there is no such job."""

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        """Ids of jobs cancelled since cursor `after`, and the next cursor."""

    async def recover(self, now: float) -> None:
        """Give back what dead processes hold, and forget what they were uploading. At any time, by any process."""

    async def maintain(self, now: float) -> None:
        """`recover`, and the upkeep that is due; to be called every some seconds by each process."""

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        """Which of these targets are known to be dead."""

    async def depth(self) -> Depth:
        """How much work is stored."""

    async def parked(self, after: int, limit: int, sees: Sees = sees_all) -> list[Parked]:
        """Batches that were taken out of the queue because holder after holder died with them, of the apps that are
        seen, from a cursor (0: the start) on. Nobody leases them. They stay until they are replayed, purged or
        cancelled, or their job expires."""

    async def parked_count(self) -> int:
        """How many there are."""

    async def parked_batch(self, batch_id: bytes, sees: Sees = sees_all) -> ParkedBatch | None:
        """One of them with what it holds; None if it is not parked, or not seen."""

    async def replay(self, batch_id: bytes) -> bool:
        """Put a parked batch back into the queue. One more death parks it again. False if it is not parked."""

    async def purge(self, batch_id: bytes, now: float) -> bool:
        """End a parked batch: what of it was never sent is `dead_lettered`. False if it is not parked."""


class Depth(NamedTuple):
    """Work that is stored and not complete."""

    batches: int
    deliveries: int
    oldest_due: float | None
    """UNIX seconds since when the oldest batch that is ready could have been sent."""


class Parked(NamedTuple):
    """A batch that nobody leases, because holder after holder died with it."""

    sequence: int
    """The queue's own number: the cursor behind it."""
    batch_id: bytes
    job_id: str
    route: Route
    lane: Lane
    size: int
    """Deliveries, the ended ones included."""
    crashes: int
    parked_at: float
    """UNIX seconds."""


class ParkedBatch(NamedTuple):
    """What a parked batch holds."""

    parked: Parked
    job: Job
    recipients: list[str]
    columns: tuple[bytes, ...]
    """As in `NewBatch`."""
    states: bytes
