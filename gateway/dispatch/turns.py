"""Turns at the processor: in each round of the loop an app sends what its weight is worth, then the others go.

Connections take turns by the loop already. But an app with more of them, or with more to send on each, would have more
of the processor; so what all of an app's connections take in one round is bounded. A round ends when everybody else has
had the loop, which is at once where nobody else wants it: nothing is left idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

ROUND = 1000
"""Deliveries that the app with the largest weight may send in one round: some five milliseconds of work."""


class Turn:
    """An app's part of a round."""

    def __init__(self, part: int = ROUND) -> None:
        self._part = part
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Callable[[], None], None] = {}
        self.left = part
        """Deliveries that may still be sent in this round."""

    def spend(self, count: int) -> None:
        if self.left == self._part:
            self._loop.call_soon(self._renew)
        self.left -= count

    def wait(self, wake: Callable[[], None]) -> None:
        """Call `wake` once in the next round, when nothing is left of this one."""
        self._waiting[wake] = None

    def _renew(self) -> None:
        self.left = self._part
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:
            wake()


def turns(weights: Mapping[str, float]) -> dict[str, Turn]:
    """Each app's turn, in proportion to the weights."""
    largest = max(weights.values(), default=1.0)
    return {app: Turn(max(1, round(ROUND * weight / largest))) for app, weight in weights.items()}
