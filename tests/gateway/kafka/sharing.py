"""A shared state within this process, for tests of the queue: that of Redis has tests of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gateway.model import Route
from gateway.queue.base import DeadTarget, Idempotency, Replay, Twin
from gateway.shared.base import Ask, Orphan


class Sharing:
    """`SharedState` for all queues of a test."""

    members = 1

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, Replay | None]] = {}
        self._cancelled: list[str] = []
        self._orphans: dict[str, Orphan] = {}
        self._dead: dict[tuple[str, str, bytes], DeadTarget] = {}

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def begin(self, job_id: str, idempotency: Idempotency) -> Replay | Twin | Orphan | None:
        if (orphan := self._orphans.pop(idempotency.key, None)) is not None:
            return orphan
        former = self._keys.get(idempotency.key)
        if former is None:
            self._keys[idempotency.key] = (job_id, None)
            return None
        return former[1] or Twin.IN_FLIGHT

    async def settle(self, job_id: str, idempotency: Idempotency, answer: bytes) -> None:
        self._keys[idempotency.key] = (job_id, Replay(job_id, idempotency.fingerprint, answer))

    async def release(self, job_id: str, key: str) -> None:
        if self._keys.get(key) == (job_id, None):
            del self._keys[key]

    def orphan(self, key: str, orphan: Orphan) -> None:
        """Its holder fell silent."""
        self._orphans[key] = orphan

    def forget(self, key: str) -> None:
        """Its time is over."""
        del self._keys[key]

    async def cancel(self, job_id: str, until: float) -> None:
        assert until > time.time() - 86_400
        self._cancelled.append(job_id)

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        return len(self._cancelled), self._cancelled[after:]

    async def add_dead(self, route: Route, dead: Sequence[DeadTarget]) -> None:
        for target in dead:
            key = (route.app, route.provider, target.key)
            if key not in self._dead or self._dead[key].since < target.since:
                self._dead[key] = target

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        named = {key: self._dead.get((route.app, route.provider, key)) for key in keys}
        return {key: target for key, target in named.items() if target is not None}

    async def lease(self, asks: Sequence[Ask]) -> list[int]:
        return [ask.want for ask in asks]
