"""Flow control (RFC 9113 section 5.2): what the peer's windows let through, and what ours give back."""

from __future__ import annotations

from itertools import accumulate

from gateway.http2 import frames
from gateway.http2.frames import ErrorCode, ProtocolError, Type, frame, word

RECEIVE_WINDOW = 16 * 1024 * 1024
"""Of the connection. Error bodies of 50 bytes by the thousand must not stall behind a small window."""


class _Partial:
    """A request body that the windows did not let through whole."""

    __slots__ = ("rest", "window")

    def __init__(self, rest: bytes, window: int) -> None:
        self.rest = rest
        self.window = window


class Outflow:
    """The peer's windows and frame size. A body that they do not let through whole waits here for the rest."""

    def __init__(self, outgoing: list[bytes]) -> None:
        """`outgoing` gets the DATA frames that go out."""
        self.window = frames.DEFAULT_WINDOW
        """The connection's, in bytes. Whoever sends bodies without `begin` takes them off it."""
        self.stream_window = frames.DEFAULT_WINDOW
        """What a new stream begins with."""
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self.partials: dict[int, _Partial] = {}
        """By stream id, in order of sending."""
        self._outgoing = outgoing

    def fitting(self, bodies: list[bytes], start: int, stop: int) -> int:
        """Up to where bodies go out whole: below the stream window and frame size, together below the window."""
        sizes = list(map(len, bodies[start:stop]))
        whole = min(self.stream_window, self.max_frame, frames.DEFAULT_MAX_FRAME)
        if max(sizes) <= whole and sum(sizes) <= self.window:
            return stop
        for position, total in enumerate(accumulate(sizes)):
            if sizes[position] > whole or total > self.window:
                return start + position
        return stop

    def begin(self, stream_id: int, body: bytes) -> None:
        """Send a body, as much as goes now."""
        self.partials[stream_id] = _Partial(body, self.stream_window)
        self._flush(stream_id)

    def flush(self) -> None:
        """Send what the windows let through by now."""
        for stream_id in list(self.partials):
            self._flush(stream_id)

    def _flush(self, stream_id: int) -> None:
        partial = self.partials[stream_id]
        while partial.rest:
            size = min(len(partial.rest), self.max_frame, partial.window, self.window)
            if size <= 0:
                return
            chunk, partial.rest = partial.rest[:size], partial.rest[size:]
            partial.window -= size
            self.window -= size
            flags = 0 if partial.rest else frames.END_STREAM
            self._outgoing.append(frame(Type.DATA, flags, stream_id, chunk))
        del self.partials[stream_id]

    def widen(self, increment: int) -> None:
        """The peer's WINDOW_UPDATE of the connection (section 6.9)."""
        if not increment:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
        self.window += increment
        if self.window > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window above 2^31-1")
        self.flush()

    def widen_stream(self, stream_id: int, increment: int) -> ErrorCode | None:
        """The peer's WINDOW_UPDATE of a stream; returns what it is reset with if that was out of range."""
        partial = self.partials.get(stream_id)
        if partial is None:
            return None  # its body is through: the window means nothing any more
        partial.window += increment
        if not increment:
            return ErrorCode.PROTOCOL_ERROR
        if partial.window > frames.MAX_WINDOW:
            return ErrorCode.FLOW_CONTROL_ERROR
        self._flush(stream_id)
        return None

    def begin_with(self, stream_window: int) -> None:
        """The peer's SETTINGS_INITIAL_WINDOW_SIZE."""
        if stream_window > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "an initial window above 2^31-1")
        # Section 6.9.2: the change counts for open streams as well and may leave them below zero.
        for partial in self.partials.values():
            partial.window += stream_window - self.stream_window
            if partial.window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window above 2^31-1")
        self.stream_window = stream_window


class Inflow:
    """Our window of the connection. Streams' windows are never refilled, see `answers.MAX_BODY`."""

    def __init__(self) -> None:
        self.received = 0
        """Bytes of DATA, with padding, since the last refill."""

    def refill(self) -> bytes | None:
        """The frame that opens the window again, once half of it is used."""
        if self.received < RECEIVE_WINDOW // 2:
            return None
        update = frame(Type.WINDOW_UPDATE, 0, 0, word(self.received))
        self.received = 0
        return update
