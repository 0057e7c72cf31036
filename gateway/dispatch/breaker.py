"""Whether a route may send at all: held after signs that further requests would only do harm.

A hold ends by itself; then one request goes first (the probe), and its answer decides whether the others follow.
Nothing is lost by a hold: the route's jobs wait, or expire.
"""

from __future__ import annotations

import enum

from providers.base import Outcome, Scope, Verdict

FAILURES_TO_HOLD = 20
"""UNAVAILABLE answers in a row that make a service count as down. Single ones are the delivery's own retries."""

UNAVAILABLE_FLOOR = 1.0
UNAVAILABLE_CEILING = 60.0
CREDENTIAL_HOLD = 60.0
REMINT_HOLD = 0.0
THROTTLED_HOLD = 1.0
MISCONFIGURED_HOLD = 300.0

GUARD_WINDOW = 60.0
GUARD_ANSWERS = 500


class Cause(enum.Enum):
    """Why a route is held."""

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    CREDENTIAL = "credential"
    MISCONFIGURED = "misconfigured"


class Breaker:
    """Judges a route's outcomes. Times are the loop's, in seconds."""

    def __init__(self, max_dead_share: float) -> None:
        """`max_dead_share`: more dead targets than this among a minute's answers is taken for a wrong
        configuration (another environment's tokens, another project's), and nothing is invalidated by it."""
        self.cause: Cause | None = None
        self.reason = ""
        self._max_dead_share = max_dead_share
        self._until = 0.0
        self._probing = False
        self._failures = 0
        self._holds = 0
        self._window_start = 0.0
        self._answers = 0
        self._dead = 0

    @property
    def suspicious(self) -> bool:
        """Whether the service's word that targets are dead is in doubt."""
        return self.cause is Cause.MISCONFIGURED

    def held(self, now: float) -> bool:
        return self.cause is not None and now < self._until

    def allowance(self, now: float, in_flight: int) -> int | None:
        """How many may go now: None for no limit, 0 while held, 1 for the probe."""
        if self.cause is None:
            return None
        if now < self._until:
            return 0
        self._probing = True
        return 0 if in_flight else 1

    def accepted(self, count: int, now: float) -> None:
        self._failures = 0
        self._count(count, 0, now)
        if self._probing:
            self._release()

    def answered(self, outcome: Outcome, now: float) -> None:
        """Take note of one outcome that is not plain acceptance."""
        verdict = outcome.verdict
        if verdict is Verdict.UNAVAILABLE:
            self._failures += 1
            if self._failures >= FAILURES_TO_HOLD or self._probing:
                self._hold(Cause.UNAVAILABLE, outcome.reason, self._backoff(), now)
            return
        if verdict is Verdict.CREDENTIAL:
            hold = REMINT_HOLD if outcome.remint and not self._probing else CREDENTIAL_HOLD
            self._hold(Cause.CREDENTIAL, outcome.reason, outcome.retry_after or hold, now)
            return
        if verdict is Verdict.THROTTLED and outcome.scope is not Scope.TARGET:
            self._hold(Cause.THROTTLED, outcome.reason, outcome.retry_after or THROTTLED_HOLD, now)
            return
        if verdict in (Verdict.UNSENT, Verdict.UNKNOWN):
            return
        self._failures = 0
        self._count(1, int(verdict is Verdict.UNREGISTERED), now)
        if self._probing and self.cause is not Cause.MISCONFIGURED:
            self._release()

    def _hold(self, cause: Cause, reason: str, seconds: float, now: float) -> None:
        # Of many answers that tell of the same trouble the first one starts the hold, later ones do not prolong it.
        if self.cause is None or self._probing:
            self._holds += 1
            self._until = now + seconds
            self.cause, self.reason = cause, reason
            self._probing = False

    def _release(self) -> None:
        self.cause = None
        self.reason = ""
        self._probing = False
        self._failures = self._holds = 0

    def _backoff(self) -> float:
        return min(UNAVAILABLE_CEILING, UNAVAILABLE_FLOOR * 2.0 ** min(self._holds, 30))

    def _count(self, answers: int, dead: int, now: float) -> None:
        if now - self._window_start > GUARD_WINDOW:
            self._window_start, self._answers, self._dead = now, 0, 0
        self._answers += answers
        self._dead += dead
        if dead and self._answers >= GUARD_ANSWERS and self._dead > self._max_dead_share * self._answers:
            self._window_start = now - GUARD_WINDOW - 1
            self._hold(
                Cause.MISCONFIGURED, f"{self._dead} of {self._answers} targets are dead", MISCONFIGURED_HOLD, now
            )
