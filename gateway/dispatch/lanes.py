"""A route's flights in the order in which they are looked at: transactional first, then by arrival."""

from __future__ import annotations

from collections import deque

from gateway.dispatch.flight import Flight
from gateway.model import Lane


class Lanes:
    """Flights that have something to send. A flight is in here once, or not at all."""

    def __init__(self) -> None:
        self._queues: tuple[deque[Flight], ...] = tuple(deque() for _ in Lane)

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

    def first(self) -> Flight | None:
        """The flight whose turn it is. Flights that have nothing to send any more leave here."""
        for queue in self._queues:
            while queue:
                flight = queue[0]
                if flight.ready:
                    return flight
                queue.popleft()
                flight.queued = False
        return None
