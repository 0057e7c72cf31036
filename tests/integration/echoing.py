"""A push service over HTTP/2 that answers with what it was sent, in every place that an answer has."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import defaultdict
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events

from bench.simulators import Certificates

Fields = list[tuple[bytes, bytes]]

STATUSES = (0, 200, 400, 410, 413, 429, 500, 503)
"""Of answers, which take turns. Zero is none: the stream is reset, and the next time the connection told to go."""

REFUSED = b"refused"
"""Whoever's topic has this in it is told that his credential is."""


class Echo:
    """In a thread of its own; use as a context."""

    def __init__(self, certificates: Certificates) -> None:
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificates.certificate_file, certificates.key_file)
        self._tls.set_alpn_protocols(["h2"])
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.port = 0
        self.answered = 0
        self.transports: list[asyncio.Transport] = []
        self.heard: list[bytes] = []
        """What was sent back: the values of header fields, and the body."""

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(lambda: _Session(self), "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for transport in self.transports:
            transport.abort()
        await asyncio.sleep(0.1)


class _Session(asyncio.Protocol):
    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._closed = False
        self._fields: dict[int, Fields] = {}
        self._bodies: dict[int, bytes] = defaultdict(bytes)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._echo.transports.append(transport)
        self._h2.initiate_connection()
        self._transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in [] if self._closed else self._h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self._fields[event.stream_id] = [(bytes(name), bytes(value)) for name, value in event.headers]
                case h2.events.DataReceived():
                    self._bodies[event.stream_id] += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded() if not self._closed:
                    self._answer(event.stream_id)
        self._transport.write(self._h2.data_to_send())
        if self._closed:
            self._transport.close()

    def _answer(self, stream_id: int) -> None:
        fields, body = self._fields.pop(stream_id), self._bodies.pop(stream_id)
        status, self._echo.answered = STATUSES[self._echo.answered % len(STATUSES)], self._echo.answered + 1
        path = dict(fields)[b":path"]
        self._echo.heard += [path, body, dict(fields).get(b"authorization", b"")]
        text = b" ".join([path, *(value for _, value in fields), body])
        if REFUSED in dict(fields).get(b"apns-topic", b""):
            status = 403
        if status:
            self._respond(stream_id, status, path, text)
        elif self._echo.answered == 1:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        else:
            self._closed = True
            self._h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, text[:4000], stream_id)

    def _respond(self, stream_id: int, status: int, path: bytes, text: bytes) -> None:
        said = text.decode("latin-1")
        visible = bytes(byte for byte in text if 0x20 < byte < 0x7F)[:4000]
        token = path.rpartition(b"/")[2]
        error = {"code": status, "message": said, "status": said, "details": [{"errorCode": said, "reason": said}]}
        answer = {
            "reason": said,
            "error": error if status != 500 else token.decode("latin-1"),
            "name": f"projects/x/messages/{said[-200:]}",
            "errno": said,
            "message": said,
            "timestamp": said,
        }
        headers = [
            (b":status", b"%d" % status), (b"apns-id", token), (b"apns-unique-id", token), (b"location", path),
            (b"retry-after", b"1"), (b"x-wns-error-description", visible[:100]), (b"www-authenticate", visible),
            (b"server", visible), (b"date", visible),
        ]  # fmt: skip
        self._h2.send_headers(stream_id, headers)
        self._h2.send_data(stream_id, json.dumps(answer).encode()[:16_000], end_stream=True)
