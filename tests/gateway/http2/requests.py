"""A source of numbered requests that keeps account of each."""

from __future__ import annotations

from collections import Counter

from gateway.http2.connection import Requests
from gateway.http2.pool import DialFailure
from gateway.http2.results import Answer, Results
from providers.base import Head

HEAD = Head(
    fixed=((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"push.example")),
    literal=(),
    varying=(b":path",),
)


class Source:
    """Gives requests `/0`, `/1`, …; also the listener of its pool. What comes back unsent is given out again."""

    def __init__(self, count: int = 0, *, body: bytes = b"{}", slice: int = 250) -> None:
        self.waiting = list(range(count))
        self.slice = slice
        self.body = body
        self.on_wire: set[int] = set()
        self.accepted: list[int] = []
        self.answered: dict[int, Answer] = {}
        self.unknown: dict[int, str] = {}
        self.unsent: Counter[int] = Counter()
        self.takes: list[tuple[int, int]] = []
        self.dials: list[DialFailure | None] = []
        self.farewells: list[tuple[int, bytes]] = []
        self.open = True

    @property
    def backlog(self) -> bool:
        return bool(self.waiting) and self.open

    @property
    def done(self) -> int:
        return len(self.accepted) + len(self.answered) + len(self.unknown)

    def take(self, streams: int, window: int) -> Requests | None:
        self.takes.append((streams, window))
        count = min(streams, self.slice)
        if not self.backlog or not count:
            return None
        tags, self.waiting = self.waiting[:count], self.waiting[count:]
        assert not self.on_wire & set(tags)
        self.on_wire.update(tags)
        return Requests(HEAD, ([b"/%d" % tag for tag in tags],), [self.body] * len(tags), list(tags))

    def give_back(self, tags: list[int]) -> None:
        self.on_wire.difference_update(tags)
        self.waiting = tags + self.waiting

    def settle(self, results: Results) -> None:
        for tag in results.accepted:
            self.accepted.append(self._back(tag))
        for answer in results.answered:
            tag = self._back(answer.tag)
            if answer.status == 200 and not answer.body:  # as h2's first is, with its table's size before it
                self.accepted.append(tag)
            else:
                self.answered[tag] = answer
        for tag, reason in results.unknown:
            self.unknown[self._back(tag)] = reason
        for tag in results.unsent:
            self.unsent[self._back(tag)] += 1
            self.waiting.append(tag)

    def _back(self, tag: int) -> int:
        self.on_wire.remove(tag)  # exactly once: else a KeyError
        return tag

    def dialled(self, failure: DialFailure | None) -> None:
        self.dials.append(failure)

    def goaway(self, code: int, debug: bytes) -> None:
        self.farewells.append((code, debug))
