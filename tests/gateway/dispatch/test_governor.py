"""How fast a route may go."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.governor import BURST_SECONDS, CUT, LEAST_SHARE, LEAST_STEP, RAMP, REMEMBERED, Governor


def test_without_a_rate_nothing_is_limited() -> None:
    governor = Governor(None, 0.0, random.Random(1))
    governor.spend(10**9)
    assert governor.room(0.0) == sys.maxsize


def test_a_pause_is_not_saved_up_for_longer_than_the_burst() -> None:
    governor = Governor(1000.0, 0.0, random.Random(1))
    assert governor.room(3600.0) == 1000 * BURST_SECONDS


def test_what_was_not_sent_after_all_is_given_back() -> None:
    governor = Governor(100.0, 0.0, random.Random(1))
    governor.spend(25)
    assert governor.room(0.0) == 0
    governor.spend(-5)
    assert governor.room(0.0) == 5


def test_a_rate_below_one_a_second_lets_one_go_now_and_then() -> None:
    governor = Governor(0.1, 0.0, random.Random(1))
    governor.spend(governor.room(0.0))
    assert governor.room(9.9) == 0
    assert governor.room(10.1) == 1


@given(
    rate=st.floats(0.5, 20_000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 5000)), max_size=50),
)
def test_no_span_of_time_sees_more_than_its_share(rate: float, steps: list[tuple[float, int]]) -> None:
    """Whoever takes all there is, at whatever moments: never more than the rate plus one burst."""
    governor, now, spent = Governor(rate, 0.0, random.Random(1)), 0.0, 0
    for pause, wanted in steps:
        now += pause
        room = governor.room(now)
        assert room >= 0
        governor.spend(min(room, wanted))
        spent += min(room, wanted)
    assert spent <= max(1.0, rate * BURST_SECONDS) + rate * now + 1e-6


class TestCut:
    """A service in trouble gets less, and more again step by step."""

    @staticmethod
    def used(rate: float | None, per_second: int, seconds: int = 3) -> Governor:
        """Of which so many a second were really sent."""
        governor = Governor(rate, 0.0, random.Random(1))
        for tenth in range(10 * seconds + 1):
            governor.room(tenth / 10)
            governor.spend(per_second // 10)
        return governor

    @pytest.mark.parametrize("rate", [None, 2000.0])
    def test_it_halves_what_was_sent_about(self, rate: float | None) -> None:
        """Not the configured rate, which may be far above."""
        governor = self.used(rate, 1000)
        governor.cut(3.0)
        assert governor.rate is not None
        assert 1000 * CUT[0] <= governor.rate <= 1000 * CUT[1]

    def test_several_processes_do_not_swing_together(self) -> None:
        rates = set()
        for seed in range(10):
            governor = Governor(1000.0, 0.0, random.Random(seed))
            governor.spend(1000)
            governor.cut(0.5)
            rates.add(governor.rate)
        assert len(rates) == 10

    def test_there_is_a_floor(self) -> None:
        governor = self.used(None, 1000)
        for hold in range(20):
            governor.cut(3.0 + hold)
        assert governor.rate == 1000 * LEAST_SHARE

    def test_a_low_configured_rate_is_its_own_floor(self) -> None:
        governor = Governor(2.0, 0.0, random.Random(1))
        governor.cut(1.0)
        assert governor.rate == 2.0
        assert not governor.cut_short

    @pytest.mark.parametrize(("rate", "per_second"), [(2000.0, 1800), (None, 6000)])
    def test_it_comes_back_by_a_step_a_second(self, rate: float | None, per_second: int) -> None:
        governor = self.used(rate, per_second)
        governor.cut(3.0)
        start, now, seen = governor.rate, 3.0, []
        assert start is not None
        for _ in range(100):
            now += 0.1
            room = governor.room(now)
            governor.spend(room)
            governor.accepted(room, now)
            seen.append(governor.rate)
        step = max(LEAST_STEP, per_second / RAMP)
        assert seen == sorted(seen, key=lambda rate: rate or 0.0)
        assert seen[-1] == pytest.approx(start + 10 * step, rel=0.05)

    @pytest.mark.parametrize("rate", [None, 2000.0])
    def test_silence_before_the_cut_is_not_what_it_comes_back_to(self, rate: float | None) -> None:
        """A service that stops answering is found out after seconds in which nothing could be sent."""
        governor, now = self.used(rate, 1800), 3.0
        for _ in range(200):
            now += 0.1
            governor.room(now)
        governor.cut(now)
        assert governor.rate == pytest.approx(1800 * LEAST_SHARE, rel=0.05)
        for _ in range(100):
            now += 0.1
            room = governor.room(now)
            governor.spend(room)
            governor.accepted(room, now)
        assert governor.rate == pytest.approx(1800 * LEAST_SHARE + 10 * 1800 / RAMP, rel=0.1)

    @pytest.mark.parametrize("pause", [0.0, 3600.0])
    def test_what_was_sent_minutes_ago_is_forgotten(self, pause: float) -> None:
        """Whether or not the route had anything to send since."""
        governor, now = self.used(None, 6000), 3.0 + pause
        for _ in range(5 if pause else 2 * int(REMEMBERED) + 5):
            now += 1.0
            governor.room(now)
            governor.spend(100)
        governor.cut(now)
        assert governor.rate is not None
        assert governor.rate <= 100 * CUT[1] + 1

    def test_a_flood_of_late_answers_raises_it_by_a_step_at_most(self) -> None:
        governor = self.used(None, 1000)
        for hold in range(10):
            governor.cut(3.0 + hold)
        before = governor.rate or 0.0
        for _ in range(100):
            governor.accepted(1000, 20.0)
        assert (governor.rate or 0.0) - before <= max(LEAST_STEP, 1000 / RAMP) + 1e-6

    def test_it_ends_at_the_configured_rate(self) -> None:
        governor, now = self.used(100.0, 100), 3.0
        governor.cut(now)
        assert governor.cut_short
        while governor.cut_short:
            now += 0.1
            room = governor.room(now)
            governor.spend(room)
            governor.accepted(room, now)
            assert now < 10.0
        assert governor.rate == 100.0

    def test_without_a_configured_one_it_ends_when_nobody_feels_it(self) -> None:
        governor, now = self.used(None, 30), 3.0
        governor.cut(now)
        while governor.cut_short:
            now += 0.1
            governor.room(now)
            governor.spend(3)
            governor.accepted(3, now)
            assert now < 30.0
        assert governor.room(now) == sys.maxsize
