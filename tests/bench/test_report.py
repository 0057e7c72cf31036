"""What reports make of figures."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bench import report


def run(cost: float, rate: float = 1.0, clean: bool = True) -> dict[str, Any]:
    return {"gateway_cpu_us": cost, "per_second": rate, "clean": clean}


def test_the_median_run_is_shown_with_the_spread_over_all() -> None:
    shown = report.median([run(3.0, 30), run(1.0, 10), run(2.0, 20)])
    assert shown["gateway_cpu_us"] == 2.0
    assert shown["repeat"] == 3
    assert shown["spread"]["gateway_cpu_us"] == {"median": 2.0, "min": 1.0, "max": 3.0, "all": [3.0, 1.0, 2.0]}
    assert shown["spread"]["per_second"]["median"] == 20


def test_one_run_that_is_not_clean_spoils_the_median() -> None:
    """A fast run that loses or doubles a notification is a failed run, whichever is shown."""
    assert not report.median([run(1.0), run(2.0), run(3.0, clean=False)])["clean"]


def test_a_single_run_is_its_own_report() -> None:
    assert report.median([run(1.5)]) == run(1.5)


@settings(max_examples=25)
@given(st.lists(st.floats(0.001, 10_000), min_size=1))
def test_a_distribution_rises_and_ends_at_the_largest(milliseconds: list[float]) -> None:
    """Within the histogram's three significant digits."""
    points = report.distribution(milliseconds)
    values = [ms for _, ms in points]
    assert values == sorted(values)
    assert points[-1][0] == 100
    assert abs(values[-1] - max(milliseconds)) <= max(milliseconds) / 500 + 0.001
