"""A protocol with a socket: reads, pulls requests while there is room, writes, and watches over deadlines.

A connection is never handed a request. Whenever it has room it asks its `Source` for the next ones, so nothing waits
in a queue of its own and nobody awaits a slot; there is no task, timer or lock for a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol, cast

from gateway.http2.frames import ErrorCode, ProtocolError, error_name
from gateway.http2.protocol import ClientProtocol, Phase
from gateway.http2.results import Results, Tag
from providers.base import Head

SLICES_A_TURN = 4
"""Slices that a connection takes before others of the loop have a turn; a slice is about a millisecond of work."""

WRITE_HIGH_WATER = 256 * 1024
"""Bytes in the transport above which nothing more is taken: some 600 requests, whose fate a crash leaves unknown."""

CONTROL_BACKLOG = 64 * 1024
"""Bytes that a peer may have us write (acknowledgements, resets) while it reads nothing."""

BROKEN_TO_RETIRE = 50
"""Requests that end without an answer (reset, refused, timed out), less those that are answered, after which a
connection is replaced: its neighbours may fare better."""

SETTINGS_DEADLINE = 5.0
FRAME_DEADLINE = 5.0
HEADER_BLOCK_DEADLINE = 5.0
PING_ANSWER_DEADLINE = 5.0
WRITE_DEADLINE = 10.0
"""For the peer's windows to let the rest of one request through, however it drips."""
NO_STREAMS_DEADLINE = 10.0
SILENCE_BEFORE_PING = 10.0
"""Without an answer, whatever else arrives."""
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
        self.retired: str | None = None
        """Why it was replaced although it still answers."""
        self._source = source
        self._request_timeout = request_timeout
        self._on_answer = on_answer
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._written_paused = 0  # bytes
        self._broken = 0
        self._body_size = 1  # of the last request
        self._watch = _Watch()
        self._turn_pending = False
        self._marks: deque[tuple[float, int]] = deque()  # when streams below an id had been opened
        self._swept_at = self._useful_at = self._pinged_at = self._loop.time()
        self._draining = False

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

    def serve(self, source: Source) -> None:
        """As `Pool.serve`."""
        self._source = source

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._swept_at = self._useful_at = self._pinged_at = self._loop.time()
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        self.spoke_http2 = chosen == "h2"
        if self.spoke_http2:
            self.pump()
        else:
            self.lost = f"the server does not speak HTTP/2 (it chose {chosen or 'nothing'} by ALPN)"
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self.protocol.receive_data(data)
        except ProtocolError as error:
            self.lost = str(error)
        self._settle(cut=self.lost is not None)
        self.pump()

    def eof_received(self) -> None:
        self.protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost is None:
            self.lost = _cause(exc, self.protocol)
        self._transport = None
        self.protocol.receive_eof(self.lost)
        farewell = self.protocol.goaway
        self._settle(cut=farewell is None or farewell[0] != ErrorCode.NO_ERROR)
        self._on_change(self)

    def pause_writing(self) -> None:
        self._paused = True
        self._written_paused = 0

    def resume_writing(self) -> None:
        self._paused = False
        self.pump()

    # Sending

    def pump(self) -> bool:
        """Take requests while there is room, and write. Returns whether the source may have more."""
        if self._transport is None:
            return True
        more = True
        for _ in range(SLICES_A_TURN):
            streams = 0 if self._paused else self.protocol.room(self._body_size)
            more = not streams or self._send_slice(streams)
            self._write()
            if not streams or not more:
                break
        else:
            self._next_turn()
        self._finish_drained()
        return more

    def _send_slice(self, streams: int) -> bool:
        protocol = self.protocol
        requests = self._source.take(streams, protocol.window)
        if requests is None:
            return False
        now = self._loop.time()
        if not protocol.open_streams:
            self._useful_at = now  # nothing was asked until now
        sent = protocol.send(*requests)
        if sent < len(requests.tags):
            self._source.give_back(requests.tags[sent:])
        self._body_size = len(requests.bodies[-1])
        self._marks.append((now, protocol.stream_mark))
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
            if self._paused:
                self._written_paused += len(data)

    def _settle(self, *, cut: bool = False) -> None:
        results = self.protocol.take_results()
        if results:
            results.cut = cut
            self._judge(results)
            self._source.settle(results)
            if not self.answered and results.settled:
                self.answered = True
                self._on_answer()

    def _judge(self, results: Results) -> None:
        """Whether this connection is worth keeping."""
        answers = results.settled
        if answers:
            self._useful_at = self._loop.time()
        self._broken = max(0, self._broken - answers) + len(results.unknown) + len(results.unsent)
        if self._broken >= BROKEN_TO_RETIRE and self.protocol.phase is Phase.OPEN:
            self._retire("more requests break off than are answered")

    # Deadlines and the end

    def sweep(self, now: float) -> None:
        """Look after deadlines; to be called a few times a second with the loop's time."""
        if self._transport is None:
            return
        self.protocol.pass_time(now - self._swept_at)
        self._swept_at = now
        self._expire(now)
        fault = self._fault(now)
        if fault is not None:
            self.abort(*fault)
            return
        if self._watch.seconds("no streams", self.protocol.shut or None, now) > NO_STREAMS_DEADLINE:
            self._retire("the peer allows no streams")
        if not self.answered and self._marks and now - self._marks[0][0] > FIRST_ANSWER_PATIENCE:
            self.protocol.trust()
        silence = now - max(self._useful_at, self._pinged_at)
        if not self.protocol.pings_unanswered and silence > self._silence_allowed():
            self._pinged_at = now
            self.protocol.ping()
        self.pump()

    def _silence_allowed(self) -> float:
        return SILENCE_BEFORE_PING if self.protocol.open_streams else IDLE_BEFORE_PING

    def _expire(self, now: float) -> None:
        sent_at, mark = 0.0, None
        while self._marks and now - self._marks[0][0] > self._request_timeout:
            sent_at, mark = self._marks.popleft()
        if mark is not None and self.protocol.expire(mark):
            self._settle()
            if self._useful_at <= sent_at:
                self._retire("no answer for as long as a request may take")

    def _fault(self, now: float) -> tuple[str, ErrorCode] | None:
        """What the peer has left undone for longer than it may, and the code that it is told."""
        protocol, calm = self.protocol, ErrorCode.ENHANCE_YOUR_CALM
        if self._paused and self._written_paused > CONTROL_BACKLOG:
            return "the peer asks and does not read", calm
        deadlines: tuple[tuple[str, Hashable, float, ErrorCode], ...] = (
            ("no SETTINGS", not protocol.settled or None, SETTINGS_DEADLINE, ErrorCode.SETTINGS_TIMEOUT),
            ("a frame without end", protocol.in_frame, FRAME_DEADLINE, calm),
            ("a header block without end", protocol.in_header_block or None, HEADER_BLOCK_DEADLINE, calm),
            ("PING not answered", protocol.pings_unanswered or None, PING_ANSWER_DEADLINE, ErrorCode.NO_ERROR),
            ("the peer's window stays shut", protocol.stalled, WRITE_DEADLINE, calm),
            ("the peer reads nothing", self._paused or None, self._request_timeout, ErrorCode.NO_ERROR),
            ("draining took too long", self._draining or None, DRAIN_DEADLINE, ErrorCode.NO_ERROR),
        )
        for fault, undone, allowed, code in deadlines:
            if self._watch.seconds(fault, undone, now) > allowed:
                return fault, code
        return None

    def _retire(self, reason: str) -> None:
        """Take no more, and have another connection in its place."""
        if self.protocol.phase is Phase.OPEN:
            self.retired = reason
            self.drain()

    def drain(self) -> None:
        """Take no more; close when the last answer is in."""
        self.protocol.drain()
        self._finish_drained()

    def _finish_drained(self) -> None:
        if self.protocol.phase is Phase.OPEN or self._transport is None:
            return
        if not self._draining:
            self._draining = True
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

    def abort(self, reason: str, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Close without waiting for anything the peer might still read."""
        if self._transport is None:
            return
        self.lost = self.lost or reason
        self.protocol.close(code, reason)
        self._settle(cut=not self._draining)
        self._write()
        self._transport.abort()


class _Watch:
    """Since when the same thing has been so, by what is watched; seen as often as somebody looks."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[Hashable, float]] = {}

    def seconds(self, name: str, state: Hashable, now: float) -> float:
        """For how long it has been in this state; None is the state of nothing being amiss."""
        if state is None:
            self._since.pop(name, None)
            return 0.0
        former, since = self._since.get(name, (None, now))
        if former != state:
            self._since[name] = (state, now)
            return 0.0
        return now - since


def _cause(exc: Exception | None, protocol: ClientProtocol) -> str:
    """Why a connection ended, without anything the peer may have put into it but GOAWAY's registered code."""
    if protocol.goaway is not None:
        return f"GOAWAY {error_name(protocol.goaway[0])}"
    return f"connection lost: {type(exc).__name__}" if exc else "closed by the peer"
