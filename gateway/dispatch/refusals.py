"""What answers that are not acceptance lead to for the deliveries that got them: a receipt each, or another try.

A service says "too many" thousands of times in the same words. So answers come in here by their meaning, those of a
read of a connection together, and whatever they have in common is found out once. Whether their route goes on was
decided before (`Sender.settle`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gateway.dispatch.quarantine import POISON_CUTS, POISONOUS
from gateway.dispatch.retry import History, Limits, decide
from gateway.http2.results import Tag
from gateway.model import Lane, State
from gateway.queue.base import DeadTarget
from providers.base import Outcome, Verdict

if TYPE_CHECKING:
    from gateway.dispatch.sender import Sender

DOUBTED = "not believed while nothing of its route is accepted"


class _Moment(NamedTuple):
    """One moment on three clocks."""

    now: float
    """The loop's."""
    wall: float
    """UNIX seconds."""
    queue: float
    """`Queue.time`."""


class Refusals:
    """A sender's; what it decides, it carries out on the flights."""

    def __init__(self, sender: Sender, limits: Limits, jitter: random.Random, clock: Callable[[], float]) -> None:
        """`clock` is `Queue.time`."""
        self._sender = sender
        self._limits = limits
        self._jitter = jitter
        self._clock = clock

    def settle(self, refused: Mapping[Outcome, list[Tag]], now: float, wall: float) -> None:
        """Deliveries that are on the wire; `now` is the loop's time, `wall` the same moment in UNIX seconds."""
        at = _Moment(now, wall, self._clock())
        for outcome, tags in refused.items():
            self._count(outcome, tags)
            if outcome.verdict is Verdict.UNREGISTERED and self._sender.breaker.believes(outcome):
                self._bury(outcome, tags, wall)
            else:
                self._judge(outcome, tags, at)

    def _count(self, outcome: Outcome, tags: list[Tag]) -> None:
        self._sender.tally.failed += len(tags)
        for lane, count in Counter([flight.job.lane for flight, _ in tags]).items():
            self._sender.lane_metrics[lane].outcome(outcome.verdict, outcome.reason, count)

    def _judge(self, outcome: Outcome, tags: list[Tag], at: _Moment) -> None:
        unanswered = outcome.verdict is Verdict.UNKNOWN
        believed = self._sender.breaker.believes(outcome)
        waiting: list[Lane] = []
        for flight, index in tags:
            note, job = flight.note(index), flight.job
            note.unanswered += unanswered
            if unanswered and note.cuts >= POISON_CUTS:
                self._sender.end(flight, index, State.UNKNOWN, flight.age(at.wall), POISONOUS)
                continue
            history = History(note.attempts, note.unanswered, job.resend_unknown, job.expires_at, believed)
            state, retry_at, counted = decide(outcome, history, at.wall, self._limits, self._jitter)
            if state is not State.PENDING:
                doubted = outcome.verdict is Verdict.UNREGISTERED
                reason = f"{outcome.reason}, {DOUBTED}" if doubted else outcome.reason
                self._sender.end(flight, index, state, flight.age(at.wall), reason)
                continue
            wait = retry_at - at.wall
            if wait <= 0:
                self._sender.again(flight, index)
                continue
            note.attempts += counted
            note.reason = outcome.reason
            note.retry_at = at.queue + wait
            # What may have cut its connection goes apart from its neighbours.
            flight.put_off(index, at.now + wait if unanswered else flight.step(at.now, wait))
            waiting.append(job.lane)
        self._sender.put_off(waiting)

    def _bury(self, outcome: Outcome, tags: list[Tag], wall: float) -> None:
        """Dead targets. A verdict older than the target's registration is about a former life of it."""
        since = outcome.dead_since if outcome.dead_since is not None else wall
        for (flight, index), key in zip(tags, self._keys(tags), strict=True):
            registered = flight.registered[index]
            if registered and float(registered) > since:
                reason = f"{outcome.reason} before it was registered"
                self._sender.end(flight, index, State.REJECTED, flight.age(wall), reason)
                continue
            flight.dead.append(DeadTarget(key, since, outcome.reason))
            self._sender.end(flight, index, State.INVALID_TOKEN, flight.age(wall), outcome.reason)

    def _keys(self, tags: list[Tag]) -> list[bytes]:
        columns = zip(*([column[index] for column in flight.targets] for flight, index in tags), strict=True)
        sender = self._sender
        return sender.provider.registered_keys(sender.route.place, tuple(map(list, columns)))
