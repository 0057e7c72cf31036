"""Leases batches for the routes that have room, and completes them; the clock of everything below it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import structlog

from gateway.beat import beat, following
from gateway.credentials.store import CredentialStore, Signing
from gateway.dispatch import eager
from gateway.dispatch.boarding import Plans, board
from gateway.dispatch.breaker import Breaker
from gateway.dispatch.budget import Budget
from gateway.dispatch.exchanges import Exchanges
from gateway.dispatch.exit import Exit
from gateway.dispatch.flight import Flight
from gateway.dispatch.governor import Governor
from gateway.dispatch.retry import Limits
from gateway.dispatch.returns import STORE_RETRY, Returns, verdicts
from gateway.dispatch.sender import Sender
from gateway.dispatch.signers import Signers
from gateway.dispatch.skew import Skew
from gateway.dispatch.slices import Slices
from gateway.dispatch.standing import Standing
from gateway.dispatch.turns import Turns
from gateway.egress.guard import Guard
from gateway.http2.connection import Source
from gateway.http2.pool import Address, Pool, tls_context
from gateway.model import Job, Lane, Route, State
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.policy import screening
from gateway.queue.base import Lease, NewBatch, Queue, QueueError, Room, load, spare
from gateway.settings import Settings
from gateway.shared.base import RateBudgets
from providers import PROVIDERS
from providers.base import ProviderSettings, Scope

TICK = 0.1
"""Seconds between looks at retries, expiries, deadlines and growth."""

LONG_PAUSE = 1.0
"""Seconds between looks that mean that this process was stopped or starved."""

POLL = 0.1
"""Seconds between leases while nothing in this process says that there is work: other workers' uploads, due times."""

CAPACITY: Mapping[Lane, int] = {Lane.TRANSACTIONAL: 64_000, Lane.PROMOTIONAL: 128_000}
"""Load that one worker has in hand, over all routes: about 0.5 KiB each, so some 96 MiB. Apart, so that slow
campaigns of many routes do not take the last place of a one-time code, nor one-time codes that of campaigns."""

LEASED_AT_ONCE = 256
"""Batches: others wait for the transaction that takes them, some ten milliseconds for small ones."""

TICKS_TO_STORE = 5
"""Ticks between looks at what batches that only wait have to store: all of it goes in one transaction."""

IDLE_SENDER = 300.0
"""Seconds without work after which the connections to a Web Push origin are closed. Those to an app's own endpoint
stay: services want them kept for hours, and a one-time code must not wait for a handshake."""

CANCELLED_KEPT = 10_000
UNCONFIGURED_DEFER = 60.0
LONG_HOLD = 10.0
"""Seconds a route cannot send above which its batches go back to the queue instead of waiting in memory."""

log = structlog.get_logger()


class Dispatcher:
    """One worker's dispatch. `run` until cancelled, or `drain` first."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        credentials: CredentialStore,
        metrics: Metrics,
        readiness: Readiness,
        *,
        budgets: RateBudgets | None = None,
        busy: Callable[[], float] = lambda: 0.0,
        jitter: random.Random | None = None,
    ) -> None:
        """`budgets` are rates that machines share; without them, the workers of this one share them evenly. `busy` is
        the share of a core this process uses, see `Pool`."""
        self._settings = settings
        self._queue = queue
        self._credentials = credentials
        self._metrics = metrics
        self._readiness = readiness
        self._busy = busy
        self._jitter = jitter or random.Random()
        self._loop = asyncio.get_running_loop()
        self._guard = Guard()
        self._slices = None if budgets is None else Slices(budgets, settings.workers, self._jitter)
        self._blocks: Mapping[tuple[str, str], ProviderSettings] = settings.blocks()
        self._standing = Standing(metrics, readiness)
        self._returns = Returns(settings, queue, metrics, readiness, self._standing)
        self._exchanges = Exchanges(credentials.signings, readiness, self._wake_senders)
        self._signers = Signers(credentials, self._pool, self._returns.spawn)
        self._limits = Limits(
            settings.dispatch.max_attempts, settings.dispatch.backoff_base, settings.dispatch.backoff_cap
        )
        self._weights = settings.weights()
        self._turns = Turns(self._weights)
        self._senders: dict[Route, Sender] = {}
        self._last_used: dict[Route, float] = {}
        self._skew = Skew(metrics, readiness)
        self._plans = Plans()
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._cancel_cursor = 0
        self._work = asyncio.Event()
        self._draining = False
        self._recalled = False
        self._codes_wait = True
        """Whether the last lease may have left transactional batches of any route."""
        self._passed_over: Container[Route] = ()
        """Routes for which it took none, and of which it may have left some."""

    # The queue's side: Taker

    def wake(self) -> None:
        self._codes_wait = True
        self._work.set()

    def recall(self) -> None:
        self._recalled = True
        for sender in self._senders.values():
            sender.stopped = True
        self._give_back_unsent()

    def go_on(self) -> None:
        self._recalled = False
        for sender in self._senders.values():
            sender.stopped = self._draining
        self.wake()

    def wants(self, job: Job, batches: Sequence[NewBatch]) -> bool:
        """Transactional jobs do, unless others wait before them: a lease of its own would double what one costs."""
        now = self._loop.time()
        return (
            job.lane is Lane.TRANSACTIONAL
            and not (self._stopping() or self._returns.stuck or self._codes_wait)
            and self._spare(job.app, self._codes_in_hand()) >= sum(load(batch.count) for batch in batches)
            and all(self._goes_out(batch.route, now) for batch in batches)
        )

    def _codes_in_hand(self) -> Counter[str]:
        """The load of transactional batches by app."""
        held: Counter[str] = Counter()
        for route, sender in self._senders.items():
            held[route.app] += sender.in_hand[Lane.TRANSACTIONAL]
        return held

    def _spare(self, app: str, held: Counter[str]) -> float:
        """How much more of the transactional room the app's part holds."""
        return spare(self._weights.get(app, 1.0), CAPACITY[Lane.TRANSACTIONAL] - held.total(), held[app])

    def _goes_out(self, route: Route, now: float) -> bool:
        sender = self._senders.get(route)
        if sender is None or route in self._passed_over or not self._takes_more(sender, now):
            return False
        self._last_used[route] = now  # so that it is there when the batches come
        return True

    def take(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            sender = self._senders[lease.route]  # since it is wanted
            sender.in_hand[Lane.TRANSACTIONAL] += load(lease.count)  # also as long as it is no flight
            eager.start(self._board_handed(lease, sender), self._returns.spawn)

    async def _board_handed(self, lease: Lease, sender: Sender) -> None:
        try:
            await self._receive(lease)
        finally:
            sender.in_hand[Lane.TRANSACTIONAL] -= load(lease.count)

    def sample(self) -> None:
        """Set the gauges; to be called about once a second."""
        self._standing.sample(self._blocks, self._senders.values())
        for sender in self._senders.values():
            if sender.dated is not None:
                self._skew.look(sender.origin, *sender.dated)

    # Running

    async def run(self) -> None:
        """Dispatch until cancelled."""
        self._queue.hand_to(self)
        self._cancel_cursor, ids = await self._queue.cancelled(0)
        self._remember_cancelled(ids)
        for (app, name), block in self._blocks.items():
            if PROVIDERS[name].single_origin:
                self._open_sender(Route(app, name), block)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease_for_ever())
            group.create_task(self._tick_for_ever())
            group.create_task(self._follow_cancellations())
            if self._slices is not None:
                group.create_task(self._slices.run())

    async def drain(self, deadline: float) -> None:
        """Stop leasing and sending, let open requests finish for `deadline` seconds, give the rest back."""
        self._draining = True
        for sender in self._senders.values():
            sender.stopped = True
        self._give_back_unsent()
        await asyncio.gather(*(sender.close(deadline) for sender in self._senders.values()))
        for sender in self._senders.values():
            for flight in list(sender.flights):
                self._returns.give_back(sender, flight, 0.0)
        await self._returns.close()
        await self._exchanges.close()
        if self._slices is not None:
            await self._slices.give_back()

    def _give_back_unsent(self) -> None:
        """Others can have at once what nothing of is on the wire; the leases of the rest have to outlast the drain."""
        for sender in self._senders.values():
            for flight in list(sender.flights):
                if flight.on_wire:
                    self._returns.checkpoint(sender, flight)
                else:
                    self._returns.give_back(sender, flight, 0.0)

    async def _lease_for_ever(self) -> None:
        while True:
            self._work.clear()
            try:
                leased = await self._lease()
            except QueueError as error:
                self._readiness.report("queue", False, str(error))
                log.warning("queue.lease_failed", reason=str(error))
                await asyncio.sleep(STORE_RETRY)
                continue
            if not leased:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(following(self._loop.time(), POLL)):
                        await self._work.wait()

    async def _lease(self) -> bool:
        room = self._room()
        if self._stopping() or self._returns.stuck:  # a lease may not run out under what is unstored
            return False
        leases = await self._queue.lease(room, time.time())
        self._readiness.report("queue", True)
        for lease in leases:
            await self._receive(lease)
        self._codes_wait = len(leases) >= LEASED_AT_ONCE // 2
        held = self._codes_in_hand()
        self._passed_over = {*room.closed, *(route for route in self._senders if self._spare(route.app, held) < 1)}
        return len(leases) > 0

    async def _receive(self, lease: Lease) -> None:
        if self._stopping():  # it began while the queue was asked
            self._returns.defer_untouched(lease, 0.0)
            return
        lease.at_work[0] = True
        try:
            await self._launch(lease)
        except QueueError as error:  # the store's fault, and not the batch's
            log.warning("queue.lease_failed", reason=str(error))
            self._returns.defer(lease, STORE_RETRY)
        except Exception as error:  # whatever is wrong with one batch must not keep the others
            self._returns.set_aside(lease, error)
        finally:
            lease.at_work[0] = False

    def _stopping(self) -> bool:
        return self._draining or self._recalled

    def _room(self) -> Room:
        now = self._loop.time()
        return Room(
            batches=LEASED_AT_ONCE,
            per_route=self._settings.dispatch.deliveries_per_route,
            closed=[route for route, sender in self._senders.items() if not self._takes_more(sender, now)],
            held={
                (lane, route): held
                for route, sender in self._senders.items()
                for lane, held in sender.in_hand.items()
                if held
            },
            capacity=CAPACITY,
            weights=self._weights,
        )

    def _takes_more(self, sender: Sender, now: float) -> bool:
        """A route without a connection, or in trouble, takes nothing while it is held and then one batch at a time."""
        hold = self._hold(sender, now)
        return hold is None or (hold == 0.0 and not sender.flights)

    def _hold(self, sender: Sender, now: float) -> float | None:
        """Seconds for which a route that cannot send tries nothing; None for one that can."""
        holds = [sender.breaker.hold(now), sender.pool.hold(now)]
        if sender.credential.headers(sender.origin, time.time()) is None:
            holds.append(self._exchanges.hold(sender.signing.name, now))
        return max((hold for hold in holds if hold is not None), default=None)

    async def _launch(self, lease: Lease) -> None:
        route = lease.route
        end = screening.overdue(lease.job, lease.job.id in self._cancelled, time.time())
        if end is not None:
            self._returns.end(lease, *end)
            return
        block = self._blocks.get((route.app, route.provider))
        if block is None or self._signers.of(route) is None:
            self._defer_unconfigured(lease)
            return
        sender = self._senders.get(route) or self._open_sender(route, block)
        self._last_used[route] = now = self._loop.time()
        if not self._takes_more(sender, now):
            # Its route is closed by now, and another worker's may be open.
            self._returns.defer_untouched(lease, 0.0)
            return
        plan = self._plans.get(lease, sender.provider, block, sender.origin)
        recorded = lease.progress.states
        interrupted = lease.attempt > 1 and State.SENT in bytes(recorded)
        if interrupted:
            lease.progress.states = bytearray(recorded)
        flight = await board(lease, plan, sender.provider, self._queue, now, time.time(), self._cancelled.__contains__)
        if interrupted:
            # Stored before anything is sent again, and before the recorder says anything else than SENT: should this
            # process die as well, nobody else would know that these were on the wire once already, and their receipts
            # could deny it.
            await self._queue.checkpoint(lease, [], time.time())
            flight.record(recorded)
        if flight.job.lane is Lane.TRANSACTIONAL:
            self._turns.hasten()
        sender.add(flight)
        if sender.backlog:
            sender.wake()

    def _open_sender(self, route: Route, block: ProviderSettings) -> Sender:
        provider, signing = PROVIDERS[route.provider], self._signers.of(route)
        assert signing is not None, "settings and credentials come from one configuration"
        origin = route.place or provider.endpoint(block)
        dispatch, now = self._settings.dispatch, self._loop.time()
        sender = self._senders[route] = Sender(
            route,
            provider,
            origin,
            signing,
            governor=self._governor(route, block.rate if block.rate is not None else provider.default_rate, now),
            breaker=Breaker(dispatch.max_dead_share),
            budget=Budget(dispatch.retry_share, dispatch.retry_floor / self._settings.workers, now),
            limits=self._limits,
            metrics=self._metrics,
            finished=self._finished,
            failed=self._failed,
            held=self._held,
            turn=self._turns[route.app],
            jitter=self._jitter,
            clock=self._queue.time,
        )
        sender.stopped = self._stopping()
        self._signers.equip(sender)
        return sender

    def _governor(self, route: Route, rate: float | None, now: float) -> Governor:
        if rate is None or self._slices is None:
            return Governor(None if rate is None else rate / self._settings.workers, now, self._jitter)
        name = "/".join(filter(None, (route.app, route.provider, route.origin)))
        return Governor(rate, now, self._jitter, self._slices.open(name, rate, lambda: self._wake(route)))

    def _wake(self, route: Route) -> None:
        if (sender := self._senders.get(route)) is not None and sender.backlog:
            sender.wake()

    def _pool(self, sender: Sender, signing: Signing, source: Source, limit: int | None = None) -> Pool:
        block = self._blocks[sender.route.app, sender.route.provider]
        ours = not sender.route.origin or block.names(sender.origin)
        return Pool(
            Address.of(sender.origin),
            tls_context(block.ca_file, signing.credential.client_certificate),
            source,
            source if isinstance(source, Exit) else sender,
            limit=limit or block.connections or sender.provider.default_connections,
            request_timeout=self._settings.dispatch.request_timeout,
            connect_timeout=self._settings.dispatch.connect_timeout,
            guard=None if ours else self._guard,
            busy=self._busy,
            jitter=self._jitter,
        )

    def follow_credentials(self) -> None:
        """Others sign from now on, or another share: to be called when the store was told so."""
        self._exchanges.forget({signing.name for signing in self._credentials.signings()})
        for sender in list(self._senders.values()):
            self._signers.follow(sender)

    # The end of a batch

    def _finished(self, flight: Flight) -> None:
        """Called by a sender in the middle of a read: what takes time happens in a task, one a batch."""
        sender = self._senders[flight.lease.route]
        if flight in sender.flights:
            sender.remove(flight)
            self._returns.spawn(self._complete(sender, flight))

    def _failed(self, flight: Flight, error: Exception) -> None:
        """Called by a sender whose connection asked for a slice that cannot be made."""
        sender = self._senders[flight.lease.route]
        sender.remove(flight)
        self._returns.set_aside(flight.lease, error, verdicts(sender, flight))

    def _held(self, sender: Sender, scope: Scope) -> None:
        """Called by a sender whose service refused or throttled an app, or a credential: who shares it holds too."""
        for other in self._senders.values():
            if other is not sender and _shares(other, sender, scope):
                other.join(sender)

    async def _complete(self, sender: Sender, flight: Flight) -> None:
        await self._returns.complete(sender, flight)
        self._last_used[sender.route] = self._loop.time()
        # The next job of an ordering key can be leased from now on.
        if self._wants_more(sender, flight.job):
            self._work.set()

    def _wants_more(self, sender: Sender, ended: Job) -> bool:
        if ended.lane is Lane.TRANSACTIONAL:
            return ended.ordering_key is not None or self._codes_wait or sender.route in self._passed_over
        low = sum(sender.in_hand.values()) <= self._settings.dispatch.deliveries_per_route // 2
        return ended.ordering_key is not None or low

    def _defer_unconfigured(self, lease: Lease) -> None:
        name = f"{lease.route.app}/{lease.route.provider}"
        self._readiness.report(
            f"route {name}", False, "jobs wait for a route that the configuration no longer has: add it, or cancel them"
        )
        self._returns.defer_untouched(lease, UNCONFIGURED_DEFER)

    # The clock

    async def _tick_for_ever(self) -> None:
        for number in itertools.count():
            now, wall = self._loop.time(), time.time()
            self._exchanges.tick(now, wall)
            for sender in list(self._senders.values()):
                sender.tick(now, wall)
                self._look_after(sender, now)
                self._store_progress(sender, now, tails=number % TICKS_TO_STORE == 0)
            await beat(TICK)
            if self._loop.time() - now > LONG_PAUSE:
                await asyncio.sleep(TICK)  # the process stood still: answers that came meanwhile are read first

    def _look_after(self, sender: Sender, now: float) -> None:
        """Put off what waits for long, report holds, close what is idle."""
        if self._recalled:
            for flight in [flight for flight in sender.flights if not flight.on_wire]:
                self._returns.give_back(sender, flight, 0.0)
        for flight, wait in sender.deferrable(now):
            self._returns.give_back(sender, flight, wait)
        hold = self._hold(sender, now)
        if hold is not None and hold > LONG_HOLD and not sender.has_way_back:
            for flight in [flight for flight in sender.flights if not flight.on_wire]:
                self._returns.give_back(sender, flight, hold)
        self._standing.report(sender)
        unused = now - self._last_used.get(sender.route, now)
        idle = unused > IDLE_SENDER and not sender.flights and sender.breaker.cause is None
        if idle and not sender.provider.single_origin:
            del self._senders[sender.route]
            self._last_used.pop(sender.route, None)
            self._standing.forget(sender.route)
            if self._slices is not None and sender.governor.slice is not None:
                self._slices.close(sender.governor.slice)
            self._returns.spawn(sender.close(0.0))

    def _store_progress(self, sender: Sender, now: float, *, tails: bool) -> None:
        """Extend leases in time; and of batches that only wait, store what was answered."""
        renewal = self._settings.queue.lease_seconds / 3
        for flight in sender.flights:
            if now - flight.checkpointed_at > renewal or (tails and flight.unstored(now)):
                self._returns.checkpoint(sender, flight)

    async def _follow_cancellations(self) -> None:
        while True:
            await beat(POLL * 2)
            try:
                self._cancel_cursor, ids = await self._queue.cancelled(self._cancel_cursor)
            except QueueError:
                continue
            self._remember_cancelled(ids)
            for sender in self._senders.values():
                for job_id in ids:
                    sender.cancel(job_id)

    def _remember_cancelled(self, job_ids: Iterable[str]) -> None:
        """The last ones: the queue ends whatever nobody holds, so this is for leases that crossed a cancellation."""
        self._cancelled.update(dict.fromkeys(job_ids))
        while len(self._cancelled) > CANCELLED_KEPT:
            self._cancelled.popitem(last=False)

    def _wake_senders(self) -> None:
        for sender in self._senders.values():
            sender.wake()


def _shares(one: Sender, other: Sender, scope: Scope) -> bool:
    if one.route.provider != other.route.provider:
        return False
    if scope is Scope.APP:
        return one.route.app == other.route.app
    return one.credential.fingerprint == other.credential.fingerprint
