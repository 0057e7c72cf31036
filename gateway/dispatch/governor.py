"""How fast a route may go: a token bucket whose rate gives way to a service in trouble, and recovers slowly.

It begins at the configured rate, or without one. Each hold for the service's sake cuts it to about half of what was
really sent; acceptances raise it again by a constant step a second (AIMD, as TCP does it), so that what waited during
an outage comes back as a slope. Each process draws its cuts by lot, so that several do not swing together.

Where machines share the rate, the configured one is that of all of them, and what may go is in a slice of it besides.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.dispatch.slices import Slice

BURST_SECONDS = 0.25
"""Of unused rate that may be caught up at once. A window of the service is a minute (FCM), a slice a millisecond."""

CUT = (0.4, 0.6)
"""What is left of the rate after a cut: between these."""

LEAST_SHARE = 0.05
LEAST_RATE = 10.0
"""The floor of all cuts: this share of the most that was sent in the minute before the first one, and never less than
this many a second."""

RAMP = 60.0
"""Seconds from nothing back to the most that was sent in the minute before the first cut (FCM asks for at least a
minute)."""

LEAST_STEP = 10.0
"""A second, each second: a quiet route must not crawl when a campaign comes after an outage."""

MEASURED = 1.0
"""Seconds over which the rate in use is measured."""

REMEMBERED = 60.0
"""Seconds, at least, for which the highest rate in use is known: a service that died in silence took nothing in the
last of them, and recovery leads to what it took before."""


class Governor:
    """Counts in notifications a second; times are the loop's, in seconds. A rate of None limits nothing."""

    def __init__(self, rate: float | None, now: float, jitter: random.Random, slice_: Slice | None = None) -> None:
        self.slice = slice_
        """What this process has of a rate that machines share."""
        self.cut_short = False
        """Whether the rate is below the configured one, so that acceptances have to be told to `accepted`."""
        self._configured = rate
        self._jitter = jitter
        self._used = 0.0
        self._peak = 0.0
        self._peak_before = 0.0
        self._peak_at = now
        self._window_at = now
        self._spent = 0
        self._before = 0.0
        self._raised_at = now
        self._filled_at = now
        self._tokens = float("inf")
        self._set(rate)

    @property
    def rate(self) -> float | None:
        """Notifications a second that may go at present; None where nothing limits them."""
        if self.slice is None or self._rate is None:
            return self._rate
        return min(self._rate, self.slice.fair_rate)

    def room(self, now: float) -> int:
        """How many may go now."""
        if now - self._window_at >= MEASURED:
            self._measure(now)
        if self._rate is None:
            return sys.maxsize
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        room = int(self._tokens)
        return room if self.slice is None else min(room, self.slice.room(now))

    def spend(self, count: int) -> None:
        """So many go; of a negative number, they did not go after all."""
        self._spent += count
        if self._rate is not None:
            self._tokens -= count
        if self.slice is not None:
            self.slice.spend(count)

    def cut(self, now: float) -> None:
        """The service asked for less, or is down."""
        limit = float("inf") if self._rate is None else self._rate
        used = max(self._used, self._spent / max(MEASURED, now - self._window_at))
        rate = min(limit, used)
        if not self.cut_short:
            self._before = min(limit, max(used, self._peak, self._peak_before))
        floor = max(LEAST_RATE, LEAST_SHARE * self._before)
        self._set(max(floor, rate * self._jitter.uniform(*CUT)))
        self.cut_short = self._rate != self._configured
        self._filled_at = self._raised_at = now

    def accepted(self, count: int, now: float) -> None:
        """So many were accepted while the rate is cut short: raise it, by a step a second at most.

        What is not made use of is not raised: `count` at the full rate make up the step.
        """
        if self._rate is None:
            return
        step = max(LEAST_STEP, self._before / RAMP)
        since = max(self._raised_at, now - MEASURED)
        seconds = min(count / self._rate, now - since)
        self._set(self._rate + step * seconds)
        self._raised_at = since + seconds
        self.cut_short = self._rate != self._configured

    def _measure(self, now: float) -> None:
        self._used = self._spent / (now - self._window_at)
        self._window_at, self._spent = now, 0
        if (age := now - self._peak_at) >= REMEMBERED:
            self._peak_before = self._peak if age < 2 * REMEMBERED else 0.0
            self._peak, self._peak_at = 0.0, now
        self._peak = max(self._peak, self._used)
        if self.cut_short and self._configured is None and self._rate is not None:
            self._lift(self._rate)

    def _lift(self, rate: float) -> None:
        """Without a configured rate, a cut is over when nobody has felt it for a while."""
        if rate >= self._before and 0 < self._used < rate / 2:
            self._set(None)
            self.cut_short = False

    def _set(self, rate: float | None) -> None:
        if rate is not None and self._configured is not None:
            rate = min(rate, self._configured)
        self._rate = rate
        self._capacity = 0.0 if rate is None else max(1.0, rate * BURST_SECONDS)
        self._tokens = min(self._tokens, self._capacity)
