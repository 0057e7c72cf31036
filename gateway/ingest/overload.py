"""What is refused before its body is read: large jobs, while the queue has no room.

The queue says so by refusing a job. From then on others are sent away at once, and one a second is let through, by
which it is found that there is room again. A small body is read in any case, which is cheaper than it looks: a one-time
code may well fit where a campaign does not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.ingest.problem import Refused
from gateway.queue.base import QueueError, QueueFull

LOOK_AGAIN = 1.0

RETRY_AFTER = (5, 15)
"""Seconds, drawn: whoever was sent away together should not come back together."""


def unstored(error: QueueError) -> Refused:
    """503: nothing was stored, for want of room or worse."""
    return Refused(503, str(error), retry_after=random.randint(*RETRY_AFTER))


class Overload:
    """One worker's memory of the queue's last refusal. Bodies up to `small` bytes are always let in."""

    def __init__(self, small: int) -> None:
        self._small = small
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._last: QueueFull | None = None

    @contextmanager
    def heed(self, length: int | None) -> Iterator[None]:
        """While a job of so many bytes (None: nobody knows) is received and stored.

        Raises:
            Refused: 503, there was no room a moment ago.
        """
        large = length is None or length > self._small
        if large and self._last is not None:
            if self._loop.time() < self._until:
                raise unstored(self._last)
            self._until = self._loop.time() + LOOK_AGAIN  # this one looks, for the others
        try:
            yield
        except QueueFull as error:
            self._last, self._until = error, self._loop.time() + LOOK_AGAIN
            raise
        if large:
            self._last = None
