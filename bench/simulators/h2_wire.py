"""A connection on the library `h2`: the wire where conformance matters more than speed."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.settings import SettingCodes

from . import frames
from .message import Headers, Request
from .wire import Backend, Wire

_CONFIG = h2.config.H2Configuration(client_side=False, header_encoding=None)


class _Connection(h2.connection.H2Connection):
    """`h2` without its stream limit: the simulators break over-runs in the services' own ways.

    Its count walks all streams and forgets closed ones in passing; once in a while is enough of that.
    """

    _asked = 0

    @property
    def open_inbound_streams(self) -> int:
        self._asked += 1
        if self._asked % 512 == 0:
            _ = super().open_inbound_streams
        return 0


class H2Wire(Wire):
    """HTTP/2 by the library."""

    def __init__(self, backend: Backend, number: int) -> None:
        super().__init__(backend, number)
        self._h2 = _Connection(_CONFIG)
        self._out = b""
        self._requests: dict[int, tuple[list[tuple[bytes, bytes]], bytearray]] = {}

    def _begin(self) -> None:
        limits = self.backend.limits
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                SettingCodes.HEADER_TABLE_SIZE: 4096,
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
                SettingCodes.INITIAL_WINDOW_SIZE: frames.DEFAULT_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: frames.DEFAULT_FRAME,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list,
            },
        )
        self._pending_limits.append(limits.streams)
        self._h2.initiate_connection()
        if limits.window > frames.DEFAULT_WINDOW:
            self._h2.increment_flow_control_window(limits.window - frames.DEFAULT_WINDOW)

    def _feed(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.backend.stats["protocol_errors"] += 1
            self._flush()  # holds the library's GOAWAY
            self._outbox.close()
            return
        for event in events:
            self._happened(event)

    def _happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(headers=headers, stream_id=int(stream)):
                if self._admit(stream):
                    fields = [(bytes(name), bytes(value)) for name, value in headers or ()]
                    self._requests[stream] = (fields, bytearray())
            case h2.events.DataReceived(data=data, stream_id=int(stream)):
                self._body(stream, data or b"", event.flow_controlled_length or 0)
            case h2.events.StreamEnded(stream_id=int(stream)):
                if (request := self._requests.pop(stream, None)) is not None:
                    self.backend.requested(self, stream, Request.of(request[0], bytes(request[1])))
            case h2.events.StreamReset(stream_id=int(stream)):
                self._requests.pop(stream, None)
                self._closed(stream)
            case h2.events.SettingsAcknowledged(changed_settings=changed):
                self._settings_acknowledged()
                if SettingCodes.INITIAL_WINDOW_SIZE in (changed or ()):
                    self._reopen_windows()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._release()
            case _:
                pass

    def _body(self, stream: int, data: bytes, length: int) -> None:
        if stream in self._requests:
            self._requests[stream][1].extend(data)
        if length:
            try:
                self._h2.acknowledge_received_data(length, stream)
            except h2.exceptions.StreamClosedError:
                return

    def _reopen_windows(self) -> None:
        """What bodies under way took of the old window would leave a smaller one negative for ever."""
        for stream, (_, body) in self._requests.items():
            if body:
                self._h2.increment_flow_control_window(len(body), stream)

    def _flush(self) -> None:
        data = self._out + self._h2.data_to_send()
        self._out = b""
        if data:
            self._outbox.write(data)

    def _raw(self, data: bytes) -> None:
        """Behind what the library wrote so far: frames that it has no way to send as the services do."""
        self._out += self._h2.data_to_send() + data

    def _head(self, stream: int, status: int, headers: Headers, length: int) -> None:
        fields = [(b":status", b"%d" % status), *headers]
        self._h2.send_headers(stream, fields, end_stream=not length)

    def _data(self, stream: int, chunk: bytes, end: bool) -> None:
        self._h2.send_data(stream, chunk, end_stream=end)

    def _room(self, stream: int) -> int:
        return min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)

    def _reset(self, stream: int, code: int) -> None:
        self._requests.pop(stream, None)
        try:
            self._h2.reset_stream(stream, code)
        except h2.exceptions.StreamClosedError:  # after a complete answer, which services do all the same
            self._raw(frames.rst_stream(stream, code))

    def _goaway(self, last_stream: int, code: int, debug: bytes) -> None:
        self._raw(frames.goaway(last_stream, code, debug))

    def _settings(self, values: dict[int, int]) -> None:
        self._h2.update_settings(values)
