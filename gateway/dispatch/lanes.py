"""A route's flights in the order in which they are looked at: transactional first, then by arrival.

Only when many transactional deliveries went while a campaign was ready, a slice of that goes in between: so campaigns
keep a sixteenth, and a one-time code waits for one slice of theirs at most, some milliseconds.
"""

from __future__ import annotations

from collections import deque

from gateway.dispatch.flight import Flight
from gateway.model import Lane

PATIENCE = 15
"""Transactional deliveries that may overtake one of a campaign, where both are ready."""


class Lanes:
    """Flights that have something to send. A flight is in here once, or not at all."""

    def __init__(self) -> None:
        self._queues: tuple[deque[Flight], ...] = tuple(deque() for _ in Lane)
        self._overtook = 0  # transactional deliveries that campaigns which were ready have not made up for

    def __bool__(self) -> bool:
        return any(self._queues)

    def add(self, flight: Flight) -> None:
        """Put a flight at the end of its lane, if it is not in it."""
        if not flight.queued:
            flight.queued = True
            self._queues[flight.job.lane].append(flight)

    def remove(self, flight: Flight) -> None:
        """Take a flight out, whatever it still has to send."""
        if flight.queued:
            flight.queued = False
            self._queues[flight.job.lane].remove(flight)

    def served(self, lane: Lane, count: int) -> None:
        """So many deliveries of a class were taken."""
        if not self._queues[Lane.PROMOTIONAL]:
            self._overtook = 0
        elif lane is Lane.TRANSACTIONAL:
            self._overtook += count
        else:
            self._overtook = max(0, self._overtook - PATIENCE * count)

    def first(self) -> Flight | None:
        """The flight whose turn it is. Flights that have nothing to send any more leave here."""
        campaigns = self._queues[Lane.PROMOTIONAL]
        due = campaigns and self._overtook >= PATIENCE * campaigns[0].plan.slice
        for queue in reversed(self._queues) if due else self._queues:
            while queue:
                flight = queue[0]
                if flight.ready:
                    return flight
                queue.popleft()
                flight.queued = False
        return None
