"""Promises broken on purpose: what the simulation has to notice, or it is worth nothing.

`python -m tests.simulation.sensitivity` says after how many seeds it does. Measured in seeds:

    ====================================== =====
    sends_beyond_its_lease                     3
    ignores_lost_leases                        3
    completes_without_fencing                 11
    takes_refused_for_accepted                 1
    takes_refused_for_unknown                 15
    takes_unanswered_for_refused               6
    takes_unknown_for_accepted                 4
    retries_accepted_ones                      1
    forgets_deferred_batches                   1
    releases_keys_too_early                    1
    loses_jobs_handed_over                     1
    checkpoints_without_notes                  1
    recovers_sent_as_pending                   1
    leases_twice                               9
    forgets_the_flight_recorder                1
    ====================================== =====

Not measured yet: forgets_unanswered_tries, checkpoint_of_takeover_is_late, forgets_cancellations_of_waiting_ones,
parks_for_ever, forgets_to_send_held_back_retries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.dispatch import retry, sender
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.flight import Flight
from gateway.dispatch.sender import Sender
from gateway.http2.streams import Streams
from gateway.model import State
from gateway.queue import columns, leases, uploads
from gateway.queue.base import LeaseLost
from gateway.queue.sqlite import SqliteQueue
from providers.base import Outcome, Verdict

Mutation = Callable[[pytest.MonkeyPatch], None]


def sends_beyond_its_lease(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the lease has run out before a slice is sent."""
    patch.setattr(Sender, "_run_out", lambda self, flight: False)


def forgets_unanswered_tries(patch: pytest.MonkeyPatch) -> None:
    """What waits for a retry after a try without an answer looks as if it had never been sent."""

    def take_off(self: Flight, index: int) -> None:
        self.on_wire -= 1
        self.states[index] = State.PENDING

    patch.setattr(Flight, "_take_off", take_off)


def checkpoint_of_takeover_is_late(patch: pytest.MonkeyPatch) -> None:
    """Who takes over sends what may have been sent before it has stored that it may have been."""

    async def launched(self: Dispatcher, lease: Any) -> None:
        former = lease.attempt
        lease.attempt = 1
        try:
            await launch(self, lease)
        finally:
            lease.attempt = former

    launch = Dispatcher._launch
    patch.setattr(Dispatcher, "_launch", launched)


def ignores_lost_leases(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint that is told that the lease is lost goes on as if it were not."""

    async def checkpoint(self: SqliteQueue, lease: Any, dead: Any, now: float) -> None:
        try:
            await stored(self, lease, dead, now)
        except LeaseLost:
            lease.until = self.time() + self._lease_seconds

    stored = SqliteQueue.checkpoint
    patch.setattr(SqliteQueue, "checkpoint", checkpoint)


def completes_without_fencing(patch: pytest.MonkeyPatch) -> None:
    """Who has lost a batch may still change and end it."""

    def held(db: Any, hold: Any) -> Any:
        batch = leases.batch_of(db, hold.sequence, "b.state IN (1, 2, 5)", ())
        if batch is None:
            raise LeaseLost("gone")
        return batch

    patch.setattr(leases, "_held", held)


def takes_refused_for_accepted(patch: pytest.MonkeyPatch) -> None:
    """What is above GOAWAY's last stream, or refused, counts as accepted."""

    def unprocessed(self: Streams, stream_id: int, reason: str) -> None:
        self.results.accepted.append(self._forget(stream_id))

    patch.setattr(Streams, "finish_unprocessed", unprocessed)


def takes_refused_for_unknown(patch: pytest.MonkeyPatch) -> None:
    """What is above GOAWAY's last stream, or refused, counts as sent and not answered."""
    patch.setattr(Streams, "finish_unprocessed", Streams.finish_broken)


def takes_unanswered_for_refused(patch: pytest.MonkeyPatch) -> None:
    """What a broken connection leaves without an answer counts as not processed, whatever the job says."""

    def broken(self: Streams, stream_id: int, reason: str) -> None:
        self.results.unsent.append(self._forget(stream_id))

    patch.setattr(Streams, "finish_broken", broken)


def takes_unknown_for_accepted(patch: pytest.MonkeyPatch) -> None:
    """Sent and not answered counts as accepted."""

    def decision(outcome: Outcome, history: Any, *others: Any) -> retry.Decision:
        if outcome.verdict is Verdict.UNKNOWN:
            return retry.Decision(State.ACCEPTED)
        return decide(outcome, history, *others)

    decide = retry.decide
    patch.setattr(sender, "decide", decision)


def retries_accepted_ones(patch: pytest.MonkeyPatch) -> None:
    """One accepted delivery in twenty is put back."""

    def settle(self: Sender, accepted: Any, now: float, wall: float) -> None:
        kept = []
        for flight, index in accepted:
            if (flight.lease.sequence + index) % 20 or flight.note(index).reason:
                kept.append((flight, index))
            else:
                flight.note(index).reason = "again"
                self._again(flight, index)
        settled(self, kept, now, wall)

    settled = Sender._settle_accepted
    patch.setattr(Sender, "_settle_accepted", settle)


def forgets_deferred_batches(patch: pytest.MonkeyPatch) -> None:
    """What was put off never becomes ready."""

    def ripen(db: Any, clock: float, now: float) -> None:
        ripened(db, float("-inf"), now)

    ripened = leases.ripen
    patch.setattr(leases, "ripen", ripen)


def forgets_cancellations_of_waiting_ones(patch: pytest.MonkeyPatch) -> None:
    """A cancellation does not reach what a worker holds."""
    patch.setattr(Sender, "cancel", lambda self, job_id: None)


def releases_keys_too_early(patch: pytest.MonkeyPatch) -> None:
    """A job with an ordering key goes although the one before it has not ended."""
    patch.setattr(uploads, "line_up", lambda *_: False)


def loses_jobs_handed_over(patch: pytest.MonkeyPatch) -> None:
    """A job that was stored and handed over at once is not in the flight recorder, and nobody gives it back."""

    def released(db: Any, entry: Any, *others: Any) -> bool:
        return entry.attempt > 1 and release(db, entry, *others)

    release = leases._release
    patch.setattr(leases, "_release", released)


def checkpoints_without_notes(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint loses what is noted of single deliveries."""

    def of(cls: type[columns.Columns], progress: Any) -> columns.Columns:
        return cls(columns.stored_states(progress), None, progress.milliseconds.tobytes())

    patch.setattr(columns.Columns, "of", classmethod(of))


def recovers_sent_as_pending(patch: pytest.MonkeyPatch) -> None:
    """What was on the wire of the dead looks as if it had never been sent."""

    def recovered(stored: columns.Columns, found: bytes, elapsed: int) -> columns.Columns:
        return recover(stored, found.replace(bytes([State.SENT]), bytes([State.PENDING])), elapsed)

    recover = columns.recovered
    patch.setattr(columns, "recovered", recovered)


def leases_twice(patch: pytest.MonkeyPatch) -> None:
    """The next holder of an expired lease gets the attempt of the last one: nothing tells them apart."""

    def take(db: Any, chosen: Any, owner: str, until: float) -> Any:
        (attempt,) = leases.only(db, "SELECT attempt FROM batches WHERE sequence = ?", (chosen.sequence,))
        taken = taking(db, chosen, owner, until)
        if attempt:
            db.execute("UPDATE batches SET attempt = ? WHERE sequence = ?", (attempt, chosen.sequence))
            taken = taken._replace(attempt=attempt)
        return taken

    def held(db: Any, hold: Any) -> Any:
        batch = leases.batch_of(db, hold.sequence, "b.state = 2 AND b.attempt = ?", (hold.attempt,))
        if batch is None:
            raise LeaseLost("gone")
        return batch

    taking = leases._take
    patch.setattr(leases, "_take", take)
    patch.setattr(leases, "_held", held)


def forgets_the_flight_recorder(patch: pytest.MonkeyPatch) -> None:
    """What the dead left in their flight recorders is not merged."""
    patch.setattr(columns, "recovered", lambda stored, found, elapsed: stored)


def parks_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A replay of a parked batch loses it."""

    async def replay(self: SqliteQueue, batch_id: bytes) -> bool:
        return True

    patch.setattr(SqliteQueue, "replay", replay)


def loses_suspects(patch: pytest.MonkeyPatch) -> None:
    """What is to go alone never goes."""
    patch.setattr(Sender, "take_suspect", lambda self, window: None)


def forgets_to_send_held_back_retries(patch: pytest.MonkeyPatch) -> None:
    """A retry that the budget kept back never comes back."""

    def bring_back(self: Flight, now: float, most: int) -> int:
        count = brought(self, now, most)
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.pop(0)
        return count

    brought = Flight.bring_back
    patch.setattr(Flight, "bring_back", bring_back)


MUTATIONS: Mapping[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        sends_beyond_its_lease,
        forgets_unanswered_tries,
        checkpoint_of_takeover_is_late,
        ignores_lost_leases,
        completes_without_fencing,
        takes_refused_for_accepted,
        takes_refused_for_unknown,
        takes_unanswered_for_refused,
        takes_unknown_for_accepted,
        retries_accepted_ones,
        forgets_deferred_batches,
        forgets_cancellations_of_waiting_ones,
        releases_keys_too_early,
        loses_jobs_handed_over,
        checkpoints_without_notes,
        recovers_sent_as_pending,
        leases_twice,
        forgets_the_flight_recorder,
        parks_for_ever,
        loses_suspects,
        forgets_to_send_held_back_retries,
    )
}


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """The gateway with one promise broken."""
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        yield
