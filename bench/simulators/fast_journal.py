"""What a fast simulator saw: raw header blocks and bodies, decoded only when somebody asks for a ledger."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from . import frames
from .header_reader import Field, HeaderReader
from .journal import printable_counts
from .message import Request


class Recording:
    """A connection's frames as they came, and what was decoded of them so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._headers: list[bytes] = []
        self._bodies: list[bytes] = []
        self._done: list[bytes] = []
        self._times = array("d")
        self._reader = HeaderReader()
        self._block = b""
        self._open: dict[int, tuple[list[Field], bytearray]] = {}
        self.requests = 0

    def add(self, headers: list[bytes], bodies: list[bytes], done: list[bytes]) -> None:
        """One read's HEADERS and CONTINUATION frames, DATA frames, and ids of streams that ended.

        Joined, so that a read costs an object each instead of one a request.
        """
        self._headers.append(b"".join(headers))
        self._bodies.append(b"".join(bodies))
        self._done.append(b"".join(done))
        self._times.append(time.monotonic())
        self.requests += len(done)

    def decode(self) -> Iterator[tuple[int, Request, float]]:
        """Stream, request and time of what ended since the last time, in the order in which answers were made."""
        reads = list(zip(self._headers, self._bodies, self._done, self._times, strict=True))
        for column in (self._headers, self._bodies, self._done):
            column.clear()
        del self._times[:]
        reads.reverse()
        while reads:  # popped, so that what is decoded is freed
            headers, bodies, done, at = reads.pop()
            self._open_streams(headers)
            for _, _, stream, payload in _frames(bodies):
                self._open[stream][1].extend(payload)
            for place in range(0, len(done), 4):
                stream = int.from_bytes(done[place : place + 4], "big")
                fields, body = self._open.pop(stream)
                yield stream, Request.of(fields, bytes(body)), at

    def _open_streams(self, headers: bytes) -> None:
        for _, flags, stream, payload in _frames(headers):
            self._block += payload
            if flags & frames.END_HEADERS:
                opened = self._open.setdefault(stream, ([], bytearray()))
                opened[0].extend(self._reader.read(self._block))
                self._block = b""


def _frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, stream and payload, without padding and priority."""
    position, end = 0, len(data)
    while position < end:
        kind, flags, stream = frames.HEAD.unpack_from(data, position)
        start, position = position + 9, position + 9 + (kind >> 8)
        kind &= 0xFF
        payload = data[start:position]
        if flags & frames.PADDED and kind != frames.CONTINUATION:
            payload = payload[1 : len(payload) - payload[0]]
        if flags & frames.WITH_PRIORITY and kind == frames.HEADERS:
            payload = payload[5:]
        yield kind, flags, stream, payload


class FastJournal:
    """Journal of a fast simulator (see `journal.Journal`).

    Args:
        key: A request's ledger key.
        keeps_bodies: Whether the key is in the body.
    """

    def __init__(self, key: Callable[[Request], bytes], *, keeps_bodies: bool) -> None:
        self.keeps_bodies = keeps_bodies
        self._key = key
        self._recordings: list[Recording] = []
        self._status: Callable[[int, int], int] = lambda connection, stream: 200
        self._forgotten = 0
        self._seen: Counter[bytes] = Counter()
        self._accepted: Counter[bytes] = Counter()
        self._arrivals: dict[bytes, float] = {}
        self._statuses: Counter[int] = Counter()

    def record(self) -> Recording:
        """A recording for a new connection."""
        recording = Recording(len(self._recordings) + 1)
        self._recordings.append(recording)
        return recording

    def decide(self, status: Callable[[int, int], int]) -> None:
        """From now on a (connection, stream)'s status follows from this; storing it would cost a request."""
        self._decode()
        self._status = status

    def reset(self) -> None:
        self._decode()
        self._forgotten = sum(recording.requests for recording in self._recordings)
        for seen in (self._seen, self._accepted, self._statuses, self._arrivals):
            seen.clear()

    def _decode(self) -> None:
        for recording in self._recordings:
            for stream, request, at in recording.decode():
                key, status = self._key(request), self._status(recording.number, stream)
                self._seen[key] += 1
                self._arrivals[key] = min(at, self._arrivals.get(key, at))
                self._statuses[status] += 1
                if 200 <= status < 300:
                    self._accepted[key] += 1

    def counts(self) -> dict[str, int]:
        self._decode()
        return printable_counts(self._seen)

    def accepted(self) -> dict[str, int]:
        self._decode()
        return printable_counts(self._accepted)

    def arrivals(self, keys: Iterable[str]) -> dict[str, float]:
        self._decode()
        return {key: self._arrivals[key.encode()] for key in keys if key.encode() in self._arrivals}

    def statuses(self) -> dict[int, int]:
        self._decode()
        return dict(self._statuses)

    def __len__(self) -> int:
        return sum(recording.requests for recording in self._recordings) - self._forgotten
