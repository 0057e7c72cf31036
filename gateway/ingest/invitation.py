"""`Expect: 100-continue` (RFC 9110, section 10.1.1): a sender is asked for its body once somebody wants to read it.

So whoever has no credential, comes to a full queue or sends what is too large is refused before a byte of the body.
"""

from __future__ import annotations

from aiohttp import web

from gateway.ingest.problem import Refused

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_EXPECTATION = "100-continue"
_UNKNOWN = "Of expectations only 100-continue can be met."


async def invite_later(request: web.Request) -> web.Response | None:
    """For a route whose body is read through `Invited`: an answer only to what cannot be met."""
    return None if _expectation(request) in ("", _EXPECTATION) else Refused(417, _UNKNOWN, close=True).response()


class Invited:
    """A request's content, as `body.Content`, which its sender is asked for when it is first waited for."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._waits = _expectation(request) == _EXPECTATION and request.version >= (1, 1)

    def read_nowait(self) -> bytes:
        return b"" if self._waits else self._request.content.read_nowait()

    def at_eof(self) -> bool:
        return not self._waits and self._request.content.at_eof()

    async def readany(self) -> bytes:
        if self._waits:
            self._waits = False
            transport = self._request.transport
            if transport is not None:
                transport.write(CONTINUE)
        return await self._request.content.readany()


def _expectation(request: web.Request) -> str:
    return request.headers.get("Expect", "").lower()
