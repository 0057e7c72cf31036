"""A route's way out: what its connections pull from, and what their answers lead to.

The sender is the `Source` of its pool. A connection with room asks `take` for a slice: the first flight of the lanes
renders as many deliveries as streams, window, governor and breaker allow. What came of them arrives in `settle`, per
read of a connection. Neither waits for anything, and neither does more for a delivery than a few list operations.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.credentials.store import Signing
from gateway.dispatch.breaker import Breaker, Cause
from gateway.dispatch.budget import Budget
from gateway.dispatch.exit import Exit
from gateway.dispatch.flight import Flight
from gateway.dispatch.governor import Governor
from gateway.dispatch.lanes import Lanes
from gateway.dispatch.quarantine import Quarantine
from gateway.dispatch.refusals import Refusals
from gateway.dispatch.retry import Limits
from gateway.dispatch.turns import Turn
from gateway.http2.connection import Requests
from gateway.http2.pool import DialFailure, Pool
from gateway.http2.results import Answer, Results, Run, Tag
from gateway.model import Lane, Route, State
from gateway.observe.families import Handshake
from gateway.observe.metrics import Metrics
from gateway.policy.screening import overdue
from providers.base import Credential, Headers, Outcome, Plan, Provider, Rendered, Scope, Verdict

ACCEPTED = Outcome(Verdict.ACCEPTED)

DEFER_AFTER = 10.0
"""Seconds until the next retry above which a batch goes back to the queue instead of waiting in memory."""

HELD_BACK_PATIENCE = 2.0
HELD_BACK_DEFER = (5.0, 8.0)
"""Seconds after which a batch goes back to the queue whose retries are all due and beyond the budget, and between
which for how long: others have something to send for the first time, which earns the budget. Not for longer than what
time earns is saved up (`budget.BURST`), as a quiet route would retry at less than its floor."""


class Load(NamedTuple):
    """What a sender has in hand."""

    flights: int
    waiting: int
    on_wire: int


class Sender:
    """One route's lanes, governor, breaker, retry budget and pool."""

    def __init__(
        self,
        route: Route,
        provider: Provider,
        origin: str,
        signing: Signing,
        *,
        governor: Governor,
        breaker: Breaker,
        budget: Budget,
        limits: Limits,
        metrics: Metrics,
        finished: Callable[[Flight], None],
        failed: Callable[[Flight, Exception], None],
        held: Callable[[Sender, Scope], None],
        turn: Turn,
        jitter: random.Random,
        clock: Callable[[], float],
    ) -> None:
        """`origin` is where requests go; all senders of an app share its `turn`; `clock` is `Queue.time`.

        `finished` is told of flights of which no delivery is left, `failed` of those whose plan raised; both have to
        `remove` the flight. `held` is told when a hold begins that concerns more than this route.
        """
        self.route = route
        self.provider = provider
        self.origin = origin
        self.sign_with(signing)
        self.governor = governor
        self.breaker = breaker
        self.budget = budget
        self.flights: dict[Flight, None] = {}  # a set that goes by age
        self.in_hand = dict.fromkeys(Lane, 0)
        """The load of `flights`, see `gateway.queue.base.load`."""
        self.stopped = False
        self.pool: Pool
        self.quarantine: Quarantine
        self.exit: Exit | None = None
        """The way of a second credential, while there is one."""
        self.dated: tuple[Headers, float] | None = None
        """The fields of an answer, for their date, and when it came in UNIX seconds."""
        self.lane_metrics = {lane: metrics.lane(route.app, route.provider, lane) for lane in Lane}
        self._route_metrics = metrics.route(route.app, route.provider)
        self._finished = finished
        self._failed = failed
        self._held = held
        self._turn = turn
        self._jitter = jitter
        self._clock = clock
        self._refusals = Refusals(self, limits, jitter, clock)
        self._loop = asyncio.get_running_loop()
        self._lanes = Lanes()
        self._on_wire = 0
        self._heard = False  # whether the service answered since a connection broke off

    def sign_with(self, signing: Signing) -> None:
        """Sign with this credential from now on."""
        self.signing = signing
        self.credential = signing.credential
        self.tally = signing.tally

    @property
    def has_way_back(self) -> bool:
        """Whether it is held for the sake of its credential, and another is at hand: that ends within seconds."""
        return self.breaker.cause is Cause.CREDENTIAL and self.exit is not None

    def load(self) -> Load:
        return Load(len(self.flights), sum(flight.waiting for flight in self.flights), self._on_wire)

    # What the dispatcher does

    def add(self, flight: Flight) -> None:
        """Take a flight."""
        self.flights[flight] = None
        self._count(flight)
        if not flight.left:
            self._finished(flight)
        elif not self._end_overdue(flight, time.time()) and flight.ready:
            self._lanes.add(flight)

    def remove(self, flight: Flight) -> None:
        """Forget a flight, whatever of it is on the wire: the queue has it back, or somebody else."""
        if flight in self.flights:
            del self.flights[flight]
            self.in_hand[flight.job.lane] -= flight.load
            flight.load = 0
        self._lanes.remove(flight)
        flight.detach()

    def renewed(self, flight: Flight) -> None:
        """The lease of a flight was extended. If it had run out, what is left goes on."""
        if flight in self.flights and flight.ready:
            self._lanes.add(flight)

    def _count(self, flight: Flight) -> None:
        burden = flight.burden
        self.in_hand[flight.job.lane] += burden - flight.load
        flight.load = burden

    def tick(self, now: float, wall: float) -> None:
        """Bring back what waited long enough, end what expired, let the pool look after its connections.

        Batches of which only retries are left make room for others.
        """
        room = self.budget.room(now)
        awake = [flight for flight in self.flights if not flight.asleep(now, wall)]
        for flight in sorted(awake, key=_lane):
            if self._end_overdue(flight, wall):
                continue
            flight.shrink()
            self._count(flight)
            if retries := flight.bring_back(now, room):
                self.budget.spend(retries)
                room -= retries
                self._lanes.add(flight)
        self.pool.tick(now)
        self.quarantine.tick(now)
        if self.exit is not None:
            self.exit.pool.tick(now)

    def wake(self) -> None:
        """There may be work for the connections."""
        if self.exit is not None:
            self.exit.pool.wake()  # first: its share is small, and the others would leave it none
        self.pool.wake()

    def cancel(self, job_id: str) -> None:
        """End what is not on the wire; what comes back from there unsent ends as well."""
        for flight in list(self.flights):
            if flight.job.id == job_id:
                flight.cancelled = True
                self._end_overdue(flight, time.time())

    def deferrable(self, now: float) -> list[tuple[Flight, float]]:
        """Flights that only wait, for long, and for how many seconds."""
        waits = [(flight, flight.due - now) for flight in self.flights if flight.idle and flight.due is not None]
        late = [flight for flight, wait in waits if wait < -HELD_BACK_PATIENCE]
        return [(flight, wait) for flight, wait in waits if wait > DEFER_AFTER] + [
            (flight, self._jitter.uniform(*HELD_BACK_DEFER)) for flight in late
        ]

    def held_back(self, now: float) -> int:
        """Retries that are due, and that there is no budget for."""
        return sum(flight.held_back(now) for flight in self.flights)

    def join(self, other: Sender) -> None:
        """Hold as another route does that shares what is in trouble."""
        now = self._loop.time()
        if self.breaker.join(other.breaker, now):
            self._yield(now)

    # The pool's side: Source and Listener

    @property
    def backlog(self) -> bool:
        return (
            not self.stopped
            and bool(self._lanes)
            and self._lanes.first() is not None
            and self.breaker.allowance(self._loop.time(), self._on_wire) != 0
        )

    def take(self, streams: int, window: int) -> Requests | None:
        return None if self.stopped else self._take(self.credential, streams, window)

    def lend(self, credential: Credential, streams: int, window: int) -> Requests | None:
        """As `take`, signed with another credential. What is held is held for it too."""
        if self.stopped or self.breaker.cause is not None:
            return None
        return self._take(credential, streams, window)

    def _take(self, credential: Credential, streams: int, window: int) -> Requests | None:
        """A slice; what few deliveries several batches of a job have to send, as retries mostly are, go in one."""
        now, wall = self._loop.time(), time.time()
        parts: list[Requests] = []
        former: Flight | None = None
        while (flight := self._lanes.first()) is not None:
            if self._end_overdue(flight, wall) or self._run_out(flight):
                continue
            if former is not None and (flight is former or flight.job is not former.job or window < flight.body_size):
                break
            if not self._room(flight):
                if not parts:
                    self._turn.wait(self.wake)
                break
            auth = credential.headers(self.origin, wall)
            count = 0 if auth is None else self._allowance(flight, streams, window, now)
            if auth is None or not count:
                break
            first_time = flight.first_time
            requests = self._render(flight, flight.next(count), auth, wall)
            if requests is None:
                continue
            taken = len(requests.tags)
            if first_time:
                self.budget.earn(taken)
            parts.append(requests)
            if taken == count:
                break
            former = flight
            streams -= taken
            window -= sum(map(len, requests.bodies))
        return _joined(parts) if parts else None

    @property
    def suspects(self) -> bool:
        return not self.stopped and any(flight.suspects for flight in self.flights)

    def take_suspect(self, window: int) -> Requests | None:
        """One delivery that is to go alone. It probes a held route only if there is no other that could."""
        now, wall = self._loop.time(), time.time()
        if self.stopped or (self.breaker.cause is not None and self._lanes.first() is not None):
            return None
        for flight in [flight for flight in self.flights if flight.suspects]:
            if self._end_overdue(flight, wall) or self._run_out(flight):
                continue
            auth = self.credential.headers(self.origin, wall)
            if auth is None or not self._allowance(flight, 1, window, now):
                return None
            requests = self._render(flight, flight.next_suspect(), auth, wall)
            if requests is not None:
                return requests
        return None

    def _render(self, flight: Flight, indexes: Sequence[int], auth: Headers, wall: float) -> Requests | None:
        """Deliveries that are about to be on the wire as requests, if any of them can be."""
        self._on_wire += len(indexes)
        flight.lease.at_work[0] = True  # what kills the process now is this batch and no other
        try:
            head = flight.plan.head(auth, wall)
            rendered = flight.plan.render(flight.rows(indexes), wall)
        except Exception as error:
            flight.lease.at_work[0] = False
            for index in indexes:
                self.again(flight, index)
            self._failed(flight, error)
            return None
        flight.lease.at_work[0] = False
        if rendered.rejected:
            indexes, rendered = self._drop_rejected(flight, indexes, rendered, wall)
            if not indexes:
                return None
        if self.breaker.cause is not None:
            self.breaker.probe()
        self.governor.spend(len(indexes))
        self._turn.spend(len(indexes) / flight.plan.slice)
        self._lanes.served(flight.job.lane, len(indexes))
        flight.body_size = max(map(len, rendered.bodies))
        tags = [(flight, index) for index in indexes]
        return Requests(head, rendered.fields, rendered.bodies, tags)

    def _allowance(self, flight: Flight, streams: int, window: int, now: float) -> int:
        allowed = self.breaker.allowance(now, self._on_wire)
        # At least one request, even if its body is larger than the window: it then goes out in parts.
        by_window = max(1, window // flight.body_size)
        by_turn = math.ceil(min(1.0, self._room(flight)) * flight.plan.slice)
        count = min(streams, by_window, by_turn, self.governor.room(now))
        return count if allowed is None else min(count, allowed)

    def _room(self, flight: Flight) -> float:
        """Slices that a flight may send in this round of the loop."""
        return self._turn.room_for_codes if flight.job.lane is Lane.TRANSACTIONAL else self._turn.room

    def _drop_rejected(
        self, flight: Flight, indexes: Sequence[int], rendered: Rendered, wall: float
    ) -> tuple[Sequence[int], Rendered]:
        milliseconds = flight.age(wall)
        for position, reason in rendered.rejected.items():
            self.end(flight, indexes[position], State.REJECTED, milliseconds, reason)
        kept = [position for position in range(len(indexes)) if position not in rendered.rejected]
        fields = tuple([column[position] for position in kept] for column in rendered.fields)
        bodies = [rendered.bodies[position] for position in kept]
        return [indexes[position] for position in kept], Rendered(fields, bodies, {})

    def give_back(self, tags: list[Tag]) -> None:
        self.governor.spend(-len(tags))
        for flight, index in tags:
            self.again(flight, index)

    def settle(self, results: Results) -> None:
        now, wall = self._loop.time(), time.time()
        self._heard |= bool(results.settled)
        if results.cut:
            self._suspect(results.unknown)
        if results.accepted:
            self._settle_bare(results.accepted, now, wall)
        if results.answers:
            self._settle_answered(results.answers, now, wall)
        if results.unsent:
            self._settle_unsent(results.unsent, now)
        if results.unknown:
            self._settle_unknown(results.unknown, now, wall)

    def _suspect(self, unknown: list[tuple[Tag, str]]) -> None:
        """A connection broke off: by one of these, if the service is well. In an outage they are victims."""
        if self._heard:
            self._heard = False
            for (flight, index), _ in unknown:
                flight.note(index).cuts += 1

    def _settle_unsent(self, unsent: list[Tag], now: float) -> None:
        if self.breaker.unsent(len(unsent), now):
            self._yield(now)
        for flight, index in unsent:
            self.lane_metrics[flight.job.lane].outcome(Verdict.UNSENT)
            self.again(flight, index)

    def _settle_bare(self, accepted: list[Tag], now: float, wall: float) -> None:
        """Status 200 and nothing else, which needs no look unless the plan wants one."""
        if all(flight.plan.bare_accept for flight in {flight for flight, _ in accepted}):
            self._settle_accepted(accepted, now, wall)
        else:
            self._settle_answered([Answer(tag, 200, (), b"") for tag in accepted], now, wall)

    def _settle_unknown(self, unknown: list[tuple[Tag, str]], now: float, wall: float) -> None:
        by_reason: dict[str, list[Tag]] = {}
        for tag, reason in unknown:
            by_reason.setdefault(reason, []).append(tag)
        refused = {Outcome(Verdict.UNKNOWN, reason): tags for reason, tags in by_reason.items()}
        for outcome, tags in refused.items():
            self._heed(outcome, now, wall, len(tags))
        self._refusals.settle(refused, now, wall)

    def _settle_answered(self, answers: Sequence[Answer | Run], now: float, wall: float) -> None:
        """In order, as the breaker counts what comes in a row; then refused ones by what they say."""
        self.dated = answers[-1].headers, wall
        refused: dict[Outcome, list[Tag]] = {}
        for outcome, tags in self._rows(answers, wall):
            if outcome.verdict is Verdict.ACCEPTED:
                self._settle_accepted(tags, now, wall)
            else:
                self._heed(outcome, now, wall, len(tags))
                refused.setdefault(outcome, []).extend(tags)
        if refused:
            self._refusals.settle(refused, now, wall)

    def _rows(self, answers: Sequence[Answer | Run], wall: float) -> list[tuple[Outcome, list[Tag]]]:
        """What follows each other and means the same; ids of accepted ones are kept."""
        rows: list[tuple[Outcome, list[Tag]]] = []
        row: list[Tag] = []
        former: Outcome | None = None
        known: dict[bytes, tuple[Plan, Answer, Outcome]] = {}
        for answer in answers:
            if isinstance(answer, Run) and self._accept_run(answer):
                if former is not ACCEPTED:
                    former, row = ACCEPTED, []
                    rows.append((former, row))
                row += answer.tags
                continue
            for one in answer.each() if isinstance(answer, Run) else (answer,):
                outcome = self._meaning(one, known, wall)
                if outcome is not former:
                    former, row = outcome, []
                    rows.append((outcome, row))
                row.append(one.tag)
        return rows

    def _meaning(self, answer: Answer, known: dict[bytes, tuple[Plan, Answer, Outcome]], wall: float) -> Outcome:
        """What an answer means; refusals that are alike are asked about once. An accepted one's id is kept."""
        tag, status, headers, body = answer
        flight, index = tag
        like = known.get(body)
        if like is not None and like[0] is flight.plan and like[1][1] == status and like[1][2] == headers:
            return like[2]
        outcome = self._outcome(answer, wall)
        if outcome.verdict is not Verdict.ACCEPTED:
            known[body] = flight.plan, answer, outcome
            return outcome
        if outcome.provider_id:
            flight.note(index).provider_id = outcome.provider_id
        return ACCEPTED

    def _outcome(self, answer: Answer, wall: float) -> Outcome:
        flight: Flight = answer.tag[0]
        try:
            return flight.plan.outcome(answer.status, answer.headers, answer.body, wall)
        except Exception as error:  # not to happen; but the answers behind it must not be lost with it
            return Outcome(Verdict.UNKNOWN, f"the answer was not understood: {type(error).__name__}")

    def _accept_run(self, run: Run) -> bool:
        """Keep the ids of accepted ones, 0.3 us each; False if each answer needs a look."""
        flight: Flight = run.tags[0][0]
        try:
            ids = flight.plan.provider_ids(run.alike)
        except Exception:
            return False
        if ids is None:
            return False
        for (flight, index), provider_id in zip(run.tags, ids, strict=True):
            if provider_id:
                flight.note(index).provider_id = provider_id
        return True

    def _settle_accepted(self, accepted: list[Tag], now: float, wall: float) -> None:
        """The hot one. 0.15 us each."""
        current: Flight | None = None
        run = 0
        for flight, index in accepted:
            if flight is not current:
                if current is not None:
                    self._accepted_run(current, run, now)
                current, run = flight, 0
                milliseconds = flight.age(wall)
                states, ages = flight.states, flight.milliseconds
            states[index] = State.ACCEPTED
            ages[index] = milliseconds
            run += 1
        if current is not None:
            self._accepted_run(current, run, now)

    def _accepted_run(self, flight: Flight, count: int, now: float) -> None:
        self._on_wire -= count
        self.tally.accepted += count
        flight.on_wire -= count
        flight.left -= count
        self.lane_metrics[flight.job.lane].outcome(Verdict.ACCEPTED, count=count)
        self.breaker.accepted(count, now)
        if self.governor.cut_short:
            self.governor.accepted(count, now)
        if not flight.left:
            self._finished(flight)

    def _heed(self, outcome: Outcome, now: float, wall: float, count: int = 1) -> None:
        """Whether the route may go on. A credential is minted anew once for all the answers that call it old."""
        if not self.breaker.answered(outcome, now, count):
            return
        self._yield(now)
        if self.breaker.suspicious:
            for doubtful in self.flights:
                doubtful.dead.clear()
        if outcome.remint:
            self.credential.renew(wall)
            self.pool.replace()
            self.quarantine.replace()
        if self.breaker.cause is Cause.CREDENTIAL and self.breaker.hold(now):
            self.signing.refuse(outcome.reason)
        if outcome.scope in (Scope.APP, Scope.CREDENTIAL):
            self._held(self, outcome.scope)

    def _yield(self, now: float) -> None:
        """A hold began: if it is for the service's sake, what follows it has to be less."""
        if self.breaker.cause in (Cause.UNAVAILABLE, Cause.THROTTLED):
            self.governor.cut(now)

    # Shared steps

    def again(self, flight: Flight, index: int) -> None:
        """A delivery that is on the wire, or was about to be, goes again as soon as it can."""
        self._on_wire -= 1
        flight.put_back(index)
        if flight in self.flights:
            self._lanes.add(flight)

    def put_off(self, lanes: Sequence[Lane]) -> None:
        """Deliveries of these classes are not on the wire any more, and wait for a retry."""
        self._on_wire -= len(lanes)
        for lane in set(lanes):
            self.lane_metrics[lane].retried(lanes.count(lane))

    def end(self, flight: Flight, index: int, state: State, milliseconds: int, reason: str) -> None:
        """A delivery that is on the wire, or was about to be, is done."""
        self._on_wire -= 1
        flight.finish(index, state, milliseconds, reason)
        if not flight.left:
            self._finished(flight)

    def _end_overdue(self, flight: Flight, wall: float) -> bool:
        """End what of an expired or cancelled job is not on the wire; whether it is one."""
        end = overdue(flight.job, flight.cancelled, wall)
        if end is None:
            return False
        ended = flight.abandon(end[0], flight.age(wall), end[1])
        if ended and not flight.left:
            self._finished(flight)
        return True

    def take_back(self, flight: Flight, index: int, outcome: Outcome) -> None:
        """A delivery that another credential was answered goes again as if it had not been sent."""
        self.lane_metrics[flight.job.lane].outcome(outcome.verdict, outcome.reason)
        self.again(flight, index)

    async def close(self, deadline: float) -> None:
        """As `Pool.close`."""
        ways = (self.pool, self.quarantine, *(() if self.exit is None else (self.exit,)))
        await asyncio.gather(*(way.close(deadline) for way in ways))

    def _run_out(self, flight: Flight) -> bool:
        """Keep back a flight whose lease has run out, as after a sleep: by now it may be on its way elsewhere."""
        if self._clock() < flight.lease.until:
            return False
        if flight.queued:
            flight.checkpointed_at = float("-inf")  # the loop's clock need not have seen the machine sleep
            self._lanes.remove(flight)
        return True

    def dialled(self, failure: DialFailure | None) -> None:
        self._route_metrics.handshake(Handshake.OK if failure is None else Handshake(failure.kind))

    def goaway(self, code: int, debug: bytes) -> None:
        """APNs says so what it thinks of a certificate: reconnecting again and again would not change its mind."""
        outcome = self.provider.farewell(debug)
        if outcome is not None:
            self._heed(outcome, self._loop.time(), time.time())


def _joined(parts: Sequence[Requests]) -> Requests:
    """Requests of one plan."""
    if len(parts) == 1:
        return parts[0]
    return Requests(
        parts[0].head,
        tuple(
            [value for column in columns for value in column]
            for columns in zip(*(part.fields for part in parts), strict=True)
        ),
        [body for part in parts for body in part.bodies],
        [tag for part in parts for tag in part.tags],
    )


def _lane(flight: Flight) -> Lane:
    return flight.job.lane
