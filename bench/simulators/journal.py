"""What arrived, in columns, so that a ledger can be taken."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """One request as it was seen."""

    key: str
    connection: int
    stream: int
    at: float
    """Monotonic seconds."""
    status: int
    """What the service decided; 0 where it decided nothing. An accepted one may still never have been answered."""
    attempt: int


class Journal(Protocol):
    """What every simulator's journal can be asked.

    The key is the `apns-id` for APNs, the registration token for FCM, the endpoint's path for Web Push and the
    body's `id` for the stub. Requests that were refused unprocessed (REFUSED_STREAM, above GOAWAY's last stream)
    are not in it.
    """

    def counts(self) -> dict[str, int]:
        """Key -> times seen."""

    def accepted(self) -> dict[str, int]:
        """Key -> times decided with success, whether or not the answer got through."""

    def arrivals(self, keys: Iterable[str]) -> dict[str, float]:
        """Key -> when it was first seen, in monotonic seconds (CLOCK_MONOTONIC, the same in all processes)."""

    def statuses(self) -> dict[int, int]:
        """Status -> requests."""

    def reset(self) -> None:
        """Forget everything."""

    def __len__(self) -> int:
        """Requests seen."""


class StrictJournal:
    """A row a request, in columns."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._keys: list[bytes] = []
        self._connections = array("L")
        self._streams = array("L")
        self._times = array("d")
        self._statuses = array("H")
        self._attempts = array("H")

    def record(self, key: bytes, connection: int, stream: int, status: int, attempt: int) -> None:
        self._keys.append(key)
        self._connections.append(connection)
        self._streams.append(stream)
        self._times.append(time.monotonic())
        self._statuses.append(status)
        self._attempts.append(min(attempt, 0xFFFF))

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Entry]:
        columns = (self._connections, self._streams, self._times, self._statuses, self._attempts)
        for key, connection, stream, at, status, attempt in zip(self._keys, *columns, strict=True):
            yield Entry(printable(key), int(connection), int(stream), at, int(status), int(attempt))

    def counts(self) -> dict[str, int]:
        return printable_counts(Counter(self._keys))

    def accepted(self) -> dict[str, int]:
        statuses = zip(self._keys, self._statuses, strict=True)
        return printable_counts(Counter(key for key, status in statuses if 200 <= status < 300))

    def arrivals(self, keys: Iterable[str]) -> dict[str, float]:
        wanted = {key.encode() for key in keys}
        rows = zip(reversed(self._keys), reversed(self._times), strict=True)
        return {printable(key): at for key, at in rows if key in wanted}

    def statuses(self) -> dict[int, int]:
        return dict(Counter(int(status) for status in self._statuses))


def printable(key: bytes) -> str:
    """A key as text; keys are ASCII unless a client is broken, and then they must still be told apart."""
    return key.decode("utf-8", "backslashreplace")


def printable_counts(counts: Counter[bytes]) -> dict[str, int]:
    return {printable(key): count for key, count in counts.items()}
