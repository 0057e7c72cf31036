"""How far this machine's clock is from the push services', by the `date` of their answers."""

from __future__ import annotations

from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from providers.base import Headers
from providers.retry_after import date

TOLERABLE = 30.0
"""Seconds. A date is whole seconds and some time under way; signatures dated minutes wrongly are refused."""


class Skew:
    """Believes the service that agrees best with us: others may be wrong themselves, or answer from a cache."""

    def __init__(self, metrics: Metrics, readiness: Readiness) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._by_origin: dict[str, float] = {}

    def look(self, origin: str, headers: Headers, wall: float) -> None:
        """Take note of an answer that came at `wall`, UNIX seconds."""
        theirs = date(headers)
        if theirs is None:
            return
        self._by_origin[origin] = wall - theirs
        skew = min(self._by_origin.values(), key=abs)
        self._metrics.clock_skew(abs(skew))
        direction = "ahead of" if skew > 0 else "behind"
        sentence = f"this machine's clock is {abs(skew):.0f} s {direction} the push services': run an NTP client"
        well = abs(skew) < TOLERABLE
        self._readiness.report("clock", well, "" if well else sentence)
