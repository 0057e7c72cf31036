"""Who is next: a holder's room, divided among apps by weight and among an app's routes evenly.

An app may take more while it holds less than its weight times what is still free of the lane. So one that is alone gets
half, two get a third each, and whatever a crowd of routes and jobs one of them has, some is left for who comes next.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gateway.model import Lane, Route
from gateway.queue.base import Room, load, spare


class Candidate(NamedTuple):
    """A batch that is ready; the oldest goes first."""

    sequence: int
    deliveries: int


class Chosen(NamedTuple):
    sequence: int
    route: Route


_Waiting = Iterator[Candidate]


class Shares:
    """What of a lane is held, and by whom, while batches of it are chosen."""

    def __init__(self, room: Room, lane: Lane) -> None:
        self._lane = lane
        self._room = room
        self._routes: Counter[Route] = Counter()
        self._apps: Counter[str] = Counter()
        self._free = room.capacity[lane]
        for (of, route), held in room.held.items():
            if of is lane:
                self._hold(route, held)

    def choose(self, waiting: Mapping[Route, _Waiting], limit: int) -> list[Chosen]:
        """At most `limit` of what waits: whose app holds the least by its weight goes first, then whose route does."""
        chosen: list[Chosen] = []
        heap = [self._entry(route, head, rest) for route, rest in waiting.items() if (head := next(rest, None))]
        heapq.heapify(heap)
        while heap and len(chosen) < limit:
            entry = heap[0]
            if not self.open(entry.route):
                heapq.heappop(heap)
            elif entry.rank < (rank := self._rank(entry.route)):
                heapq.heapreplace(heap, entry._replace(rank=rank))  # others of its app were chosen meanwhile
            else:
                chosen.append(Chosen(entry.head.sequence, entry.route))
                self._hold(entry.route, load(entry.head.deliveries))
                if following := next(entry.rest, None):
                    heapq.heapreplace(heap, self._entry(entry.route, following, entry.rest))
                else:
                    heapq.heappop(heap)
        return chosen

    def open(self, route: Route) -> bool:
        """Whether the route may have one more batch, of whatever size."""
        full = self._lane is Lane.PROMOTIONAL and self._routes[route] >= self._room.per_route
        return not full and spare(self._weight(route), self._free, self._apps[route.app]) > 0

    def _hold(self, route: Route, held: int) -> None:
        self._routes[route] += held
        self._apps[route.app] += held
        self._free -= held

    def _weight(self, route: Route) -> float:
        return self._room.weights.get(route.app, 1.0)

    def _rank(self, route: Route) -> tuple[float, int]:
        return self._apps[route.app] / self._weight(route), self._routes[route]

    def _entry(self, route: Route, head: Candidate, rest: _Waiting) -> _Entry:
        return _Entry(self._rank(route), head, route, rest)


class _Entry(NamedTuple):
    """A route in the heap; sequences differ, so what comes after `head` is never compared."""

    rank: tuple[float, int]
    head: Candidate
    route: Route
    rest: _Waiting
