"""The service's end of an HTTP/2 connection (RFC 9113), frame by frame, so that every frame can go wrong.

It shares no code with the client that it talks to, and refuses whatever a strict server would.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import hpack

from tests.simulation.network import Link

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS = 3
REFUSED_STREAM = 7
WINDOW = 65_535


class Request(NamedTuple):
    session: Session
    stream: int
    headers: dict[str, str]
    body: bytes
    sent_at: float
    """When its last byte was written."""


class Session:
    """Reads requests and sends what it is told to."""

    def __init__(self, link: Link, streams: int, requested: Callable[[Request], None]) -> None:
        self.link = link
        self._requested = requested
        self._buffer = bytearray()
        self._preface = False
        self._decoder = hpack.Decoder()
        self._headers: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self._highest = 0
        self._last_stream = 2**31 - 1
        self.processed = 0
        """The highest stream whose request was taken."""
        self.open: set[int] = set()
        """Requests that were read and are not answered."""
        self.limit_streams(streams)

    # Reading

    def receive(self, data: bytes, sent_at: float) -> None:
        self._buffer += data
        if not self._preface:
            if len(self._buffer) < len(PREFACE):
                return
            assert self._buffer.startswith(PREFACE)
            del self._buffer[: len(PREFACE)]
            self._preface = True
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                return
            kind, flags, stream = self._buffer[3], self._buffer[4], int.from_bytes(self._buffer[5:9], "big")
            payload = bytes(self._buffer[9 : 9 + size])
            del self._buffer[: 9 + size]
            self._frame(kind, flags, stream, payload, sent_at)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, sent_at: float) -> None:
        match kind:
            case 1:  # HEADERS
                assert flags & END_HEADERS
                assert stream % 2 > (stream <= self._highest), "a stream has an odd number, higher than the ones before"
                self._highest = stream
                self._headers[stream] = dict(self._decoder.decode(payload))
                self._bodies[stream] = b""
                self.open.add(stream)
            case 0:  # DATA
                self._bodies[stream] = self._bodies.get(stream, b"") + payload
                if payload:
                    self.send(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload)))
            case 3:
                self.open.discard(stream)
            case 4:
                if not flags & ACK:
                    self.send(SETTINGS, ACK, 0, b"")
            case 6:
                if not flags & ACK:
                    self.send(PING, ACK, 0, payload)
            case 7 | 8:
                pass
            case _:
                raise AssertionError(f"a client does not send frames of type {kind}")
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self._complete(stream, sent_at)

    def _complete(self, stream: int, sent_at: float) -> None:
        headers, body = self._headers.pop(stream), self._bodies.pop(stream)
        if stream in self.open and stream <= self._last_stream:
            self._requested(Request(self, stream, headers, body, sent_at))

    # Sending

    def send(self, kind: int, flags: int, stream: int, payload: bytes, read: Callable[[], None] | None = None) -> None:
        if not self.link.gone:
            self.link.deliver(_frame(kind, flags, stream, payload), read)

    def limit_streams(self, streams: int) -> None:
        self.send(SETTINGS, 0, 0, struct.pack(">HI", MAX_CONCURRENT_STREAMS, streams))

    def answer(self, stream: int, status: int, headers: dict[str, str], body: bytes, read: Callable[[], None]) -> None:
        """Answer a request; `read` is called when the client has read it."""
        if stream not in self.open or self.link.gone:
            return
        self.open.discard(stream)
        block = b"\x88" if status == 200 else b"\x08\x03%d" % status
        block += b"".join(_literal(name, value) for name, value in headers.items())
        frames = _frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), stream, block)
        if body:
            frames += _frame(DATA, END_STREAM, stream, body)
        self.link.deliver(frames, read)

    def reset(self, stream: int, code: int) -> None:
        if stream in self.open:
            self.open.discard(stream)
            self.send(RST_STREAM, 0, stream, struct.pack(">I", code))

    def go_away(self, back: int, code: int) -> None:
        """Say that the last `back` requests are not processed, as far as that is true."""
        self._last_stream = min(self._last_stream, max(self._highest - 2 * back, self.processed))
        self.open = {stream for stream in self.open if stream <= self._last_stream}
        self.send(GOAWAY, 0, 0, struct.pack(">II", self._last_stream, code))

    @property
    def highest(self) -> int:
        return self._highest


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload


def _literal(name: str, value: str) -> bytes:
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
