"""A protocol with a socket: reads, pulls requests while there is room, writes, and watches over deadlines.

A connection is never handed a request. Whenever it has room it asks its `Source` for the next ones, so nothing waits
in a queue of its own and nobody awaits a slot; there is no task, timer or lock for a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from gateway.http2.frames import ErrorCode, error_name
from gateway.http2.protocol import ClientProtocol, Phase, ProtocolError, Results, Tag
from providers.base import Head

SLICES_A_TURN = 4
"""Slices that a connection takes before others of the loop have a turn; a slice is about a millisecond of work."""

WRITE_HIGH_WATER = 256 * 1024
"""Bytes in the transport above which nothing more is taken: some 600 requests, whose fate a crash leaves unknown."""

SETTINGS_DEADLINE = 5.0
HEADER_BLOCK_DEADLINE = 5.0
PING_ANSWER_DEADLINE = 5.0
SILENCE_BEFORE_PING = 10.0
IDLE_BEFORE_PING = 55 * 60.0
"""Apple asks for a ping an hour at most; Google's front end punishes frequent ones."""
FIRST_ANSWER_PATIENCE = 1.0
DRAIN_DEADLINE = 20.0


class Requests(NamedTuple):
    """A slice of requests as columns, see `ClientProtocol.send`."""

    head: Head
    fields: tuple[list[bytes], ...]
    bodies: list[bytes]
    tags: list[Tag]


class Source(Protocol):
    """Where a connection's requests come from and where what became of them goes."""

    def take(self, streams: int, window: int) -> Requests | None:
        """The next requests: at most `streams`, with bodies that had better fit into `window` bytes together."""

    def give_back(self, tags: list[Tag]) -> None:
        """Requests of the last `take` that did not fit after all; nothing of them was written."""

    def settle(self, results: Results) -> None:
        """What became of requests that were taken."""

    @property
    def backlog(self) -> bool:
        """Whether `take` would find something now."""


class Connection(asyncio.Protocol):
    """One connection of a pool."""

    def __init__(
        self,
        source: Source,
        *,
        request_timeout: float,
        on_answer: Callable[[], None],
        on_change: Callable[[Connection], None],
        number: int,
    ) -> None:
        """`on_answer` is called when the first answer has come, `on_change` when draining begins and at the end."""
        self.protocol = ClientProtocol()
        self.number = number
        self.answered = False
        self.spoke_http2 = False
        """Whether the server chose `h2` by ALPN (RFC 9113 section 3.2)."""
        self.lost: str | None = None
        """Why the connection ended, once it has."""
        self._source = source
        self._request_timeout = request_timeout
        self._on_answer = on_answer
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._paused_since: float | None = None
        self._turn_pending = False
        self._marks: deque[tuple[float, int]] = deque()  # when streams below an id had been opened
        self._opened_at = self._read_at = self._loop.time()
        self._pinged_at = 0.0
        self._block_since: float | None = None
        self._draining_since: float | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.number} {self.protocol!r}>"

    @property
    def usable(self) -> bool:
        return self._transport is not None and self.protocol.phase is Phase.OPEN

    @property
    def useless(self) -> bool:
        """Whether it answered nothing that it was asked; one that idled to its end was asked nothing."""
        asked = self.protocol.stream_mark > 1
        return not self.answered and (asked or not self.protocol.settled)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._opened_at = self._read_at = self._loop.time()
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        self.spoke_http2 = chosen == "h2"
        if self.spoke_http2:
            self.pump()
        else:
            self.lost = f"the server does not speak HTTP/2 (it chose {chosen or 'nothing'} by ALPN)"
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._read_at = self._loop.time()
        try:
            self.protocol.receive_data(data)
        except ProtocolError as error:
            self.lost = str(error)
        self._settle()
        self.pump()

    def eof_received(self) -> None:
        self.protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost is None:
            self.lost = _cause(exc, self.protocol)
        self._transport = None
        self.protocol.receive_eof(self.lost)
        self._settle()
        self._on_change(self)

    def pause_writing(self) -> None:
        self._paused_since = self._loop.time()

    def resume_writing(self) -> None:
        self._paused_since = None
        self.pump()

    # Sending

    def pump(self) -> None:
        """Take requests while there is room, and write."""
        if self._transport is None:
            return
        for _ in range(SLICES_A_TURN):
            if self._paused_since is not None or not self._send_slice():
                self._write()
                break
            self._write()
        else:
            self._next_turn()
        self._finish_drained()

    def _send_slice(self) -> bool:
        protocol = self.protocol
        streams = protocol.room()
        if not streams:
            return False
        requests = self._source.take(streams, protocol.window)
        if requests is None:
            return False
        sent = protocol.send(*requests)
        if sent < len(requests.tags):
            self._source.give_back(requests.tags[sent:])
        self._marks.append((self._loop.time(), protocol.stream_mark))
        return True

    def _next_turn(self) -> None:
        if not self._turn_pending:
            self._turn_pending = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_pending = False
        self.pump()

    def _write(self) -> None:
        data = self.protocol.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def _settle(self) -> None:
        results = self.protocol.take_results()
        if results:
            self._source.settle(results)
            if not self.answered and (results.accepted or results.answered):
                self.answered = True
                self._on_answer()

    # Deadlines and the end

    def sweep(self, now: float) -> None:
        """Look after deadlines; to be called a few times a second with the loop's time."""
        if self._transport is None:
            return
        self._expire(now)
        fault = self._fault(now)
        if fault is not None:
            self.abort(fault)
            return
        if not self.answered and self._marks and now - self._marks[0][0] > FIRST_ANSWER_PATIENCE:
            self.protocol.trust()
        silence = now - self._read_at
        if not self.protocol.pings_unanswered and silence > self._silence_allowed():
            self._pinged_at = now
            self.protocol.ping()
        self.pump()

    def _silence_allowed(self) -> float:
        return SILENCE_BEFORE_PING if self.protocol.open_streams else IDLE_BEFORE_PING

    def _expire(self, now: float) -> None:
        mark = None
        while self._marks and now - self._marks[0][0] > self._request_timeout:
            mark = self._marks.popleft()[1]
        if mark is not None and self.protocol.expire(mark):
            self._settle()

    def _fault(self, now: float) -> str | None:
        protocol = self.protocol
        self._block_since = (self._block_since or now) if protocol.in_header_block else None
        deadlines = (
            (None if protocol.settled else self._opened_at, SETTINGS_DEADLINE, "no SETTINGS"),
            (self._block_since, HEADER_BLOCK_DEADLINE, "a header block without end"),
            (self._pinged_at if protocol.pings_unanswered else None, PING_ANSWER_DEADLINE, "PING not answered"),
            (self._paused_since, self._request_timeout, "the peer reads nothing"),
            (self._draining_since, DRAIN_DEADLINE, "draining took too long"),
        )
        for since, allowed, fault in deadlines:
            if since is not None and now - since > allowed:
                return fault
        return None

    def drain(self) -> None:
        """Take no more; close when the last answer is in."""
        self.protocol.drain()
        self._finish_drained()

    def _finish_drained(self) -> None:
        if self.protocol.phase is Phase.OPEN or self._transport is None:
            return
        if self._draining_since is None:
            self._draining_since = self._loop.time()
            self._on_change(self)
        if not self.protocol.open_streams:
            self.close()

    def close(self) -> None:
        """Say GOAWAY and close; what is open becomes unknown."""
        if self._transport is None:
            return
        self.protocol.close()
        self._settle()
        self._write()
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Close without waiting for anything the peer might still read."""
        if self._transport is None:
            return
        self.lost = self.lost or reason
        self.protocol.close(ErrorCode.NO_ERROR, reason)
        self._settle()
        self._write()
        self._transport.abort()


def _cause(exc: Exception | None, protocol: ClientProtocol) -> str:
    """Why a connection ended, without anything the peer may have put into it but GOAWAY's registered code."""
    if protocol.goaway is not None:
        return f"GOAWAY {error_name(protocol.goaway[0])}"
    return f"connection lost: {type(exc).__name__}" if exc else "closed by the peer"
