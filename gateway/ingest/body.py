"""A request's body as it arrives: timed, hashed, and cut into texts of whole lines."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

from aiohttp.web import RequestPayloadError

from gateway.ingest.limits import Limits
from gateway.ingest.memory import Share
from gateway.ingest.problem import Refused

OVERLONG = b""
"""Stands among texts for one line that was too long, and thrown away."""

_LATE = "The body came too slowly. Send the request again."
_BROKEN = "The connection broke, or the body was malformed, before its end. Nothing of it was kept."


class Content(Protocol):
    """What is needed of `aiohttp.StreamReader`."""

    def read_nowait(self) -> bytes:
        """What is here; b"" if nothing is."""

    def at_eof(self) -> bool:
        """Whether nothing will come any more."""

    async def readany(self) -> bytes:
        """What has arrived, at least a byte; b"" at the end."""


class Body:
    """Reads with a deadline: for a sender that is silent or drips, not for one that we keep waiting."""

    def __init__(self, content: Content, limits: Limits, *, hashed: bool) -> None:
        self._content = content
        self._limits = limits
        self._hash = hashlib.sha256() if hashed else None  # 1 us a KiB: only where somebody will compare
        self._loop = asyncio.get_running_loop()
        self._waited = 0.0
        self._waiting: asyncio.Timeout | None = None
        self._refusal: Refused | None = None
        self.received = 0

    def refuse(self, refusal: Refused) -> None:
        """Read no more of it: whoever reads gets this, at once. Without effect once all of it was read."""
        self._refusal = refusal
        if self._waiting is not None:
            self._waiting.reschedule(self._loop.time())

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of what was read so far; b"" if nobody wants it."""
        return self._hash.digest() if self._hash else b""

    async def read(self) -> bytes:
        """What has arrived; b"" at the end.

        Raises:
            Refused: 408, too slow; 400, it broke off; what `refuse` was given.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            data = self._content.read_nowait()
            if not data and not self._content.at_eof():  # a small body came with its head, and needs no timer
                data = await self._wait()
        except (ConnectionError, RequestPayloadError):
            raise Refused(400, _BROKEN, close=True) from None
        self.received += len(data)
        if self._hash:
            self._hash.update(data)
        return data

    async def _wait(self) -> bytes:
        start = self._loop.time()
        allowance = self._limits.grace + self.received / self._limits.pace - self._waited
        try:
            async with asyncio.timeout_at(start + min(self._limits.pause, allowance)) as self._waiting:
                data = await self._content.readany()
        except TimeoutError:
            raise self._refusal or Refused(408, _LATE, close=True) from None
        finally:
            self._waiting = None
        self._waited += self._loop.time() - start
        return data

    async def whole(self, most: int, share: Share | None = None) -> bytes:
        """All of it; `share` is for what is larger than `Limits.free`.

        Raises:
            Refused: 413, it is larger than `most`; 503, there is no memory for it; as `read`.
        """
        parts = []
        while data := await self.read():
            if self.received > most:
                raise too_large(most)
            if share is not None and self.received > self._limits.free:
                # Three times: it is joined of parts, its recipients are cut out of it, and they become columns.
                share.hold(3 * self.received)
            parts.append(data)
        return b"".join(parts)

    async def drain(self) -> None:
        """Read to the end for its fingerprint."""
        while await self.read():
            pass

    async def texts(self) -> AsyncGenerator[bytes]:
        """Whole lines, at most `Limits.line` bytes of them at a time, or `OVERLONG`."""
        lines = Lines(self._limits.line)
        while data := await self.read():
            for text in lines.feed(data):
                yield text
        for text in lines.end():
            yield text


class Lines:
    """Cuts bytes into texts of whole lines, each text at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) > self._limit:
            if self._skipping:
                self._skip()
            elif cut := self._buffer.rfind(b"\n", 0, self._limit) + 1:
                yield bytes(self._buffer[:cut])
                del self._buffer[:cut]
            else:
                self._skipping = True
                yield OVERLONG

    def end(self) -> Iterator[bytes]:
        """What is left; the last line needs no newline."""
        if self._skipping:
            self._skip()
        if self._buffer:
            yield bytes(self._buffer)

    def _skip(self) -> None:
        """Throw away the rest of a line, as far as it is here."""
        if cut := self._buffer.find(b"\n") + 1:
            del self._buffer[:cut]
            self._skipping = False
        else:
            self._buffer.clear()


def too_large(most: int) -> Refused:
    return Refused(413, f"A JSON body has at most {most:,} bytes here; send larger jobs as application/x-ndjson.")
