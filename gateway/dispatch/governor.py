"""How fast a route may go: a token bucket."""

from __future__ import annotations

import sys

BURST_SECONDS = 0.25
"""Of unused rate that may be caught up at once. A window of the service is a minute (FCM), a slice a millisecond."""


class Governor:
    """Counts in notifications a second; times are the loop's, in seconds. A rate of None limits nothing."""

    def __init__(self, rate: float | None, now: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * BURST_SECONDS) if rate is not None else 0.0
        self._tokens = self._capacity
        self._filled_at = now

    def room(self, now: float) -> int:
        """How many may go now."""
        if self._rate is None:
            return sys.maxsize
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return int(self._tokens)

    def spend(self, count: int) -> None:
        if self._rate is not None:
            self._tokens -= count
