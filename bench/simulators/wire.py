"""One connection of a strict simulator, whatever it speaks: what a service may do to it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from typing import Any, Literal, NamedTuple, Protocol, cast

from .message import Answer, Headers, Request


class Limits(NamedTuple):
    """What a listener announces and enforces."""

    streams: int
    """MAX_CONCURRENT_STREAMS of a new connection."""
    window: int = 65_535
    """The connection's receive window; refilled at half."""
    header_list: int = 8_000
    overrun: Literal["refuse", "goaway"] = "refuse"
    """What happens to a stream over the limit."""
    overrun_code: int = 7
    overrun_text: bytes = b""


class Backend(Protocol):
    """Who is behind the wires of a listener, and is told what comes in."""

    limits: Limits
    rtt: float
    """Seconds."""
    stats: Counter[str]

    def opened(self, wire: Wire) -> None:
        """Its connection is up."""

    def closed(self, wire: Wire) -> None:
        """Its connection is gone."""

    def requested(self, wire: Wire, stream: int, request: Request) -> None:
        """A whole request came."""

    def overrun(self, wire: Wire, stream: int) -> None:
        """A peer opened more streams than it was allowed."""


class Outbox:
    """Writes to a transport, after a round trip's time if there is one; keeps the order."""

    def __init__(self, transport: asyncio.Transport, rtt: float) -> None:
        self._transport = transport
        self._rtt = rtt
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():  # a timer of a script may come behind the end
            return
        if not self._rtt:
            self._transport.write(data)
            return
        if not self._waiting:
            self._loop.call_later(self._rtt, self._due)
        self._waiting.append((self._loop.time() + self._rtt, data))

    def _due(self) -> None:
        now = self._loop.time() + 0.0005  # timers of uvloop tick in milliseconds
        ready = []
        while self._waiting and self._waiting[0][0] <= now:
            ready.append(self._waiting.popleft()[1])
        if ready:
            self._transport.write(b"".join(ready))
        if self._waiting:
            self._loop.call_later(max(0.0, self._waiting[0][0] - now), self._due)

    def close(self) -> None:
        """Closes the transport behind what was written."""
        if self._waiting:
            self._loop.call_later(self._rtt + 0.001, self.close)
        else:
            self._transport.close()


class Wire(asyncio.Protocol, ABC):
    """A connection. Answers of one read leave in one write.

    Subclasses ask `_admit` when a peer opens a stream, and hand whole requests to the backend.
    """

    transport: asyncio.Transport

    def __init__(self, backend: Backend, number: int) -> None:
        self.backend = backend
        self.number = number
        self.visit: Any = None
        """Whatever the service wants to know of this connection."""
        self.streams: set[int] = set()
        """Open ones: begun and not yet answered whole."""
        self.last_stream = 0
        self._last_allowed: int | None = None
        """After GOAWAY: streams above it are ignored."""
        self._acknowledged_limit = backend.limits.streams
        self._pending_limits: deque[int | None] = deque()
        self._held: list[tuple[int, bytes, bool]] = []
        self._reading = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._outbox = Outbox(self.transport, self.backend.rtt)
        self.backend.opened(self)
        self._begin()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._reading = True
        try:
            self._feed(data)
        finally:
            self._reading = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.clear()
        self.backend.closed(self)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    # what a service does

    def start(self, stream: int, answer: Answer) -> bool:
        """Sends the head of an answer; a body has to follow with `data`. False where the stream is gone."""
        if stream not in self.streams:
            return False
        self._head(stream, answer.status, answer.headers, len(answer.body))
        if not answer.body:
            self._closed(stream)
        self._written()
        return True

    def data(self, stream: int, chunk: bytes, end: bool) -> None:
        """Sends a piece of a body as far as the peer's windows allow, the rest as they open."""
        if stream in self.streams:
            self._held.append((stream, chunk, end))
            self._release()
            self._written()

    def respond(self, stream: int, answer: Answer) -> None:
        if self.start(stream, answer) and answer.body:
            self.data(stream, answer.body, True)

    def reset(self, stream: int, code: int) -> None:
        self._reset(stream, code)
        self._closed(stream)
        self._written()

    def goaway(self, last_stream: int, code: int, debug: bytes = b"") -> None:
        """Sends GOAWAY; the connection closes once all streams up to `last_stream` are answered."""
        self._last_allowed = last_stream
        self._goaway(last_stream, code, debug)
        for stream in [stream for stream in self.streams if stream > last_stream]:
            self._closed(stream)
        self._written()
        self._close_if_drained()

    def settings(self, values: dict[int, int]) -> None:
        """Announces SETTINGS in mid-flight."""
        self._pending_limits.append(values.get(3))
        self._settings(values)
        self._written()

    def cut(self) -> None:
        """The connection is gone, with whatever was not written yet."""
        self.streams.clear()
        self.transport.abort()

    # what subclasses tell

    def _admit(self, stream: int) -> bool:
        """A peer opens a stream; False where it must not be processed."""
        if self._last_allowed is not None and stream > self._last_allowed:
            return False
        self.last_stream = max(self.last_stream, stream)
        allowed = max(self._acknowledged_limit, *(limit or 0 for limit in self._pending_limits), 0)
        if len(self.streams) >= allowed:
            self.backend.overrun(self, stream)
            return False
        self.streams.add(stream)
        return True

    def _settings_acknowledged(self) -> None:
        if self._pending_limits:
            limit = self._pending_limits.popleft()
            self._acknowledged_limit = self._acknowledged_limit if limit is None else limit

    def _release(self) -> None:
        """Sends held data that the windows have room for."""
        waiting, self._held = self._held, []
        for stream, chunk, end in waiting:
            if stream not in self.streams:
                continue
            room = self._room(stream)
            if room >= len(chunk):
                self._data(stream, chunk, end)
                if end:
                    self._closed(stream)
                continue
            if room > 0:
                self._data(stream, chunk[:room], False)
            self._held.append((stream, chunk[max(room, 0) :], end))

    def _closed(self, stream: int) -> None:
        self.streams.discard(stream)
        if self._last_allowed is not None:
            self._close_if_drained()

    def _close_if_drained(self) -> None:
        if not self.streams and self._last_allowed != 2**31 - 1:
            self._flush()
            self._outbox.close()

    def _written(self) -> None:
        if not self._reading:
            self._flush()

    # what a protocol does

    @abstractmethod
    def _begin(self) -> None:
        """The connection is up."""

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Bytes came."""

    @abstractmethod
    def _flush(self) -> None:
        """Write what was sent so far."""

    @abstractmethod
    def _head(self, stream: int, status: int, headers: Headers, length: int) -> None: ...

    @abstractmethod
    def _data(self, stream: int, chunk: bytes, end: bool) -> None: ...

    @abstractmethod
    def _room(self, stream: int) -> int:
        """Bytes of DATA that the peer's windows allow on a stream."""

    def _reset(self, stream: int, code: int) -> None:
        self.cut()

    def _goaway(self, last_stream: int, code: int, debug: bytes) -> None:
        return None

    def _settings(self, values: dict[int, int]) -> None:
        return None
