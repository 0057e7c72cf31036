"""The other end: `h2` as the server, which raises when a client breaks the protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
from h2.settings import SettingCodes

from tests.gateway.http2 import wire

Fields = list[tuple[bytes, bytes]]
Effect = Callable[[], None]
"""What a frame means for the model, once the client has read its last byte."""
Shape = Callable[[bytes], bytes]
"""The same frame in other words."""

DEFAULTS: dict[SettingCodes | int, int] = {
    SettingCodes.HEADER_TABLE_SIZE: 4096,
    SettingCodes.MAX_CONCURRENT_STREAMS: 100,
    SettingCodes.INITIAL_WINDOW_SIZE: 65_535,
    SettingCodes.MAX_FRAME_SIZE: 16_384,
}


@dataclass
class Request:
    """A request as far as the server has seen it, and how far its answer is."""

    fields: Fields
    body: bytes = b""
    whole: bool = False
    status_sent: bool = False
    ended: bool = False
    """Nothing more can be sent on this stream."""
    informed: int = 0

    @property
    def unanswered(self) -> bool:
        return not self.status_sent and not self.ended


class Server:
    """A connection of a server. What it sends waits in `outgoing`, with what it means, until it is carried over."""

    def __init__(self, **settings: int) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.requests: dict[int, Request] = {}
        self.outgoing: deque[tuple[bytes, Effect | None]] = deque()
        self._unread = b""
        self.h2.initiate_connection()
        self.h2.data_to_send()  # the first SETTINGS the client sees are our own, which count once acknowledged
        self.announce(settings)

    def announce(self, settings: dict[str, int]) -> None:
        """Send SETTINGS, all of them each time: h2 takes one value of each for each acknowledgement."""
        chosen: dict[SettingCodes | int, int] = {SettingCodes[name]: value for name, value in settings.items()}
        self.h2.update_settings(DEFAULTS | chosen)
        self.say()

    def say(self, effect: Effect | None = None, shape: Shape = bytes) -> None:
        """Queue what h2 has to send."""
        data = self.h2.data_to_send()
        if data:
            self.outgoing.append((shape(data), effect))

    def say_raw(self, data: bytes, effect: Effect | None = None) -> None:
        """Queue a frame that h2 knows nothing of."""
        self.outgoing.append((data, effect))

    def receive(self, data: bytes) -> None:
        """Read from the client.

        Raises:
            h2.exceptions.ProtocolError: the client broke a rule.
        """
        self._unread += data
        while size := _first_size(self._unread):
            frame, self._unread = self._unread[:size], self._unread[size:]
            for event in self.h2.receive_data(frame):  # frame by frame: h2 applies its frame size once a call
                self._on_event(event)
        self.say()

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                assert not self.requests or event.stream_id > max(self.requests)
                self.requests[event.stream_id] = Request([(bytes(n), bytes(v)) for n, v in event.headers])
            case h2.events.DataReceived():
                self.requests[event.stream_id].body += event.data
            case h2.events.StreamEnded():
                self.requests[event.stream_id].whole = True
            case h2.events.StreamReset():
                self.requests[event.stream_id].ended = True
            case h2.events.ConnectionTerminated():
                raise AssertionError("the client gave up a connection that did no wrong")

    def grant(self, increment: int, stream_id: int | None = None) -> None:
        """Widen the connection's window, or that of a stream on which more can come."""
        request = None if stream_id is None else self.requests[stream_id]
        if request is None or not (request.whole or request.ended):
            self.h2.increment_flow_control_window(increment, stream_id)
            self.say()


def _first_size(data: bytes) -> int:
    """How long the first frame of `data`, or the preface, is; zero if it has not all arrived."""
    size = len(wire.PREFACE) if wire.PREFACE.startswith(data[:4]) else 9 + int.from_bytes(data[:3], "big")
    return size if len(data) >= 9 and size <= len(data) else 0


def reframed(data: bytes, pieces: int, padding: int, priority: bool) -> bytes:
    """A HEADERS frame told in other words: with CONTINUATION, padding, priority (RFC 9113 sections 6.2, 6.10)."""
    frame, *rest = wire.split(data)
    assert not rest
    assert frame.kind == wire.HEADERS
    block = frame.payload
    size = max(1, -(-len(block) // pieces))
    fragments = [block[at : at + size] for at in range(0, len(block), size)]
    flags = frame.flags & wire.END_STREAM
    first = fragments.pop(0)
    if priority:
        flags |= wire.PRIORITISED
        first = b"\x00\x00\x00\x00\x0f" + first
    if padding:
        flags |= wire.PADDED
        first = wire.padded(first, padding)
    if not fragments:
        return wire.raw(wire.HEADERS, flags | wire.END_HEADERS, frame.stream_id, first)
    last = fragments.pop()
    middle = b"".join(wire.raw(wire.CONTINUATION, 0, frame.stream_id, fragment) for fragment in fragments)
    start = wire.raw(wire.HEADERS, flags, frame.stream_id, first)
    return start + middle + wire.raw(wire.CONTINUATION, wire.END_HEADERS, frame.stream_id, last)
