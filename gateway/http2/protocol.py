"""The client's side of one HTTP/2 connection, without IO (RFC 9113).

Feed it with `receive_data`, ask `room` how many requests fit, `send` them as columns, write what `data_to_send`
returns, and take what became of them with `take_results`. Every request that was sent comes back exactly once: as
accepted, answered, unsent (known not to have been processed) or unknown.

What makes it fast is the shape of the traffic: all requests that fit are framed in one pass over columns
(`gateway.http2.framing`), 0.7 us each on one core, and answers are settled by the run (`gateway.http2.answers`). Here
is what holds them together: the connection's life, its settings, and the frames that concern all of it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable

from gateway.http2 import frames
from gateway.http2.answers import BARE_ACCEPTED, MAX_BODY, MAX_HEADER_BLOCK, Answers
from gateway.http2.budget import ControlBudget
from gateway.http2.frames import HEADER_SIZE, ErrorCode, ProtocolError, Setting, Type, error_name, frame, word
from gateway.http2.framing import Framer, frame_columns
from gateway.http2.hpack import Cut
from gateway.http2.results import Results, Tag
from gateway.http2.streams import Streams
from gateway.http2.windows import RECEIVE_WINDOW, Inflow, Outflow
from providers.base import Head

MAX_STREAMS = 1000
"""What APNs allows; a peer that offers more does not get more, so that one connection's loss is bounded."""


class Phase(enum.Enum):
    """Where a connection is in its life."""

    OPEN = "open"
    DRAINING = "draining"  #: opens no more streams; answers to the open ones still count
    CLOSED = "closed"


class ClientProtocol:
    """One connection. Not thread-safe, knows no time: timeouts are the owner's, by `stream_mark` and `expire`."""

    def __init__(self) -> None:
        self.phase = Phase.OPEN
        self.goaway: tuple[int, bytes] | None = None
        """Error code and debug data of the peer's GOAWAY."""
        self.settled = False
        """Whether the peer's SETTINGS have arrived; until then one stream is all we open."""
        self.pings_unanswered = 0
        self.limited = False
        """Whether the last `room` was zero because of the peer's limits, so that more connections would help."""
        self._outgoing: list[bytes] = [
            frames.PREFACE,
            frames.settings(
                {
                    Setting.HEADER_TABLE_SIZE: 0,
                    Setting.ENABLE_PUSH: 0,
                    Setting.INITIAL_WINDOW_SIZE: MAX_BODY,
                    Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_BLOCK,
                }
            ),
            frame(Type.WINDOW_UPDATE, 0, 0, word(RECEIVE_WINDOW - frames.DEFAULT_WINDOW)),
        ]
        self._max_streams = 1
        self._budget = ControlBudget()
        self._framer = Framer()
        self._outflow = Outflow(self._outgoing)
        self._inflow = Inflow()
        self._streams = Streams(self._outgoing, self._outflow, self._budget)
        self._answers = Answers(self._streams, self._inflow, self._budget)
        self._buffer = b""
        self._parsed = 0  # bytes received up to the end of the last whole frame

    def __repr__(self) -> str:
        return (
            f"<ClientProtocol {self.phase.value} streams={self.open_streams}/{self._max_streams} "
            f"window={self.window} next={self.stream_mark}>"
        )

    # What the owner asks

    @property
    def open_streams(self) -> int:
        return len(self._streams.open)

    @property
    def window(self) -> int:
        """Bytes of bodies that the connection's window lets through now."""
        return self._outflow.window

    @property
    def in_frame(self) -> int | None:
        """What tells a frame that has begun and not ended from others: its place among the bytes received."""
        return self._parsed if self._buffer else None

    @property
    def stalled(self) -> int | None:
        """The stream that waits for the peer's windows, or would; None where none has to."""
        waiting = next(iter(self._outflow.partials), None)
        return self.stream_mark if waiting is None and self.window <= 0 else waiting

    @property
    def shut(self) -> bool:
        """Whether the peer allows no streams at all."""
        return not self._max_streams

    @property
    def in_header_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return self._answers.block is not None

    @property
    def stream_mark(self) -> int:
        """The next stream's id: all streams opened so far are below it."""
        return self._streams.next_id

    def room(self, size: int = 1) -> int:
        """How many requests can be opened now, with bodies of about this size.

        What would go out in part waits while others are open: their end opens the window or shows that it stays as it
        is. The rest would wait as long, and meanwhile no answer could go the fast way.
        """
        if self.phase is not Phase.OPEN:
            return 0
        open_streams = len(self._streams.open)
        room = self._max_streams - open_streams
        if self._streams.cautious:
            room = min(room, 1 - open_streams)
        if self._outflow.partials or self._outflow.window < (size if open_streams else 1):
            room = 0
        self.limited = room <= 0
        return max(room, 0)

    def take_results(self) -> Results:
        results, self._streams.results = self._streams.results, Results()
        return results

    def data_to_send(self) -> bytes:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    # Requests

    def send(self, head: Head, fields: tuple[list[bytes], ...], bodies: list[bytes], tags: list[Tag]) -> int:
        """Frame requests, as many as streams and windows allow, and say how many: the first ones.

        Args:
            head: what all of them share.
            fields: a column for each name in `head.varying`.
            bodies: not empty; a body above the peer's windows or frame size is sent in parts.
            tags: what their results will carry.
        """
        sent = 0
        count = min(len(bodies), self.room())
        while sent < count:
            # The first request of a head brings its fields into the table; the others then point at them.
            cut = self._framer.cut(head)
            fit = sent if cut is None else self._outflow.fitting(bodies, sent, count)
            if cut is not None and fit > sent:
                some = tuple(column[sent:fit] for column in fields)
                self._send_columns(head, cut, some, bodies[sent:fit], tags[sent:fit])
                sent = fit
            else:
                self._send_one(head, tuple(column[sent] for column in fields), bodies[sent], tags[sent])
                sent += 1
            count = min(count, sent + self.room())
        return sent

    def _send_columns(
        self, head: Head, cut: Cut, fields: tuple[list[bytes], ...], bodies: list[bytes], tags: list[Tag]
    ) -> None:
        """Requests whose bodies go out whole."""
        first = self._streams.next_id
        numbers = range(first, first + 2 * len(bodies), 2)
        sizes = list(map(len, bodies))
        framed = frame_columns(cut, fields, bodies, sizes, numbers, self._outflow.max_frame)
        if framed is None:
            for position, body in enumerate(bodies):
                self._send_one(head, tuple(column[position] for column in fields), body, tags[position])
            return
        self._outgoing.append(framed)
        self._outflow.window -= sum(sizes)
        self._streams.open.update(zip(numbers, tags, strict=True))
        self._advance(numbers.stop)

    def _send_one(self, head: Head, values: tuple[bytes, ...], body: bytes, tag: Tag) -> None:
        """The long way for one request, a part of whose body may have to wait for a window."""
        block, most = self._framer.block(head, values), self._outflow.max_frame
        stream_id = self._streams.next_id
        self._streams.open[stream_id] = tag
        self._advance(stream_id + 2)
        fragments = [block[at : at + most] for at in range(0, len(block), most)]
        for position, fragment in enumerate(fragments):
            kind = Type.CONTINUATION if position else Type.HEADERS
            flags = frames.END_HEADERS if position == len(fragments) - 1 else 0
            self._outgoing.append(frame(kind, flags, stream_id, fragment))
        self._outflow.begin(stream_id, body)

    def _advance(self, next_id: int) -> None:
        self._streams.next_id = next_id
        # Ids cannot be reused (section 5.1.1). Retire while a whole slice still fits.
        if next_id > frames.MAX_STREAM_ID - 2 * MAX_STREAMS:
            self.drain()

    # What else the owner does

    def ping(self) -> None:
        self.pings_unanswered += 1
        self._outgoing.append(frame(Type.PING, 0, 0, b"carillon"))

    def expire(self, mark: int) -> int:
        """Cancel the streams below a former `stream_mark` that still have no whole answer; returns how many."""
        return self._streams.expire(mark)

    def trust(self) -> None:
        """Open more streams although no answer has come: the first request may be one that hangs."""
        self._streams.cautious = False

    def pass_time(self, seconds: float) -> None:
        """So much time has passed: frames that bring no answer are forgiven for it."""
        self._budget.pass_time(seconds)

    def drain(self) -> None:
        """Open no more streams; the connection can be closed when `open_streams` is zero."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.DRAINING

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "closed") -> None:
        """Say GOAWAY, and give back whatever is open as unknown. The owner then closes the transport."""
        if self.phase is Phase.CLOSED:
            return
        self._outgoing.append(frame(Type.GOAWAY, 0, 0, word(0) + word(code)))
        self.receive_eof(reason)

    def receive_eof(self, reason: str = "connection lost") -> None:
        """The connection is gone: what is open has no answer."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        for stream_id in list(self._streams.open):
            self._streams.finish_broken(stream_id, reason)

    # What arrives

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer, in any portions.

        Raises:
            ProtocolError: after `close` with its code, so that `data_to_send` holds the GOAWAY.
        """
        if self.phase is Phase.CLOSED:
            return
        try:
            self._parse(self._buffer + data if self._buffer else data)
        except ProtocolError as error:
            self.close(error.code, "protocol error")
            raise
        refill = self._inflow.refill()
        if refill is not None:
            self._outgoing.append(refill)

    def _parse(self, data: bytes) -> None:
        answers = self._answers
        successes = answers.successes
        position = 0
        end = len(data)
        header = frames.FRAME_HEADER.unpack_from
        while end - position >= HEADER_SIZE:
            if data.startswith(BARE_ACCEPTED, position) and self.settled:
                behind = answers.settle_bare(data, position)
                if behind:
                    position = behind
                    continue
            shape = successes.shape
            if shape is not None and data.startswith(shape.opening, position):
                behind = answers.settle_alike(shape, data, position)
                if behind:
                    position = behind
                    continue
            high, low, kind, flags, stream_id = header(data, position)
            size = high << 16 | low
            if size > frames.DEFAULT_MAX_FRAME:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a frame above our SETTINGS_MAX_FRAME_SIZE")
            start = position + HEADER_SIZE
            if end - start < size:
                break
            position = start + size
            if kind == Type.HEADERS and flags == frames.END_HEADERS:
                behind = answers.settle_pair(data, start, position, stream_id)
                if behind:
                    position = behind
                    continue
            self._frame(kind, flags, stream_id & 0x7FFFFFFF, data[start:position])
        self._buffer = data[position:]
        self._parsed += position

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self.settled and (kind != Type.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        block = self._answers.block
        if block is not None and (kind != Type.CONTINUATION or stream_id != block.stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        of_answer = _OF_ANSWERS.get(kind)
        if of_answer is not None:
            of_answer(self._answers, flags, stream_id, payload)
        elif kind in _OTHERS:
            _OTHERS[kind](self, flags, stream_id, payload)
        else:
            self._budget.count()  # section 4.1: unknown types are ignored

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        self._streams.check_known(stream_id)
        self._budget.count()
        if stream_id not in self._streams.open:
            return  # a reset behind a complete answer takes nothing back
        code = int.from_bytes(payload, "big")
        if code == ErrorCode.REFUSED_STREAM:
            self._streams.finish_unprocessed(stream_id, f"reset {error_name(code)}")
        else:
            self._streams.finish_broken(stream_id, f"reset {error_name(code)}")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._budget.count()
        if flags & frames.ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        if len(payload) % 6:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if not self.settled:
            self.settled = True
            self._max_streams = MAX_STREAMS  # no limit unless one is named (section 6.5.2)
        for key, value in struct.iter_unpack(">HI", payload):
            self._apply(key, value)
        self._outgoing.append(frame(Type.SETTINGS, frames.ACK, 0, b""))
        self._outflow.flush()

    def _apply(self, key: int, value: int) -> None:
        if key == Setting.HEADER_TABLE_SIZE:
            self._framer.encoder.resize(value)
        elif key == Setting.ENABLE_PUSH:
            if value:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a server cannot enable push")
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self._max_streams = min(value, MAX_STREAMS)
        elif key == Setting.INITIAL_WINDOW_SIZE:
            self._outflow.begin_with(value)
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME <= value <= 0xFFFFFF:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a maximum frame size out of range")
            self._outflow.max_frame = value

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")
        if flags & frames.ACK and self.pings_unanswered:
            self.pings_unanswered = 0
            return
        self._budget.count()
        if flags & frames.ACK:
            return
        self._outgoing.append(frame(Type.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        if self.goaway is None:  # of several the first says why (Apple sends two in a row)
            self.goaway = (int.from_bytes(payload[4:8], "big"), payload[8:256])
        self.drain()
        for open_id in [open_id for open_id in self._streams.open if open_id > last]:
            self._streams.finish_unprocessed(open_id, f"GOAWAY {error_name(self.goaway[0])}")
        self._budget.count()

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        self._budget.count()
        if stream_id == 0:
            self._outflow.widen(increment)
            return
        self._streams.check_known(stream_id)
        code = self._outflow.widen_stream(stream_id, increment)
        if code is not None:
            self._streams.reset(stream_id, code)
            self._streams.finish_broken(stream_id, "window update out of range")

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE although push is disabled")

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on the connection")
        self._budget.count()


_OF_ANSWERS: dict[int, Callable[[Answers, int, int, bytes], None]] = {
    Type.DATA: Answers.data,
    Type.HEADERS: Answers.headers,
    Type.CONTINUATION: Answers.continuation,
}
_OTHERS: dict[int, Callable[[ClientProtocol, int, int, bytes], None]] = {
    Type.PRIORITY: ClientProtocol._on_priority,
    Type.RST_STREAM: ClientProtocol._on_rst_stream,
    Type.SETTINGS: ClientProtocol._on_settings,
    Type.PUSH_PROMISE: ClientProtocol._on_push_promise,
    Type.PING: ClientProtocol._on_ping,
    Type.GOAWAY: ClientProtocol._on_goaway,
    Type.WINDOW_UPDATE: ClientProtocol._on_window_update,
}
