"""A lease becomes a flight: its message compiled, its columns decoded, and ended what need not fly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from gateway.dispatch.flight import Flight, age
from gateway.model import Note, State
from gateway.policy import screening
from gateway.queue.base import DeadTarget, Lease, Queue
from providers.base import Plan, Provider, ProviderSettings

PLANS_KEPT = 256
"""Compiled messages at hand, so that a job's message is compiled once a route and not once a batch."""

_UNTOUCHED = bytes([State.PENDING])


class Plans:
    """Compiles messages, and remembers those that were used last."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[str, str, str], Plan] = OrderedDict()

    def get(self, lease: Lease, provider: Provider, settings: ProviderSettings, origin: str) -> Plan:
        key = (lease.job.id, provider.name, origin)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = provider.compile(lease.job.message, lease.job.terms, settings, origin)
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return plan


async def board(
    lease: Lease,
    plan: Plan,
    provider: Provider,
    queue: Queue,
    now: float,
    wall: float,
    cancelled: Callable[[str], bool],
) -> Flight:
    """Make the flight of a lease. `now` is the loop's time, `wall` the same moment in UNIX seconds.

    What a former holder had on the wire when it died is unknown: it goes again, or gets its receipt, as the job says.
    What has a retry waiting goes on waiting; what is known to be dead never touches the wire.
    """
    columns = [column.split(b"\n") for column in lease.columns]
    lease.columns = ()  # as much memory again, for nothing
    flight = Flight(lease, plan, columns, provider.target_columns, now)
    keys = provider.registered_keys(lease.route.place, tuple(columns[: provider.target_columns]))
    verdicts = await queue.dead_targets(lease.route, keys)
    send, resend, endings = screening.resume(bytes(flight.states), flight.notes, flight.job.resend_unknown)
    flight.left -= sum(state >= State.ACCEPTED for state in bytes(flight.states).strip(_UNTOUCHED))
    _died_on_wire(flight, resend, endings)
    if verdicts:
        endings = endings + _dead(flight, keys, columns[-1], verdicts)
    for index, state, reason in endings:
        flight.end(index, state, flight.age(wall), reason)
    flight.resume([index for index in send if flight.states[index] == State.PENDING] if endings else send)
    _keep_waiting(flight, now, queue.time())
    flight.cancelled = cancelled(lease.job.id)  # asked last: whoever cancels from now on finds the flight
    return flight


def _died_on_wire(flight: Flight, resend: Iterable[int], unknown: Iterable[screening.Ending]) -> None:
    for ending in unknown:
        flight.note(ending.position).unanswered += 1
    for index in resend:
        note = flight.note(index)
        note.unanswered += 1
        note.attempts += 1
        note.reason = screening.DIED_ON_WIRE
        note.retry_at = 0.0
        flight.states[index] = State.PENDING


def _dead(
    flight: Flight, keys: list[bytes], registered: list[bytes], verdicts: Mapping[bytes, DeadTarget]
) -> list[screening.Ending]:
    pending = [index for index, state in enumerate(bytes(flight.states)) if state == State.PENDING]
    return screening.dead(pending, keys, registered, verdicts, flight.notes)


def _keep_waiting(flight: Flight, now: float, clock: float) -> None:
    """Of what is not to be sent now: the rest are done."""
    for index, note in flight.notes.items():
        if note.retry_at and flight.states[index] == State.PENDING:
            flight.wait(index, now + max(0.0, note.retry_at - clock))


def count_tries(lease: Lease) -> None:
    """Note what a former holder had on the wire, of a lease that goes back as it came.

    Where a note tells of unanswered tries already, what is stored says PENDING, and this one would be forgotten.
    """
    for index, note in lease.progress.notes.items():
        note.unanswered += note.unanswered > 0 and lease.progress.states[index] == State.SENT


def conclude(lease: Lease, state: State, reason: str, wall: float) -> None:
    """Give every delivery of a lease that has none its receipt: nobody wants it any more, so it needs no route."""
    progress = lease.progress
    milliseconds = age(lease.job, wall)
    for index, former in enumerate(bytes(progress.states)):
        if former in (State.PENDING, State.SENT):
            note = progress.notes.setdefault(index, Note())
            note.unanswered += former == State.SENT
            note.reason, note.retry_at = reason, 0.0
            progress.states[index] = screening.given_up(state, note.unanswered)
            progress.milliseconds[index] = milliseconds
