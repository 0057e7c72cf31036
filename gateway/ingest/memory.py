"""What all uploads together may hold, and how many there may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.ingest.limits import Limits
from gateway.ingest.problem import Refused

_BUSY = "This gateway is receiving as much as it can hold. Send the request again after `Retry-After` seconds."
_APP_BUSY = "This app has as many uploads open as it may. Send the request again after `Retry-After` seconds."


class Share:
    """What one upload holds of the memory; grows, and is given back as a whole."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._held = 0

    def hold(self, size: int) -> None:
        """Make it `size` bytes in all.

        Raises:
            Refused: 503, there is no room for that.
        """
        more = size - self._held
        if more > self._memory.room:
            raise Refused(503, _BUSY, retry_after=1)
        self._memory.room -= more
        self._held = size


class Memory:
    """Counts bytes and uploads; refuses rather than lets anybody wait, since whoever waits holds memory too."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._uploads = 0
        self._streams: Counter[str] = Counter()
        self.room = limits.memory

    @contextmanager
    def upload(self) -> Iterator[Share]:
        """A job is being received.

        Raises:
            Refused: 503, too many are.
        """
        if self._uploads >= self._limits.uploads:
            raise Refused(503, _BUSY, retry_after=1)
        share = Share(self)
        self._uploads += 1
        try:
            yield share
        finally:
            self._uploads -= 1
            share.hold(0)

    @contextmanager
    def stream(self, app: str) -> Iterator[None]:
        """A job of `app` is being streamed.

        Raises:
            Refused: 429, too many of this app are.
        """
        if self._streams[app] >= self._limits.app_streams:
            raise Refused(429, _APP_BUSY, retry_after=5)
        self._streams[app] += 1
        try:
            yield
        finally:
            self._streams[app] -= 1
            if not self._streams[app]:
                del self._streams[app]
