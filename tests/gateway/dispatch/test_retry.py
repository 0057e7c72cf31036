"""What an outcome leads to."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.retry import TRIES_IN_DOUBT, Decision, History, Limits, decide, delay
from gateway.model import State
from providers.base import Outcome, Scope, Verdict

NOW = 1_800_000_000.0
LIMITS = Limits(max_attempts=3, backoff_floor=1.0, backoff_ceiling=60.0)


class Shortest(random.Random):
    """Jitter at its lower bound."""

    def uniform(self, a: float, b: float) -> float:
        return a


def judged(
    verdict: Verdict,
    *,
    attempts: int = 1,
    unanswered: int = 0,
    resend: bool = True,
    expires_in: float | None = None,
    retry_after: float | None = None,
    scope: Scope = Scope.APP,
    believed: bool = True,
) -> Decision:
    expires_at = None if expires_in is None else NOW + expires_in
    history = History(attempts, unanswered, resend, expires_at, believed)
    outcome = Outcome(verdict=verdict, retry_after=retry_after, scope=scope)
    return decide(outcome, history, NOW, LIMITS, Shortest())


def again(seconds: float) -> Decision:
    """Another try after so many seconds, at the jitter's lower bound."""
    return Decision(State.PENDING, NOW + seconds)


AT_ONCE = Decision(State.PENDING, NOW, counted=False)
TABLE = [
    # what the service said                    what matters of the past               what follows
    # -- a verdict is final, however late it comes
    (Verdict.ACCEPTED, {}, Decision(State.ACCEPTED)),
    (Verdict.ACCEPTED, {"attempts": 99, "expires_in": -1}, Decision(State.ACCEPTED)),
    (Verdict.REJECTED, {}, Decision(State.REJECTED)),
    (Verdict.REJECTED, {"attempts": 99, "expires_in": -1}, Decision(State.REJECTED)),
    (Verdict.UNREGISTERED, {}, Decision(State.INVALID_TOKEN)),
    (Verdict.UNREGISTERED, {"attempts": 99, "expires_in": -1}, Decision(State.INVALID_TOKEN)),
    # -- but a route that has proved nothing is asked again, and its word kills no target
    (Verdict.UNREGISTERED, {"believed": False}, again(0.5)),
    (Verdict.UNREGISTERED, {"believed": False, "attempts": TRIES_IN_DOUBT - 1}, again(1.0)),
    (Verdict.UNREGISTERED, {"believed": False, "attempts": TRIES_IN_DOUBT}, Decision(State.REJECTED)),
    (Verdict.UNREGISTERED, {"believed": False, "expires_in": 0.5}, Decision(State.REJECTED)),
    (Verdict.UNREGISTERED, {"believed": False, "expires_in": 0.6}, again(0.5)),
    # -- what was not processed goes again uncounted, as soon as its route may send
    (Verdict.UNSENT, {}, AT_ONCE),
    (Verdict.UNSENT, {"attempts": 99}, AT_ONCE),
    (Verdict.UNSENT, {"unanswered": 1, "resend": False}, AT_ONCE),
    (Verdict.CREDENTIAL, {}, AT_ONCE),
    (Verdict.CREDENTIAL, {"attempts": 99}, AT_ONCE),
    (Verdict.CREDENTIAL, {"scope": Scope.ORIGIN, "attempts": 99}, AT_ONCE),
    # -- unless the credential is wrong for this target alone, which then waits alone
    (
        Verdict.CREDENTIAL,
        {"scope": Scope.TARGET, "retry_after": 300, "attempts": 99},
        again(300)._replace(counted=False),
    ),
    (Verdict.CREDENTIAL, {"scope": Scope.TARGET}, again(0.5)._replace(counted=False)),
    # -- what may succeed later is tried again: as asked, or with back-off
    (Verdict.THROTTLED, {}, again(0.5)),
    (Verdict.THROTTLED, {"attempts": 2}, again(1.0)),
    (Verdict.THROTTLED, {"retry_after": 30}, again(30)),
    (Verdict.THROTTLED, {"retry_after": 30, "scope": Scope.TARGET}, again(30)),
    (Verdict.THROTTLED, {"retry_after": 0.1}, again(0.5)),
    (Verdict.UNAVAILABLE, {}, again(0.5)),
    (Verdict.UNAVAILABLE, {"attempts": 2}, again(1.0)),
    (Verdict.UNAVAILABLE, {"retry_after": 30}, again(30)),
    (Verdict.UNAVAILABLE, {"resend": False}, again(0.5)),
    # -- what may have been sent is sent again, or reported, as the job or its class says
    (Verdict.UNKNOWN, {"unanswered": 1}, again(0.5)),
    (Verdict.UNKNOWN, {"unanswered": 1, "resend": False}, Decision(State.UNKNOWN)),
    (Verdict.UNKNOWN, {"unanswered": 1, "resend": False, "attempts": 3}, Decision(State.UNKNOWN)),
    # -- the last attempt ends it; nobody knows of one that may have arrived
    (Verdict.THROTTLED, {"attempts": 3}, Decision(State.DEAD_LETTERED)),
    (Verdict.UNAVAILABLE, {"attempts": 3}, Decision(State.DEAD_LETTERED)),
    (Verdict.UNAVAILABLE, {"attempts": 3, "unanswered": 1}, Decision(State.UNKNOWN)),
    (Verdict.UNKNOWN, {"attempts": 3, "unanswered": 3}, Decision(State.UNKNOWN)),
    # -- nothing waits past its expiry
    (Verdict.THROTTLED, {"retry_after": 30, "expires_in": 30}, Decision(State.EXPIRED)),
    (Verdict.THROTTLED, {"retry_after": 30, "expires_in": 30.1}, again(30)),
    (Verdict.UNAVAILABLE, {"expires_in": 0.5}, Decision(State.EXPIRED)),
    (Verdict.UNAVAILABLE, {"expires_in": 0.6}, again(0.5)),
    (Verdict.UNAVAILABLE, {"expires_in": 0.5, "unanswered": 2}, Decision(State.UNKNOWN)),
    (Verdict.UNKNOWN, {"expires_in": 0.5, "unanswered": 1}, Decision(State.UNKNOWN)),
]


@pytest.mark.parametrize(("verdict", "past", "decision"), TABLE)
def test_what_follows(verdict: Verdict, past: dict[str, Any], decision: Decision) -> None:
    """The table is the rule. The budget is asked later, when a try is due, and of all deliveries at once."""
    assert judged(verdict, **past) == decision


def test_the_table_knows_every_verdict() -> None:
    assert {verdict for verdict, _, _ in TABLE} == set(Verdict)


delays = st.floats(0.01, 3600)
attempts = st.integers(1, 2000)
seeds = st.integers()


@given(asked=st.floats(0, 86_400), attempts=attempts, floor=delays, ceiling=delays, seed=seeds)
def test_a_wait_that_was_asked_for_is_never_cut_short(
    asked: float, attempts: int, floor: float, ceiling: float, seed: int
) -> None:
    limits = Limits(20, floor, ceiling)
    seconds = delay(asked, attempts, limits, random.Random(seed))
    assert asked <= seconds <= 1.25 * max(asked, ceiling)


@given(attempts=attempts, floor=delays, ceiling=delays, seed=seeds)
def test_back_off_doubles_up_to_its_ceiling_and_is_spread(
    attempts: int, floor: float, ceiling: float, seed: int
) -> None:
    whole = min(ceiling, floor * 2.0 ** min(attempts - 1, 30))
    assert whole / 2 <= delay(None, attempts, Limits(20, floor, ceiling), random.Random(seed)) <= whole


def test_not_everybody_comes_back_at_once() -> None:
    jitter = random.Random(7)
    for asked in (None, 30.0):
        assert len({round(delay(asked, 4, LIMITS, jitter), 1) for _ in range(100)}) > 20


@given(
    verdict=st.sampled_from(Verdict),
    attempts=st.integers(1, 5),
    unanswered=st.integers(0, 5),
    resend=st.booleans(),
    expires_in=st.none() | st.floats(-10, 100),
    retry_after=st.none() | st.floats(0, 100),
)
def test_a_decision_is_a_receipt_or_a_try_in_time(
    verdict: Verdict,
    attempts: int,
    unanswered: int,
    resend: bool,
    expires_in: float | None,
    retry_after: float | None,
) -> None:
    """Whatever comes together: no retry before its time, after the expiry, or beyond the attempts."""
    decision = judged(
        verdict,
        attempts=attempts,
        unanswered=unanswered,
        resend=resend,
        expires_in=expires_in,
        retry_after=retry_after,
    )
    assert decision.state is State.PENDING or decision.state >= State.ACCEPTED
    if decision.state is State.PENDING and decision.counted:
        assert attempts < LIMITS.max_attempts
        assert decision.retry_at >= NOW + (retry_after or 0)
        assert expires_in is None or decision.retry_at < NOW + expires_in
