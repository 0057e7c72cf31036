"""How much of a route's traffic may be retries, so that an outage is not multiplied. Pure.

Every first send earns a share of a retry, and time earns a few a second, so that a quiet route retries as well
(Finagle's RetryBudget). At any time, all retries together are at most that share of all first sends and those few a
second. A retry that there is no budget for waits until there is, or until it expires. What is known not to have been
sent costs nothing.
"""

from __future__ import annotations

import math

MEMORY = 900.0
"""Seconds in which what first sends earned fades to a third. As long as the longest back-off: a retry comes that much
later than the send that earned it."""

BURST = 10.0
"""Seconds of the floor that may be saved up."""


class Budget:
    """Counts in retries; times are the loop's, in seconds."""

    def __init__(self, share: float, floor: float, now: float) -> None:
        """`share` of a retry is earned by each first send, `floor` of them by each second."""
        self._share = share
        self._floor = floor
        self._saved = floor
        self._earned = 0.0
        self._at = now

    def room(self, now: float) -> int:
        """How many retries may go now."""
        passed, self._at = now - self._at, now
        self._saved = min(self._saved + self._floor * passed, self._floor * BURST)
        self._earned *= math.exp(-passed / MEMORY)
        return int(self._saved + self._earned)

    def earn(self, sent: int) -> None:
        """So many were sent for the first time."""
        self._earned += sent * self._share

    def spend(self, retries: int) -> None:
        """So many retries go: the floor's first, as it is lost soonest."""
        saved = min(float(retries), self._saved)
        self._saved -= saved
        self._earned -= retries - saved
