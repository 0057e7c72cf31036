"""What an outcome leads to: a receipt, or another try, when. Pure.

When a try that is due really goes is the budget's question (`gateway.dispatch.budget`), which asks all of a route's
deliveries at once; whether anything of the route goes at all is the breaker's.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from gateway.model import State
from gateway.policy.screening import given_up
from providers.base import Outcome, Scope, Verdict


class Limits(NamedTuple):
    """How long we go on trying; delays in seconds. A first wait is between half of the floor and all of it."""

    max_attempts: int = 20
    backoff_floor: float = 1.0
    backoff_ceiling: float = 900.0


class History(NamedTuple):
    """What matters of a delivery's past; the attempt being judged is counted in."""

    attempts: int
    unanswered: int
    resend_unknown: bool
    """What the job, or else its class, wants of what may have been sent."""
    expires_at: float | None
    believed: bool = True
    """Whether the service's word that the target is dead is (see `Breaker.believes`)."""


class Decision(NamedTuple):
    """`state` PENDING means another try at `retry_at` (UNIX seconds), which is counted only if `counted`."""

    state: State
    retry_at: float = 0.0
    counted: bool = True


FINAL = {
    Verdict.ACCEPTED: State.ACCEPTED,
    Verdict.REJECTED: State.REJECTED,
    Verdict.UNREGISTERED: State.INVALID_TOKEN,
}

NOT_PROCESSED = (Verdict.UNSENT, Verdict.CREDENTIAL)
"""The service did nothing with the delivery, and nothing is wrong with it: it is not counted as tried and goes again
as soon as its route may send, which is the breaker's question. Where a credential is wrong for its target alone, it
waits by itself."""

TRIES_IN_DOUBT = 3
"""Of a delivery whose target is called dead by a service that is not believed. After that the delivery is rejected;
its target lives on."""


def decide(outcome: Outcome, history: History, now: float, limits: Limits, jitter: random.Random) -> Decision:
    """Judge an outcome at `now` (UNIX seconds)."""
    if outcome.verdict is Verdict.UNREGISTERED and not history.believed:
        return _doubt(outcome, history, now, limits, jitter)
    final = FINAL.get(outcome.verdict)
    if final is not None:
        return Decision(final)
    if outcome.verdict in NOT_PROCESSED:
        alone = outcome.verdict is Verdict.CREDENTIAL and outcome.scope is Scope.TARGET
        wait = delay(outcome.retry_after, history.attempts, limits, jitter) if alone else 0.0
        return Decision(State.PENDING, now + wait, counted=False)
    if outcome.verdict is Verdict.UNKNOWN and not history.resend_unknown:
        return Decision(State.UNKNOWN)
    if history.attempts >= limits.max_attempts:
        return Decision(given_up(State.DEAD_LETTERED, history.unanswered))
    retry_at = now + delay(outcome.retry_after, history.attempts, limits, jitter)
    if history.expires_at is not None and retry_at >= history.expires_at:
        return Decision(given_up(State.EXPIRED, history.unanswered))
    return Decision(State.PENDING, retry_at)


def _doubt(outcome: Outcome, history: History, now: float, limits: Limits, jitter: random.Random) -> Decision:
    retry_at = now + delay(None, history.attempts, limits, jitter)
    late = history.expires_at is not None and retry_at >= history.expires_at
    if late or history.attempts >= min(TRIES_IN_DOUBT, limits.max_attempts):
        return Decision(State.REJECTED)
    return Decision(State.PENDING, retry_at)


def delay(retry_after: float | None, attempts: int, limits: Limits, jitter: random.Random) -> float:
    """Seconds to the next try: what the service asked for, or exponential back-off, both spread out upwards.

    A wait that a service asked for is never cut short, and not met by everybody in the same second.
    """
    backoff: float = min(limits.backoff_ceiling, limits.backoff_floor * 2.0 ** min(attempts - 1, 30))
    if retry_after is None:
        return jitter.uniform(backoff / 2, backoff)
    return jitter.uniform(1.0, 1.25) * max(retry_after, backoff / 2)
