"""The push services' answers say what time it is."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dispatch.skew import Skew
from gateway.observe.health import Readiness

NOON = 1_800_014_400.0
DATE = ((b"content-type", b"text/plain"), (b"date", b"Fri, 15 Jan 2027 12:00:00 GMT"))


class Gauge:
    def __init__(self) -> None:
        self.skew: float | None = None

    def clock_skew(self, seconds: float) -> None:
        self.skew = seconds


@pytest.mark.parametrize(
    ("wall", "ok", "words"),
    [
        (NOON + 1, True, ""),
        (NOON - 29, True, ""),
        (NOON + 3600, False, "3600 s ahead of the push services'"),
        (NOON - 600, False, "600 s behind the push services'"),
    ],
)
def test_a_clock_that_is_wrong_is_told(wall: float, ok: bool, words: str) -> None:
    """With what to do; readiness does not depend on it, since most is sent all the same."""
    gauge: Any = Gauge()
    readiness = Readiness()
    Skew(gauge, readiness).look("https://push.example", DATE, wall)
    assert gauge.skew == abs(wall - NOON)
    assert readiness._parts["clock"][0] == ok
    assert words in readiness._parts["clock"][1]
    assert readiness.ready


def test_the_service_that_agrees_best_is_believed() -> None:
    """One that is wrong itself does not make our clock wrong."""
    gauge: Any = Gauge()
    readiness = Readiness()
    skew = Skew(gauge, readiness)
    skew.look("https://wrong.example", DATE, NOON + 900)
    skew.look("https://right.example", DATE, NOON + 2)
    assert gauge.skew == 2
    assert readiness._parts["clock"] == (True, "")


@pytest.mark.parametrize("headers", [(), ((b"date", b"yesterday"),)])
def test_an_answer_without_a_date_says_nothing(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    gauge: Any = Gauge()
    readiness = Readiness()
    Skew(gauge, readiness).look("https://push.example", headers, NOON)
    assert gauge.skew is None
    assert "clock" not in readiness._parts
