"""What is looked at now and then is looked at together."""

from __future__ import annotations

import pytest

from gateway.beat import following


@pytest.mark.parametrize(
    ("now", "period", "then"),
    [(10.0, 0.1, 10.1), (10.03, 0.1, 10.1), (10.06, 0.05, 10.1), (10.0995, 0.1, 10.2), (10.3, 0.5, 10.5)],
)
def test_the_next_beat(now: float, period: float, then: float) -> None:
    """The next multiple of the period; one that all but is here was this one, from which the timer came early."""
    assert following(now, period) == pytest.approx(then)


@pytest.mark.parametrize("now", [7.0, 7.02, 7.049, 7.051, 7.0999])
def test_longer_periods_end_with_shorter_ones(now: float) -> None:
    """Whenever they begin: so what has them wakes the process together."""
    ends = [following(now, 0.05)]
    while ends[-1] < following(now, 0.2) - 0.01:
        ends.append(following(ends[-1], 0.05))
    assert ends[-1] == pytest.approx(following(now, 0.2))
