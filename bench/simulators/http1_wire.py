"""A connection on HTTP/1.1, for clients that agree on nothing newer: one request after another."""

from __future__ import annotations

from http import HTTPStatus

from .message import Headers, Request
from .wire import Backend, Wire


class Http1Wire(Wire):
    """HTTP/1.1 with bodies of known length. Each request gets an odd number for its stream."""

    def __init__(self, backend: Backend, number: int) -> None:
        super().__init__(backend, number)
        self._buffer = b""
        self._out: list[bytes] = []
        self._next = 1

    def _begin(self) -> None:
        return None

    def _feed(self, data: bytes) -> None:
        self._buffer += data
        while not self.streams and self._request():
            pass

    def _request(self) -> bool:
        """Takes one request from the buffer, if a whole one is there."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.split(b"\r\n")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        length = int(dict(fields).get(b"content-length", b"0"))
        if len(rest) < length:
            return False
        self._buffer = rest[length:]
        method, path, _ = first.split(b" ", 2)
        request = Request.of([(b":method", method), (b":path", path), *fields], rest[:length])
        stream, self._next = self._next, self._next + 2
        if self._admit(stream):
            self.backend.requested(self, stream, request)
        return True

    def _closed(self, stream: int) -> None:
        super()._closed(stream)
        if self._buffer and not self._reading:
            self._feed(b"")

    def _flush(self) -> None:
        if self._out:
            self._outbox.write(b"".join(self._out))
            self._out.clear()

    def _head(self, stream: int, status: int, headers: Headers, length: int) -> None:
        phrase = HTTPStatus(status).phrase.encode()
        fields = b"".join(b"%b: %b\r\n" % field for field in headers)
        self._out.append(b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n" % (status, phrase, fields, length))

    def _data(self, stream: int, chunk: bytes, end: bool) -> None:
        self._out.append(chunk)

    def _room(self, stream: int) -> int:
        return 1 << 30
