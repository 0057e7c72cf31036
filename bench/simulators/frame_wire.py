"""A connection on frames parsed by hand: a third of the library's cost, for big runs under full validation.

It trusts its peer to keep to RFC 9113 where `h2_wire` would prove it.
"""

from __future__ import annotations

import hpack

from . import frames
from .header_reader import HeaderReader
from .message import Headers, Request
from .wire import Backend, Wire


class _Incoming:
    """A request under way."""

    __slots__ = ("block", "body", "fields", "whole")

    def __init__(self) -> None:
        self.block = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = False


class FrameWire(Wire):
    """HTTP/2 by hand."""

    def __init__(self, backend: Backend, number: int) -> None:
        super().__init__(backend, number)
        self._buffer = b""
        self._greeted = False
        self._reader = HeaderReader()
        self._out: list[bytes] = []
        self._requests: dict[int, _Incoming] = {}
        self._unrefilled = 0
        self._window = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._stream_windows: dict[int, int] = {}
        """The differences from the initial window, of open streams."""
        self._stream_window = frames.DEFAULT_WINDOW
        """What we allow a stream to send us."""

    def _begin(self) -> None:
        limits = self.backend.limits
        self._pending_limits.append(limits.streams)
        self._out.append(
            frames.settings(
                {
                    frames.Setting.HEADER_TABLE_SIZE: 4096,
                    frames.Setting.MAX_CONCURRENT_STREAMS: limits.streams,
                    frames.Setting.INITIAL_WINDOW_SIZE: frames.DEFAULT_WINDOW,
                    frames.Setting.MAX_FRAME_SIZE: frames.DEFAULT_FRAME,
                    frames.Setting.MAX_HEADER_LIST_SIZE: limits.header_list,
                }
            )
        )
        if limits.window > frames.DEFAULT_WINDOW:
            self._out.append(frames.window_update(0, limits.window - frames.DEFAULT_WINDOW))

    def _feed(self, data: bytes) -> None:
        data = self._buffer + data
        position, end = 0, len(data)
        if not self._greeted:
            if end < len(frames.PREFACE):
                self._buffer = data
                return
            if not data.startswith(frames.PREFACE):
                self.cut()
                return
            self._greeted, position = True, len(frames.PREFACE)
        unpack, head = frames.HEAD.unpack_from, frames.HEAD.size
        while position + head <= end:
            kind, flags, stream = unpack(data, position)
            payload = position + head
            position = payload + (kind >> 8)
            if position > end:
                position = payload - head
                break
            try:
                self._frame(kind & 0xFF, flags, stream & frames.MAX_STREAM, data[payload:position])
            except (KeyError, IndexError, hpack.HPACKError):
                self.backend.stats["protocol_errors"] += 1
                self.goaway(0, frames.Code.PROTOCOL_ERROR)
                return
        self._buffer = data[position:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._received_data(flags, stream, payload)
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._received_headers(kind, flags, stream, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._received_window(stream, int.from_bytes(payload, "big"))
        elif kind == frames.SETTINGS:
            self._received_settings(flags, payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.RST_STREAM:
            self._requests.pop(stream, None)
            self._stream_windows.pop(stream, None)
            self._closed(stream)

    def _received_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.HEADERS:
            if flags & frames.PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & frames.WITH_PRIORITY:
                payload = payload[5:]
            incoming = self._requests[stream] = self._requests.get(stream) or _Incoming()
            incoming.whole = bool(flags & frames.END_STREAM)
        else:
            incoming = self._requests[stream]
        incoming.block += payload
        if not flags & frames.END_HEADERS:
            return
        incoming.fields += self._reader.read(incoming.block)
        incoming.block = b""
        if stream not in self.streams and not self._admit(stream):
            self._requests.pop(stream, None)
        elif incoming.whole:
            self._whole(stream)

    def _received_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._refill(len(payload))
        incoming = self._requests.get(stream)
        if incoming is None:
            return
        if self._stream_window < frames.DEFAULT_WINDOW and payload and not flags & frames.END_STREAM:
            self._out.append(frames.window_update(stream, len(payload)))
        if flags & frames.PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        incoming.body = incoming.body + payload if incoming.body else payload
        if flags & frames.END_STREAM:
            self._whole(stream)

    def _refill(self, length: int) -> None:
        self._unrefilled += length
        if self._unrefilled * 2 >= self.backend.limits.window:
            self._out.append(frames.window_update(0, self._unrefilled))
            self._unrefilled = 0

    def _whole(self, stream: int) -> None:
        incoming = self._requests.pop(stream)
        self.backend.requested(self, stream, Request.of(incoming.fields, incoming.body))

    def _received_window(self, stream: int, increment: int) -> None:
        if stream == 0:
            self._window += increment
        elif stream in self.streams:
            self._stream_windows[stream] = self._stream_windows.get(stream, 0) + increment
        if self._held:
            self._release()

    def _received_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self._settings_acknowledged()
            return
        for place in range(0, len(payload), 6):
            if int.from_bytes(payload[place : place + 2], "big") == frames.Setting.INITIAL_WINDOW_SIZE:
                self._initial_window = int.from_bytes(payload[place + 2 : place + 6], "big")
        self._out.append(frames.SETTINGS_ACK)
        if self._held:
            self._release()

    def _flush(self) -> None:
        if self._out:
            self._outbox.write(b"".join(self._out))
            self._out.clear()

    def _head(self, stream: int, status: int, headers: Headers, length: int) -> None:
        flags = frames.END_HEADERS if length else frames.END_HEADERS | frames.END_STREAM
        self._out.append(frames.frame(frames.HEADERS, flags, stream, frames.header_block(status, headers)))

    def _data(self, stream: int, chunk: bytes, end: bool) -> None:
        self._window -= len(chunk)
        if end:
            self._stream_windows.pop(stream, None)
        else:
            self._stream_windows[stream] = self._stream_windows.get(stream, 0) - len(chunk)
        self._out.append(frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, chunk))

    def _room(self, stream: int) -> int:
        of_stream = self._initial_window + self._stream_windows.get(stream, 0)
        return min(self._window, of_stream, frames.DEFAULT_FRAME)

    def _reset(self, stream: int, code: int) -> None:
        self._requests.pop(stream, None)
        self._stream_windows.pop(stream, None)
        self._out.append(frames.rst_stream(stream, code))

    def _goaway(self, last_stream: int, code: int, debug: bytes) -> None:
        self._out.append(frames.goaway(last_stream, code, debug))

    def _settings(self, values: dict[int, int]) -> None:
        self._out.append(frames.settings(values))
        if frames.Setting.INITIAL_WINDOW_SIZE in values:
            self._stream_window = values[frames.Setting.INITIAL_WINDOW_SIZE]
            # What bodies under way took of the old window would leave a smaller one negative for ever.
            for stream, request in self._requests.items():
                if request.body:
                    self._out.append(frames.window_update(stream, len(request.body)))
