"""Batches on their way back to the queue: completed, put off, set aside, or stored while they go on.

Each change is a task of its own, tried again and again while the disk is full; what cannot be stored at the end is
recovered by whoever comes next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from gateway.dispatch.boarding import conclude, count_tries
from gateway.dispatch.flight import Flight
from gateway.dispatch.sender import Sender
from gateway.dispatch.standing import Standing
from gateway.model import State
from gateway.observe.health import Readiness
from gateway.observe.metrics import LaneMetrics, Metrics
from gateway.queue.base import DeadTarget, Lease, LeaseLost, Queue, QueueError, QueueFull
from gateway.settings import Settings

LONGEST_ASIDE = 60.0
"""Seconds until a batch that could not be prepared is tried again; the first wait is a retry's, then it doubles."""

STORE_RETRY = 1.0
STORE_DEADLINE = 3.0
"""Seconds for giving back what is left at the end."""

log = structlog.get_logger()


class Returns:
    """One worker's."""

    def __init__(
        self, settings: Settings, queue: Queue, metrics: Metrics, readiness: Readiness, standing: Standing
    ) -> None:
        self._dispatch = settings.dispatch
        self._lease_seconds = settings.queue.lease_seconds
        self._queue = queue
        self._metrics = metrics
        self._readiness = readiness
        self._standing = standing
        self._loop = asyncio.get_running_loop()
        self._unstored = 0
        self._tasks: dict[asyncio.Task[None], None] = {}  # a set that goes by age

    @property
    def stuck(self) -> bool:
        """Whether a change waits for a full disk."""
        return self._unstored > 0

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in a task that `close` waits for."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def close(self) -> None:
        """Wait for what is under way, for `STORE_DEADLINE` at most."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=STORE_DEADLINE)
        for task in list(self._tasks):
            task.cancel()

    # Done

    async def complete(self, sender: Sender, flight: Flight) -> None:
        """Store a batch whose deliveries have all ended."""
        dead = verdicts(sender, flight)
        metrics = await self._complete(flight.lease, flight.states, dead)
        if metrics is not None:
            metrics.answers.observe_many(flight.milliseconds)
            if dead:
                self._metrics.route(flight.job.app, sender.route.provider).invalid_tokens(len(dead))

    def end(self, lease: Lease, state: State, reason: str, dead: Sequence[DeadTarget] = ()) -> None:
        """End all that has not ended, without sending it."""
        conclude(lease, state, reason, time.time())
        self.spawn(self._conclude(lease, dead))

    async def _conclude(self, lease: Lease, dead: Sequence[DeadTarget]) -> None:
        await self._complete(lease, bytes(lease.progress.states), dead)

    async def _complete(
        self, lease: Lease, states: bytes | bytearray | memoryview, dead: Sequence[DeadTarget]
    ) -> LaneMetrics | None:
        """Store it and count `states`, which are nobody else's once it is stored; None: the lease is lost."""
        if not await self._store(lambda: self._queue.complete(lease, dead, time.time())):
            return None
        metrics = self._metrics.lane(lease.route.app, lease.route.provider, lease.job.lane)
        metrics.completed(bytes(states))
        self._standing.completed(lease)
        return metrics

    # Put off

    def defer(self, lease: Lease, wait: float, dead: Sequence[DeadTarget] = ()) -> None:
        """Give a batch back for `wait` seconds."""
        self.spawn(self._defer(lease, wait, dead))

    def defer_untouched(self, lease: Lease, wait: float) -> None:
        """The same of one that nothing was done of."""
        count_tries(lease)
        self.defer(lease, wait)

    def give_back(self, sender: Sender, flight: Flight, wait: float) -> None:
        """The same of one that a route has."""
        sender.remove(flight)
        self.defer(flight.lease, wait, verdicts(sender, flight))

    async def _defer(self, lease: Lease, wait: float, dead: Sequence[DeadTarget]) -> None:
        wait = _within_expiry(lease, wait)
        await self._store(lambda: self._queue.defer(lease, wait, dead, time.time()))

    def set_aside(self, lease: Lease, error: Exception, dead: Sequence[DeadTarget] = ()) -> None:
        """Put off a batch that cannot be prepared, the longer the oftener it failed; in the end, dead-letter it. The
        others go on."""
        if lease.failures + 1 < self._dispatch.max_failures:
            self._standing.set_aside(lease, error)
            self.spawn(self._fail(lease, dead))
            return
        self.end(lease, State.DEAD_LETTERED, self._standing.dead_lettered(lease, error), dead)

    async def _fail(self, lease: Lease, dead: Sequence[DeadTarget]) -> None:
        wait = _within_expiry(lease, min(self._dispatch.backoff_base * 2.0**lease.failures, LONGEST_ASIDE))
        await self._store(lambda: self._queue.fail(lease, wait, dead, time.time()))

    # Going on

    def checkpoint(self, sender: Sender, flight: Flight) -> None:
        """Store how far a batch has come, and extend its lease."""
        self.spawn(self._checkpoint(sender, flight))

    async def _checkpoint(self, sender: Sender, flight: Flight) -> None:
        """Try once: the next one is never far."""
        flight.storing(self._loop.time())
        dead = verdicts(sender, flight)
        try:
            await self._queue.checkpoint(flight.lease, dead, time.time())
            sender.renewed(flight)
        except LeaseLost:
            log.warning("queue.lease_lost")
            sender.remove(flight)
        except QueueError as error:
            self._readiness.report("queue", False, str(error))
            flight.dead = [*dead, *flight.dead]
            # Sooner than otherwise: the lease must not run out for want of another try.
            flight.checkpointed_at -= self._lease_seconds / 6

    async def _store(self, operation: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Carry out a change of the queue, again and again while the disk is full. False: the lease is lost."""
        full = False
        try:
            while True:
                try:
                    await operation()
                except LeaseLost:
                    log.warning("queue.lease_lost")
                    return False
                except QueueError as error:
                    self._readiness.report("queue", False, str(error))
                    if isinstance(error, QueueFull) and not full:
                        full = True
                        self._unstored += 1
                    await asyncio.sleep(STORE_RETRY)
                else:
                    self._readiness.report("queue", True)
                    return True
        finally:
            self._unstored -= full


def verdicts(sender: Sender, flight: Flight) -> Sequence[DeadTarget]:
    """What the service said of dead targets since it was last stored; nothing while its word is in doubt."""
    dead, flight.dead = flight.dead, []
    return () if sender.breaker.suspicious else dead


def _within_expiry(lease: Lease, wait: float) -> float:
    """Seconds to wait, but not past the expiry, which is the time to end it."""
    expires_at = lease.job.expires_at
    return wait if expires_at is None else min(wait, expires_at - time.time())
