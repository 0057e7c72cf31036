"""What is answered to bytes that are no HTTP: a problem like all others, which quotes none of them.

aiohttp's own answer repeats the line that it could not read, which may be one with a credential, and logs it as an
error of ours. It has no public way to say this differently; only the class of a connection has one.
"""

from __future__ import annotations

from http import HTTPStatus

import structlog
from aiohttp import web

from gateway.ingest.problem import Refused, failed

_LOG = structlog.get_logger()

_MALFORMED = "This is no HTTP/1.1 request (RFC 9112), or one with a line or field that is too long."


class _Connection(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer, and close the connection.

        Raises:
            ConnectionError: another answer has begun, so that none can be given.
        """
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            _LOG.debug("http.malformed", problem=type(exc).__name__)
            refused = Refused(status, _MALFORMED, close=True)
        else:
            _LOG.error("http.failed", method=request.method, exc_info=exc)
            refused = failed(close=True)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        return refused.response()


class _Server(web.Server):
    def __init__(self, made: web.Server) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory, **made._kwargs)

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Serves an application, and answers what never becomes a request of it."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server())
