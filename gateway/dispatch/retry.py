"""What an outcome leads to: a receipt, or another try, when. Pure."""

from __future__ import annotations

import random
from typing import NamedTuple

from gateway.model import State
from gateway.policy.screening import given_up
from providers.base import Outcome, Verdict


class Limits(NamedTuple):
    """How long we go on trying; delays in seconds."""

    max_attempts: int = 20
    backoff_floor: float = 1.0
    backoff_ceiling: float = 900.0


class History(NamedTuple):
    """What matters of a delivery's past; the attempt being judged is counted in."""

    attempts: int
    unanswered: int
    resend_unknown: bool
    expires_at: float | None


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
"""The service did nothing with the delivery, and nothing is wrong with it: it goes again at once and is not counted
as tried. Whether its route may send is the breaker's question."""


def decide(outcome: Outcome, history: History, now: float, limits: Limits, jitter: random.Random) -> Decision:
    """Judge an outcome at `now` (UNIX seconds)."""
    final = FINAL.get(outcome.verdict)
    if final is not None:
        return Decision(final)
    if outcome.verdict in NOT_PROCESSED:
        return Decision(State.PENDING, now, counted=False)
    if outcome.verdict is Verdict.UNKNOWN and not history.resend_unknown:
        return Decision(State.UNKNOWN)
    if history.attempts >= limits.max_attempts:
        return Decision(given_up(State.DEAD_LETTERED, history.unanswered))
    retry_at = now + delay(outcome.retry_after, history.attempts, limits, jitter)
    if history.expires_at is not None and retry_at >= history.expires_at:
        return Decision(given_up(State.EXPIRED, history.unanswered))
    return Decision(State.PENDING, retry_at)


def delay(retry_after: float | None, attempts: int, limits: Limits, jitter: random.Random) -> float:
    """Seconds to the next try: what the service asked for, or exponential back-off, both spread out upwards.

    A wait that a service asked for is never cut short, and not met by everybody in the same second.
    """
    backoff: float = min(limits.backoff_ceiling, limits.backoff_floor * 2.0 ** min(attempts - 1, 30))
    if retry_after is None:
        return jitter.uniform(backoff / 2, backoff)
    return jitter.uniform(1.0, 1.25) * max(retry_after, backoff / 2)
