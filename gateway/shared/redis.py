"""`SharedState` on Redis 7 or Valkey. Keys begin with the prefix of the settings; what is an app's holds its full name.

========================  ==========================================================================================
key                       holds
========================  ==========================================================================================
members                   processes by when they last asked for tokens
rate:BUDGET, …:hungry     a bucket's tokens and when they were counted; who wants more of it than there was
idempotency:APP/KEY       job, fingerprint, and the answer, or until when its holder has to say that it lives
cancelled, …-until        cancelled jobs by revision, and by when they are forgotten
dead:APP:PROVIDER         dead targets: since when, and why
dead, dead-feed           the names of those, and the keys in the order in which they were added
========================  ==========================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable, Sequence

import structlog

from gateway.model import Route
from gateway.queue.base import DeadTarget, Idempotency, Replay, Twin
from gateway.shared import scripts
from gateway.shared.base import Ask, Orphan, SharedUnavailable
from gateway.shared.claims import SILENCE, Claims
from gateway.shared.dead import DeadTargets
from gateway.shared.link import Link

MEMBER_KEPT = 3.0
"""Seconds without a word after which a process is none of the members any more."""

HUNGRY_KEPT = 0.5
"""Seconds for which it is remembered that a member wanted more, and the others are given their part only."""

BUCKET_SECONDS = 0.25
"""Of unused rate that may be caught up at once, over all machines, as `dispatch.governor` does it within one."""

LOOK = 0.25
"""Seconds between looks at the feed of dead targets."""

RENEW = SILENCE / 3

CANCELLED_AT_ONCE = 1000

log = structlog.get_logger()


class RedisState:
    """See `gateway.shared.base.SharedState`."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        ca_file: str | None = None,
        changed: Callable[[str], None] = lambda cause: None,
        jitter: random.Random | None = None,
    ) -> None:
        """`changed` as of `Link`.

        Raises:
            ValueError: `url` is none that Redis has.
        """
        self.members = 0
        self._link = Link(url, ca_file, changed=changed, jitter=jitter or random.Random())
        self._prefix = f"{prefix}:"
        self._member = uuid.uuid4().hex
        self._claims = Claims(self._link, self._prefix)
        self._dead = DeadTargets(self._link, self._prefix)
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def _key(self, name: str) -> bytes:
        return (self._prefix + name).encode()

    async def open(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        self._closing.set()
        if self._keeper is not None:
            await self._keeper  # what it asks has its deadline; cut off in the middle, connections would be lost
        with contextlib.suppress(SharedUnavailable):
            await self._link.run(scripts.LEAVE, [self._key("members")], [self._member])
        await self._link.close()

    async def _keep(self) -> None:
        """Hold on to claims, and follow the feed of dead targets."""
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + RENEW
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._closing.wait()
            try:
                if loop.time() >= renew_at:
                    await self._claims.renew()
                    renew_at = loop.time() + RENEW
                if self._dead.used:
                    await self._dead.follow()
            except SharedUnavailable:
                continue  # the link has said so
            except Exception as error:  # a defect of ours must not end what comes after it
                log.error("shared.failed", error=type(error).__name__)

    # --- rate budgets

    async def lease(self, asks: Sequence[Ask]) -> list[int]:
        keys = [self._key("members")]
        args: list[str | float | int] = [self._member, MEMBER_KEPT, HUNGRY_KEPT, BUCKET_SECONDS]
        for ask in asks:
            keys += [self._key(f"rate:{ask.name}"), self._key(f"rate:{ask.name}:hungry")]
            args += [ask.rate, ask.want, ask.back]
        answer: list[int] = await self._link.run(scripts.LEASE, keys, args)
        self.members = answer[0]
        return answer[1:]

    # --- idempotency

    async def begin(self, job_id: str, idempotency: Idempotency) -> Replay | Twin | Orphan | None:
        return await self._claims.begin(job_id, idempotency)

    async def settle(self, job_id: str, idempotency: Idempotency, answer: bytes) -> None:
        await self._claims.settle(job_id, idempotency, answer)

    async def release(self, job_id: str, key: str) -> None:
        await self._claims.release(job_id, key)

    # --- cancellations

    async def cancel(self, job_id: str, until: float) -> None:
        await self._link.run(scripts.CANCEL, [self._key("cancelled"), self._key("cancelled-until")], [job_id, until])

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        rows = await self._link.call(
            "ZRANGEBYSCORE", self._key("cancelled"), f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, CANCELLED_AT_ONCE
        )
        return int(rows[-1]) if rows else after, [job.decode() for job in rows[::2]]

    # --- dead targets

    async def add_dead(self, route: Route, dead: Sequence[DeadTarget]) -> None:
        await self._dead.add(route, dead)

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        return await self._dead.known(route, keys)
