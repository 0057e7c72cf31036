"""How fast a route may go."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.governor import BURST_SECONDS, Governor


def test_without_a_rate_nothing_is_limited() -> None:
    governor = Governor(None, 0.0)
    governor.spend(10**9)
    assert governor.room(0.0) == sys.maxsize


def test_a_pause_is_not_saved_up_for_longer_than_the_burst() -> None:
    governor = Governor(1000.0, 0.0)
    assert governor.room(3600.0) == 1000 * BURST_SECONDS


def test_what_was_not_sent_after_all_is_given_back() -> None:
    governor = Governor(100.0, 0.0)
    governor.spend(25)
    assert governor.room(0.0) == 0
    governor.spend(-5)
    assert governor.room(0.0) == 5


def test_a_rate_below_one_a_second_lets_one_go_now_and_then() -> None:
    governor = Governor(0.1, 0.0)
    governor.spend(governor.room(0.0))
    assert governor.room(9.9) == 0
    assert governor.room(10.1) == 1


@given(
    rate=st.floats(0.5, 20_000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 5000)), max_size=50),
)
def test_no_span_of_time_sees_more_than_its_share(rate: float, steps: list[tuple[float, int]]) -> None:
    """Whoever takes all there is, at whatever moments: never more than the rate plus one burst."""
    governor, now, spent = Governor(rate, 0.0), 0.0, 0
    for pause, wanted in steps:
        now += pause
        room = governor.room(now)
        assert room >= 0
        governor.spend(min(room, wanted))
        spent += min(room, wanted)
    assert spent <= max(1.0, rate * BURST_SECONDS) + rate * now + 1e-6
