"""One request on a pool of its own, awaited: for what a credential needs answered before it can sign."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from gateway.http2.connection import Requests
from gateway.http2.pool import Address, DialFailure, Pool
from gateway.http2.results import Answer, Results, Tag
from providers.base import Exchange, Head

REQUEST_TIMEOUT = 15.0
TRIES = 5
"""How often a request is sent that comes back unprocessed each time."""


class RequestFailed(Exception):
    """No answer came; the message says why, without anything of the request."""


class _One:
    """A source of a single request. Also the pool's listener: a failed dial ends the wait."""

    def __init__(self, requests: Requests) -> None:
        self._requests: Requests | None = requests
        self._spare = requests
        self._tries = TRIES
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    @property
    def backlog(self) -> bool:
        return self._requests is not None

    def take(self, streams: int, window: int) -> Requests | None:
        requests, self._requests = self._requests, None
        return requests

    def give_back(self, tags: list[Tag]) -> None:
        self._requests = self._spare

    def settle(self, results: Results) -> None:
        if results.unsent:
            self._again()
        for tag in results.accepted:
            self._resolve(Answer(tag, 200, (), b""))
        for answer in results.answered:
            self._resolve(answer)
        for _, reason in results.unknown:
            self._fail(reason)

    def dialled(self, failure: DialFailure | None) -> None:
        if failure is not None:
            self._fail(failure.detail)

    def goaway(self, code: int, debug: bytes) -> None:
        """Nothing to learn: an unsent request comes back by `settle`."""

    def _again(self) -> None:
        self._tries -= 1
        if self._tries:
            self._requests = self._spare
        else:
            self._fail("the server processes nothing")

    def _resolve(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def _fail(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(RequestFailed(reason))


async def post(exchange: Exchange, tls: ssl.SSLContext) -> Answer:
    """Make an exchange's request and wait for its answer.

    Raises:
        RequestFailed: there was none within `REQUEST_TIMEOUT` seconds.
    """
    parts = urlsplit(exchange.url)
    origin = f"{parts.scheme}://{parts.netloc}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = Head(
        fixed=((b":method", b"POST"), (b":scheme", b"https"), (b":authority", parts.netloc.encode())),
        literal=exchange.headers,
        varying=(b":path",),
    )
    source = _One(Requests(head, ([path.encode()],), [exchange.body], [None]))
    pool = Pool(
        Address.of(origin),
        tls,
        source,
        source,
        limit=1,
        request_timeout=REQUEST_TIMEOUT,
        connect_timeout=REQUEST_TIMEOUT,
    )
    pool.wake()
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            return await source.answer
    except TimeoutError as error:
        raise RequestFailed("no answer in time") from error
    finally:
        await pool.close(0.0)
