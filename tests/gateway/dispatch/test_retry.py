"""What an outcome leads to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.retry import Decision, History, Limits, decide, delay
from gateway.model import State
from providers.base import Outcome, Verdict

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
) -> Decision:
    expires_at = None if expires_in is None else NOW + expires_in
    history = History(attempts, unanswered, resend, expires_at)
    return decide(Outcome(verdict=verdict, retry_after=retry_after), history, NOW, LIMITS, Shortest())


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Verdict.ACCEPTED, State.ACCEPTED),
        (Verdict.REJECTED, State.REJECTED),
        (Verdict.UNREGISTERED, State.INVALID_TOKEN),
    ],
)
@pytest.mark.parametrize("attempts", [1, 3, 99])
@pytest.mark.parametrize("expires_in", [None, -1.0])
def test_a_verdict_is_final_however_late_it_comes(
    verdict: Verdict, state: State, attempts: int, expires_in: float | None
) -> None:
    assert judged(verdict, attempts=attempts, expires_in=expires_in).state is state


@pytest.mark.parametrize("verdict", [Verdict.UNSENT, Verdict.CREDENTIAL])
@pytest.mark.parametrize("attempts", [1, 3, 99])
def test_what_was_not_processed_goes_again_uncounted(verdict: Verdict, attempts: int) -> None:
    assert judged(verdict, attempts=attempts) == Decision(State.PENDING, NOW, counted=False)


RETRIED = [Verdict.THROTTLED, Verdict.UNAVAILABLE, Verdict.UNKNOWN]


@pytest.mark.parametrize("verdict", RETRIED)
@pytest.mark.parametrize(("attempts", "least"), [(1, 0.5), (2, 1.0)])
def test_what_may_succeed_later_is_tried_again(verdict: Verdict, attempts: int, least: float) -> None:
    assert judged(verdict, attempts=attempts) == Decision(State.PENDING, NOW + least)


@pytest.mark.parametrize("verdict", RETRIED)
@pytest.mark.parametrize(("unanswered", "state"), [(0, State.DEAD_LETTERED), (1, State.UNKNOWN)])
def test_the_last_attempt_ends_it(verdict: Verdict, unanswered: int, state: State) -> None:
    """One that may have reached the device is not called dead-lettered: nobody knows."""
    assert judged(verdict, attempts=3, unanswered=unanswered).state is state


@pytest.mark.parametrize("verdict", RETRIED)
@pytest.mark.parametrize(("unanswered", "state"), [(0, State.EXPIRED), (2, State.UNKNOWN)])
def test_nothing_waits_past_its_expiry(verdict: Verdict, unanswered: int, state: State) -> None:
    assert judged(verdict, unanswered=unanswered, expires_in=0.5).state is state
    assert judged(verdict, unanswered=unanswered, expires_in=0.6).state is State.PENDING


@pytest.mark.parametrize("attempts", [1, 3])
def test_an_unknown_one_is_reported_where_the_job_says_so(attempts: int) -> None:
    assert judged(Verdict.UNKNOWN, attempts=attempts, unanswered=1, resend=False).state is State.UNKNOWN


@pytest.mark.parametrize("verdict", [Verdict.THROTTLED, Verdict.UNAVAILABLE])
def test_on_unknown_says_nothing_about_answers(verdict: Verdict) -> None:
    assert judged(verdict, resend=False).state is State.PENDING


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
