"""An HTTP/2 client on the library h2, independent of both sides, for tests of the simulators."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import jwt

TOKEN = "ab" * 32


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client(asyncio.Protocol):
    """One connection. Whatever arrives wakes those who wait for a condition."""

    def __init__(self, port: int) -> None:
        self.authority = f"127.0.0.1:{port}"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        self.responses: dict[int, Response] = {}
        self.finished: set[int] = set()
        self.resets: dict[int, list[int]] = {}
        self.goaways: list[tuple[int, int, bytes]] = []
        self.limits: list[int] = []
        self.window_updates: list[int] = []
        self.pongs = 0
        self.lost = False
        self._buffer = b""
        self._changed = asyncio.Event()

    @classmethod
    async def connect(cls, port: int, ca_file: Path, certificate: tuple[Path, Path] | None = None) -> Client:
        context = ssl.create_default_context(cafile=str(ca_file))
        context.set_alpn_protocols(["h2"])
        if certificate:
            context.load_cert_chain(*certificate)
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: cls(port), "127.0.0.1", port, ssl=context
        )
        await client.until(lambda: bool(client.limits))
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        for frame in self._frames(data):
            if frame[3] == 7:  # GOAWAY, after which h2 would refuse the answers that still come
                last, code = struct.unpack_from(">II", frame, 9)
                self.goaways.append((last, code, frame[17:]))
                continue
            for event in self.h2.receive_data(frame):
                self._happened(event)
        self.flush()
        self._changed.set()

    def _frames(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) >= 9 and len(self._buffer) >= (end := 9 + int.from_bytes(self._buffer[:3], "big")):
            frame, self._buffer = self._buffer[:end], self._buffer[end:]
            yield frame

    def _happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(headers=headers, stream_id=stream):
                fields = dict(headers)
                self.responses[stream] = Response(int(fields.pop(":status")), fields, b"")
            case h2.events.DataReceived(data=data, stream_id=stream, flow_controlled_length=length):
                response = self.responses[stream]
                self.responses[stream] = response._replace(body=response.body + data)
                self.h2.acknowledge_received_data(length, stream)
            case h2.events.StreamEnded(stream_id=stream):
                self.finished.add(stream)
            case h2.events.StreamReset(stream_id=stream, error_code=code):
                self.resets.setdefault(stream, []).append(int(code))
            case h2.events.RemoteSettingsChanged(changed_settings=changed):
                limit = changed.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                self.limits += [limit.new_value] if limit else []
            case h2.events.WindowUpdated(stream_id=0, delta=delta):
                self.window_updates.append(delta)
            case h2.events.PingAckReceived():
                self.pongs += 1

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.transport.write(data)

    async def until(self, condition: Any, timeout: float = 5.0) -> None:
        """Waits until something that arrived made a condition true."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def send(self, path: str, headers: dict[str, str], body: bytes = b"", method: str = "POST") -> int:
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        self.h2.send_headers(stream, fields + list(headers.items()), end_stream=not body)
        if body:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    async def answer(self, stream: int) -> Response:
        await self.until(lambda: stream in self.finished or stream in self.resets or self.lost)
        assert stream in self.finished, f"no answer: resets {self.resets}, goaways {self.goaways}, lost {self.lost}"
        return self.responses[stream]

    async def request(self, path: str, headers: dict[str, str], body: bytes = b"", method: str = "POST") -> Response:
        return await self.answer(self.send(path, headers, body, method))

    def close(self) -> None:
        self.transport.abort()


def provider_token(key_file: Path, *, key_id: str = "SIMKEY0001", team: str = "SIMTEAM001", age: float = 0) -> str:
    claims = {"iss": team, "iat": int(time.time() - age)}
    return jwt.encode(claims, key_file.read_bytes(), algorithm="ES256", headers={"kid": key_id})


def apns_headers(token: str, **changes: str | None) -> dict[str, str]:
    headers: dict[str, str | None] = {
        "authorization": f"bearer {token}",
        "apns-id": str(uuid.uuid4()),
        "apns-topic": "com.example.shop",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": "0",
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return {name: value for name, value in headers.items() if value is not None}


def apns_body(**aps: Any) -> bytes:
    return json.dumps({"aps": {"alert": {"title": "T", "body": "B"}, **aps}}).encode()


def assertion(account: dict[str, str], **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": account["token_uri"],
        "iat": now,
        "exp": now + 3600,
    }
    headers = {"kid": account["private_key_id"]}
    return jwt.encode(claims | changes, account["private_key"], algorithm="RS256", headers=headers)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
