"""A caller of `POST /v1/jobs` that costs next to nothing, for measuring latency: HTTP/1.1 written and read by hand.

An HTTP client library takes half a millisecond of processor for a request, as long as the gateway does, and all of it
would count as latency. The requests are what any caller sends; of the answers only the status and the body are read.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from bench.api import ApiError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Poster:
    """Keeps connections open, one request at a time on each; opens another when all are taken."""

    def __init__(self, url: str, credential: Mapping[str, str]) -> None:
        at = urlsplit(url)
        assert at.hostname is not None
        assert at.port is not None
        self._host, self._port = at.hostname, at.port
        self._credential = "".join(f"{name}: {value}\r\n" for name, value in credential.items())
        self._idle: list[_Wire] = []
        self._all: list[_Wire] = []

    async def submit_document(self, document: bytes) -> dict[str, Any]:
        """Post a job as one JSON document and return the answer.

        Raises:
            ApiError: it was not accepted, or the connection broke off.
        """
        wire = self._idle.pop() if self._idle else await self._open()
        status, body = await wire.post(self._head(len(document)) + document)
        self._idle.append(wire)
        if status != 202:
            raise ApiError(body.decode("utf-8", "replace"), status)
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _head(self, size: int) -> bytes:
        return (
            f"POST /v1/jobs HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"{self._credential}Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        ).encode()

    async def _open(self) -> _Wire:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(_Wire, self._host, self._port)
        self._all.append(wire)
        return wire

    def close(self) -> None:
        for wire in self._all:
            wire.close()


class _Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def post(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Write a request; the future has the answer's status and body."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        size = _LENGTH.search(head + b"\r\n")
        if not separator or self._answer is None or size is None or len(body) < int(size[1]):
            return
        self._received = b""
        self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ApiError("the gateway closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
