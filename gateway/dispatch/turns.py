"""Turns at the processor: in each round of the loop an app sends what its weight is worth, then the others go.

Connections take turns by the loop already. But an app with more of them, or with more to send on each, would have more
of the processor; so what all of an app's connections take in one round is bounded. It is counted in slices, which are
about as much work whoever's they are (`Plan.slice`). A round ends when everybody else has had the loop, which is at
once where nobody else wants it: nothing is left idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

ROUND = 2.0
"""Slices that the app with the largest weight may send in one round: some five milliseconds of work."""

SHORT_ROUND = 1.0
"""The same while one-time codes come. Each of them needs three rounds from its request to the wire."""

SHORT_FOR = 1.0
"""Seconds after a one-time code for which rounds stay short: cut so fine, a campaign costs some per cent more."""

LEAST = 0.2
"""Slices. Of anybody in a round, and of a slice that is cut for a round's end: smaller ones cost more than they are
worth, and an app of little weight has the processor for itself most of the time."""


OVERDRAFT = 1.0
"""Slices of later rounds that an app's one-time codes may take in this one, so that they need not wait for its end."""


class Turn:
    """An app's part of a round."""

    def __init__(self, part: Callable[[], float] = lambda: ROUND) -> None:
        """`part` says how many slices of the round that begins are the app's, `LEAST` or more."""
        self._part = part
        self._loop = asyncio.get_running_loop()
        self._renewing = False
        self._waiting: dict[Callable[[], None], None] = {}
        self._left = part()

    @property
    def room(self) -> float:
        """Slices that may still be sent in this round. What is more than was left is taken off the next ones."""
        return max(self._left, LEAST) if self._left > 0 else 0.0

    @property
    def room_for_codes(self) -> float:
        """The same, for one-time codes."""
        return max(self._left, LEAST) if self._left > -OVERDRAFT else 0.0

    def spend(self, slices: float) -> None:
        if not self._renewing:
            self._renewing = True
            self._loop.call_soon(self._renew)
        self._left -= slices

    def wait(self, wake: Callable[[], None]) -> None:
        """Call `wake` once in a round that has room, when there is no room in this one."""
        self._waiting[wake] = None

    def _renew(self) -> None:
        part = self._part()
        self._left = min(part, self._left + part)
        self._renewing = self._left <= 0
        if self._renewing:
            self._loop.call_soon(self._renew)
            return
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:
            wake()


class Turns:
    """Each app's turn, in proportion to the weights."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._short_until = float("-inf")
        self._largest = max(weights.values(), default=1.0)
        self._turns = {app: Turn(self._part(weight)) for app, weight in weights.items()}

    def __getitem__(self, app: str) -> Turn:
        return self._turns[app]

    def hasten(self) -> None:
        """A one-time code is on its way: have short rounds for a while."""
        self._short_until = self._loop.time() + SHORT_FOR

    def _part(self, weight: float) -> Callable[[], float]:
        share = weight / self._largest
        return lambda: max(LEAST, share * (SHORT_ROUND if self._loop.time() < self._short_until else ROUND))
