"""What a soak judges by: the streamed ledger and the line through memory."""

from __future__ import annotations

import pytest

from bench.soak import Receipt, Sample, Streamed, _grows, _windows, line


def test_both_sides_of_a_delivery_cancel_out() -> None:
    """In either order; what is left over at the end is what only one side knows."""
    ledger = Streamed()
    ledger.accepted(3)
    ledger.taken("a", 1)
    for delivery in ("b", "a"):
        ledger.receipt(Receipt(delivery, "accepted"))
    ledger.receipt(Receipt("c", "rejected"))
    assert ledger.balance().missing == 1
    ledger.taken("b", 1)
    assert ledger.balance().clean
    assert ledger.balance().receipts == 3


@pytest.mark.parametrize("times", [1, 2])
def test_what_nobody_is_owed_and_what_came_twice_is_extra(times: int) -> None:
    ledger = Streamed()
    ledger.accepted(1)
    ledger.receipt(Receipt("a", "accepted"))
    ledger.taken("a", 1)
    ledger.taken("a", times)
    assert ledger.balance().extra == times
    assert not ledger.balance().clean


def test_receipts_that_are_lacking_or_surplus_are_counted() -> None:
    ledger = Streamed()
    ledger.accepted(2)
    ledger.receipt(Receipt("a", "expired"))
    assert ledger.balance().missing == 1
    ledger.receipt(Receipt("b", "expired"))
    ledger.receipt(Receipt("b", "expired"))
    assert ledger.balance().extra == 1


def test_a_line_has_its_slope_and_its_doubt() -> None:
    assert line([(0, 5.0), (1, 7.0), (2, 9.0)]) == pytest.approx((2.0, 0.0))
    slope, error = line([(0, 5.0), (1, 7.2), (2, 8.8), (3, 11.1)])
    assert slope == pytest.approx(1.99)
    assert 0 < error < 0.2
    assert line([(0, 5.0)]) == (0.0, 0.0)


def test_what_is_resident_for_a_moment_does_not_make_a_slope() -> None:
    """A leak of 36 MiB an hour does, under the same noise."""
    noise = [(20.0 if number % 17 == 0 else 0.0) for number in range(200)]
    flat = [Sample(float(number), 100 + extra, 0, 0, 0) for number, extra in enumerate(noise)]
    leak = [Sample(at, rss + at / 100, 0, 0, 0) for at, rss, *_ in flat]
    assert line(_windows(flat))[0] == pytest.approx(0.0, abs=0.1)
    assert line(_windows(leak))[0] == pytest.approx(36.0, rel=0.1)


@pytest.mark.parametrize(
    ("thirds", "grows"), [([30, 30, 30], False), ([30, 40, 50], True), ([30, 50, 40], False), ([30, 31, 32], False)]
)
def test_only_what_grows_all_the_time_is_a_leak(thirds: list[float], grows: bool) -> None:
    assert _grows(thirds) is grows
