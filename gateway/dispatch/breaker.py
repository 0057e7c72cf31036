"""Whether a route may send at all: held after signs that further requests would only do harm.

A hold ends by itself; then, once nothing else is on the wire, one request goes first (the probe), so that the next
answer is its own. That answer decides whether the others follow. Nothing is lost by a hold: the route's jobs wait, or
expire.
"""

from __future__ import annotations

import enum

from providers.base import Outcome, Scope, Verdict

FAILURES_TO_HOLD = 20
"""UNAVAILABLE answers in a row that make a service count as down. Single ones are the delivery's own retries."""

SILENCE = 10.0
"""Seconds without any answer after which requests that end without one count as failures too. While others are
answered, they are the trouble of their connection."""

THROTTLED_TO_HOLD = 20
"""Answers in a row that say "too many" and not of whom. Among others they concern a target; alone, everybody."""

UNSENT_TO_HOLD = 3000
"""Requests in a row that come back unprocessed, without an answer between them: three connections full of them."""

UNAVAILABLE_FLOOR = 1.0
UNAVAILABLE_CEILING = 20.0
"""So that a service that is back is found within half a minute, however long it was gone."""
CREDENTIAL_HOLD = 60.0
REMINT_HOLD = 0.0
MISCONFIGURED_HOLD = 300.0

GUARD_WINDOW = 60.0
GUARD_ANSWERS = 500
UNPROVEN_ANSWERS = 50
"""The guard's answers where a wrong setting is answered like a dead target, on a route that has never had anything
accepted: so many without one prove enough."""


class Cause(enum.Enum):
    """Why a route is held."""

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    CREDENTIAL = "credential"
    MISCONFIGURED = "misconfigured"


_GRAVITY = {Cause.UNAVAILABLE: 0, Cause.THROTTLED: 0, Cause.CREDENTIAL: 1, Cause.MISCONFIGURED: 2}
"""Time alone cures the first two, an operator has to cure the others."""


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
        self._unsent = 0
        self._throttled = 0
        self._proven = False
        self._accepted_at = float("-inf")
        self._holds = 0
        self._heard_at = float("-inf")
        self._window_start = float("-inf")
        self._answers = 0
        self._dead = 0

    def believes(self, outcome: Outcome) -> bool:
        """Whether the service's word that a target is dead may be acted on.

        Where a wrong setting would be answered in the same way, as another environment's tokens are, not before the
        service has accepted something.
        """
        return not self.suspicious and (self._proven or not outcome.ambiguous)

    @property
    def suspicious(self) -> bool:
        """Whether the service's word that targets are dead is in doubt."""
        return self.cause is Cause.MISCONFIGURED

    def hold(self, now: float) -> float | None:
        """Seconds until anything may go; None where nothing is amiss."""
        return max(0.0, self._until - now) if self.cause is not None else None

    def allowance(self, now: float, on_wire: int) -> int | None:
        """How many may go now: None for no limit, 0 while held, 1 for the probe (see `probe`)."""
        if self.cause is None:
            return None
        return 0 if now < self._until or on_wire else 1

    def probe(self) -> None:
        """The one request goes; it is alone on the wire."""
        self._probing = True

    def accepted(self, count: int, now: float) -> None:
        self._proven = True
        self._accepted_at = now
        self._throttled = 0
        self._judged(count, 0, now)

    def answered(self, outcome: Outcome, now: float, count: int = 1) -> bool:
        """Take note of what so many answers in a row mean that are not plain acceptance; whether a hold begins."""
        verdict, asked = outcome.verdict, outcome.retry_after or 0.0
        if verdict is Verdict.UNKNOWN:
            silent = now - self._heard_at > SILENCE
            return (silent or self._probing) and self._failed(outcome.reason, asked, now, count)
        self._heard(now)
        self._throttled = self._in_a_row(self._throttled, count, now) if verdict is Verdict.THROTTLED else 0
        if verdict in (Verdict.UNAVAILABLE, Verdict.UNSENT):
            return self._failed(outcome.reason, asked, now, count)
        if verdict is Verdict.CREDENTIAL and outcome.scope is not Scope.TARGET:
            return self._refused(outcome, asked, now)
        if verdict is Verdict.THROTTLED and self._everybody(outcome.scope):
            return self._hold(Cause.THROTTLED, outcome.reason, 0.0 if asked else self._backoff(), asked, now)
        return self._judged(count, count * (verdict is Verdict.UNREGISTERED), now, outcome.ambiguous)

    def unsent(self, count: int, now: float) -> bool:
        """Requests came back unprocessed (REFUSED_STREAM, GOAWAY). They go again at once, but not for ever: whether a
        hold begins by it."""
        self._unsent += count
        if self._unsent < UNSENT_TO_HOLD and not self._probing:
            return False
        return self._hold(Cause.UNAVAILABLE, "requests come back unprocessed", self._backoff(), 0.0, now)

    def join(self, other: Breaker, now: float) -> bool:
        """A route that shares what is in trouble began a hold; whether one begins here by it.

        This one probes for itself afterwards: what they share may have been cured for one of them only.
        """
        remaining = other.hold(now)
        if other.cause is None or not remaining:
            return False
        return self._hold(other.cause, other.reason, remaining, 0.0, now)

    def forgive(self) -> None:
        """Another credential signs from now on: what was held for the former one's sake goes, and proves itself."""
        self._proven = False
        if self.cause in (Cause.CREDENTIAL, Cause.MISCONFIGURED):
            self._release()
            self._until = 0.0
            self._window_start = float("-inf")

    def _refused(self, outcome: Outcome, asked: float, now: float) -> bool:
        if outcome.remint and not self._probing:
            return self._hold(Cause.CREDENTIAL, outcome.reason, REMINT_HOLD, asked, now)
        self._proven = False  # whatever the operator changes has to prove itself anew
        return self._hold(Cause.CREDENTIAL, outcome.reason, CREDENTIAL_HOLD, asked, now)

    def _everybody(self, scope: Scope) -> bool:
        """Whether being throttled concerns more than the target."""
        if scope is Scope.UNNAMED:
            return self._throttled >= THROTTLED_TO_HOLD or self._probing
        return scope is not Scope.TARGET

    def _heard(self, now: float) -> None:
        self._heard_at = now
        self._unsent = 0

    def _judged(self, answers: int, dead: int, now: float, ambiguous: bool = False) -> bool:
        """The service did its work and judged deliveries."""
        self._heard(now)
        self._failures = 0
        self._count(answers, dead, now)
        enough = UNPROVEN_ANSWERS if ambiguous and not self._proven else GUARD_ANSWERS
        if self._dead > self._max_dead_share * self._answers and self._answers >= enough:
            return self._suspect(f"{self._dead} of {self._answers} targets are dead", now)
        if self._probing and dead and self.suspicious:
            return self._suspect(self.reason, now)
        if self._probing:
            self._release()
        return False

    def _failed(self, reason: str, asked: float, now: float, count: int) -> bool:
        self._failures = self._in_a_row(self._failures, count, now)
        if self._failures < FAILURES_TO_HOLD and not self._probing:
            return False
        return self._hold(Cause.UNAVAILABLE, reason, self._backoff(), asked, now)

    def _in_a_row(self, so_far: int, count: int, now: float) -> int:
        """So many of a kind, and `count` more. Among acceptances of the same read nobody knows which came between."""
        return 1 if now == self._accepted_at else so_far + count

    def _suspect(self, reason: str, now: float) -> bool:
        self._window_start = float("-inf")
        return self._hold(Cause.MISCONFIGURED, reason, MISCONFIGURED_HOLD, 0.0, now)

    def _hold(self, cause: Cause, reason: str, seconds: float, asked: float, now: float) -> bool:
        """Hold for so many seconds, and as long as the service asked for; whether that begins a hold.

        Of many answers that tell of the same trouble the first one begins the hold; later ones prolong it only as far
        as they ask for. A graver cause takes over; suspicion ends only by a target that is not dead.
        """
        begins = self.cause is None or self._probing or _GRAVITY[cause] > _GRAVITY[self.cause]
        if begins:
            self._holds += 1
            self._probing = False
            if not self.suspicious:
                self.cause, self.reason = cause, reason
        self._until = max(self._until, now + asked, now + seconds if begins else 0.0)
        return begins

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
