"""A lease becomes a flight: its message compiled, its columns decoded, and ended what need not fly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from gateway.dispatch.flight import Flight
from gateway.dispatch.retry import given_up
from gateway.model import State
from gateway.queue.base import DeadTarget, Lease, Queue
from providers.base import Plan, Provider, ProviderSettings

PLANS_KEPT = 256
"""Compiled messages at hand, so that a job's message is compiled once a route and not once a batch."""

DIED_ON_WIRE = "its process died while it was on the wire; no answer was seen"


class Plans:
    """Compiles messages, and remembers the last ones."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[str, str, str], Plan] = OrderedDict()

    def get(self, lease: Lease, provider: Provider, settings: ProviderSettings, origin: str) -> Plan:
        key = (lease.job.id, provider.name, origin)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = provider.compile(lease.job.message, lease.job.terms, settings, origin)
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
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
    """Make the flight of a lease.

    What a former holder had on the wire when it died is unknown: it goes again, or gets its receipt, as the job says.
    What has a retry waiting is left for the sender; what is known to be dead never touches the wire.
    """
    columns = [column.split(b"\n") for column in lease.columns]
    flight = Flight(lease, plan, columns, provider.target_columns, now)
    if bytes(flight.states).count(State.PENDING) != lease.count:
        _take_over(flight, wall)
    flight.cancelled = cancelled(lease.job.id)
    await _drop_dead(flight, provider, queue, wall)
    return flight


def _take_over(flight: Flight, wall: float) -> None:
    """Columns that somebody else began."""
    pending = []
    milliseconds = int((wall - flight.job.created_at) * 1000)
    for index, state in enumerate(bytes(flight.states)):
        if state == State.SENT:
            note = flight.note(index)
            note.unanswered += 1
            note.reason = DIED_ON_WIRE
            if flight.job.resend_unknown:
                note.attempts += 1
                flight.states[index] = State.PENDING
                pending.append(index)
            else:
                flight.end_unsent(index, State.UNKNOWN, milliseconds, DIED_ON_WIRE)
        elif state == State.PENDING:
            former = flight.notes.get(index)
            if former is None or former.retry_at <= wall:
                pending.append(index)
        else:
            flight.left -= 1
    flight.resume(pending)


async def _drop_dead(flight: Flight, provider: Provider, queue: Queue, wall: float) -> None:
    keys = provider.registered_keys(flight.lease.route.origin, flight.targets)
    dead = await queue.dead_targets(flight.lease.route, keys)
    if not dead:
        return
    milliseconds = int((wall - flight.job.created_at) * 1000)
    for index, key in enumerate(keys):
        verdict = dead.get(key)
        if verdict is not None and flight.states[index] == State.PENDING and _still_dead(flight, index, verdict):
            note = flight.notes.get(index)
            state = given_up(State.INVALID_TOKEN, note.unanswered if note else 0)
            flight.end_unsent(index, state, milliseconds, verdict.reason)
    flight.resume([index for index in flight.remaining() if flight.states[index] == State.PENDING])


def _still_dead(flight: Flight, index: int, verdict: DeadTarget) -> bool:
    """A registration after the verdict brings the target back."""
    registered = flight.registered[index]
    return not registered or float(registered) <= verdict.since
