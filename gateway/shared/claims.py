"""Idempotency keys in Redis: held while their request is answered, then answered alike for a day.

A holder says every some seconds that it lives. Whoever falls silent leaves an orphan behind and not a free key, because
its job may have been sealed a moment before.
"""

from __future__ import annotations

from typing import Any

from gateway.queue.base import Idempotency, LeaseLost, Replay, Twin
from gateway.shared import scripts
from gateway.shared.base import Orphan
from gateway.shared.link import Link

SILENCE = 30.0
"""Seconds without a word from its holder after which a key in flight is an orphan's."""

KEPT = 86400.0
"""Seconds for which a key is remembered."""

RENEWED_AT_ONCE = 1000


class Claims:
    """The keys that this process holds, and all others' by asking."""

    def __init__(self, link: Link, prefix: str) -> None:
        self._link = link
        self._prefix = f"{prefix}idempotency:".encode()
        self._held: dict[bytes, str] = {}

    def _key(self, key: str) -> bytes:
        return self._prefix + key.encode()

    async def begin(self, job_id: str, idempotency: Idempotency) -> Replay | Twin | Orphan | None:
        key = self._key(idempotency.key)
        answer = await self._link.run(scripts.BEGIN, [key], [job_id, idempotency.fingerprint, SILENCE, KEPT])
        match answer:
            case [b"replay", former, fingerprint, body]:
                return Replay(former.decode(), fingerprint, body)
            case [b"twin"]:
                return Twin.IN_FLIGHT
            case [b"orphan", former]:
                self._held[key] = former.decode()
                return Orphan(former.decode())
        self._held[key] = job_id
        return None

    async def settle(self, job_id: str, idempotency: Idempotency, answer: bytes) -> None:
        key = self._key(idempotency.key)
        kept = await self._link.run(scripts.SETTLE, [key], [job_id, idempotency.fingerprint, answer, KEPT])
        self._held.pop(key, None)
        if not kept:
            raise LeaseLost("another request holds this idempotency key by now")

    async def release(self, job_id: str, key: str) -> None:
        self._held.pop(self._key(key), None)  # also if Redis is gone: it is an orphan soon
        await self._link.run(scripts.RELEASE, [self._key(key)], [job_id])

    async def renew(self) -> None:
        """Say that this process lives."""
        held: list[tuple[Any, str]] = list(self._held.items())
        for at in range(0, len(held), RENEWED_AT_ONCE):
            keys, jobs = zip(*held[at : at + RENEWED_AT_ONCE], strict=True)
            await self._link.run(scripts.RENEW, keys, [SILENCE, *jobs])
