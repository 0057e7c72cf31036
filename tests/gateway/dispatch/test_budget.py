"""How much of a route's traffic may be retries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.budget import BURST, MEMORY, Budget


def test_a_quiet_route_retries_a_few_a_second() -> None:
    budget = Budget(0.2, 10.0, 0.0)
    assert budget.room(0.0) == 10
    budget.spend(10)
    assert (budget.room(0.0), budget.room(0.5)) == (0, 5)


def test_what_a_quiet_route_saves_up_is_bounded() -> None:
    assert Budget(0.2, 10.0, 0.0).room(86_400.0) == 10 * BURST


def test_first_sends_earn_a_share() -> None:
    budget = Budget(0.2, 10.0, 0.0)
    budget.earn(1000)
    assert budget.room(0.0) == 210


def test_a_retry_long_after_its_first_send_is_earned_still() -> None:
    """Services ask for a minute, and back-off grows to a quarter of an hour."""
    budget = Budget(0.2, 10.0, 0.0)
    budget.earn(1000)
    assert budget.room(60.0) > 270
    assert budget.room(MEMORY) == pytest.approx(100 + 200 / 2.718, abs=1)


def test_an_hour_of_success_saves_up_no_storm() -> None:
    budget = Budget(0.2, 10.0, 0.0)
    for second in range(3600):
        budget.room(float(second))
        budget.earn(100)
    assert budget.room(3600.0) < MEMORY * 100 * 0.2 + 100


@given(
    share=st.floats(0, 1),
    floor=st.floats(0.1, 100),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5000), st.integers(0, 5000)), max_size=50),
)
def test_retries_are_never_more_than_the_share_and_the_floor(
    share: float, floor: float, steps: list[tuple[float, int, int]]
) -> None:
    """Whoever retries all that may be, at whatever moments."""
    budget, now, sent, retried = Budget(share, floor, 0.0), 0.0, 0, 0
    for pause, first, wanted in steps:
        now += pause
        room = budget.room(now)
        assert room >= 0
        budget.spend(min(room, wanted))
        retried += min(room, wanted)
        budget.earn(first)
        sent += first
        assert retried <= share * sent + floor * (now + 1) + 1e-6
