"""Dead targets in Redis, asked for through a filter in memory that follows what all machines add.

A batch has up to 1,000 targets and nearly none is dead: sending their keys to Redis would cost more than sending the
notifications. So only what the filter lets through is asked for. Until the filter is filled, all are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis.exceptions import ResponseError

from gateway.model import Route
from gateway.queue.base import DeadTarget
from gateway.queue.dead import DeadFilter
from gateway.shared import scripts
from gateway.shared.link import Link

FEED_KEPT = 100_000
"""Entries of the feed. Who misses more of it at once reads all targets anew."""

READ_AT_ONCE = 10_000
SCANNED_AT_ONCE = 1000
"""Entries of an answer: Redis does nothing else meanwhile."""


class _Feed(NamedTuple):
    """The stream of keys as Redis knows it."""

    added: int
    """Entries ever."""
    length: int
    last: bytes


class DeadTargets:
    """One process's view of the dead targets of all apps."""

    def __init__(self, link: Link, prefix: str) -> None:
        self._link = link
        self._prefix = f"{prefix}dead:"
        self._sets = f"{prefix}dead".encode()
        self._feed = f"{prefix}dead-feed".encode()
        self._filter = DeadFilter()
        self._filled = False
        self._cursor = b"0-0"
        self._position = 0  # entries of the feed up to the cursor
        self.used = False
        """Whether anybody asked, so that `follow` is worth its calls."""

    def _key(self, app: str, provider: str) -> bytes:
        return f"{self._prefix}{app}:{provider}".encode()

    async def add(self, route: Route, dead: Sequence[DeadTarget]) -> None:
        if not dead:
            return
        args = [word for target in dead for word in (target.key, repr(target.since), target.reason)]
        keys = [self._key(route.app, route.provider), self._sets, self._feed]
        await self._link.run(scripts.ADD_DEAD, keys, [FEED_KEPT, *args])
        self._filter.add(target.key for target in dead)  # its own process does not wait for the feed

    async def known(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        self.used = True
        candidates = self._filter.candidates(keys) if self._filled else list(keys)
        if not candidates:
            return {}
        found = await self._link.call("HMGET", self._key(route.app, route.provider), *candidates)
        return {key: _target(key, word) for key, word in zip(candidates, found, strict=True) if word is not None}

    async def follow(self) -> None:
        """Bring the filter up to what all machines have added."""
        feed = await self._look()
        if not self._filled or self._filter.crowded or self._missed(feed):
            await self._fill(feed)
        elif feed.added > self._position:
            await self._read_feed()

    async def _look(self) -> _Feed:
        try:
            answer = await self._link.call("XINFO", "STREAM", self._feed)
        except ResponseError:  # there is none yet, or none any more
            return _Feed(0, 0, b"0-0")
        told = dict(zip(answer[::2], answer[1::2], strict=True))
        return _Feed(told[b"entries-added"], told[b"length"], told[b"last-generated-id"])

    def _missed(self, feed: _Feed) -> bool:
        """Whether it forgot something that this process has not read, or Redis lost its data."""
        return feed.added < self._position or feed.added - feed.length > self._position

    async def _fill(self, feed: _Feed) -> None:
        """Read all targets into a new filter; what is added meanwhile is in the feed behind where it stands now."""
        sets = await self._link.call("SMEMBERS", self._sets)
        fresh = DeadFilter(sum([await self._link.call("HLEN", key) for key in sets]))
        for key in sets:
            await self._scan(key, fresh)
        self._filter, self._filled = fresh, True
        self._cursor, self._position = feed.last, feed.added

    async def _scan(self, key: bytes, into: DeadFilter) -> None:
        position = b"0"
        while True:
            position, fields = await self._link.call("HSCAN", key, position, "COUNT", SCANNED_AT_ONCE)
            into.add(fields[::2])
            if position == b"0":
                return

    async def _read_feed(self) -> None:
        while entries := await self._link.call("XRANGE", self._feed, b"(" + self._cursor, "+", "COUNT", READ_AT_ONCE):
            self._filter.add(key for _, (_, key) in entries)
            self._cursor, self._position = entries[-1][0], self._position + len(entries)


def _target(key: bytes, word: bytes) -> DeadTarget:
    since, _, reason = word.decode().partition(" ")
    return DeadTarget(key, float(since), reason)
