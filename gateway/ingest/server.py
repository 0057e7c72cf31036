"""The HTTP side: routes, content types, and what is said about a request that nobody can answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.ingest.body import Body, too_large
from gateway.ingest.intake import Answer, Apps, Intake, Meter
from gateway.ingest.limits import KIB, Limits
from gateway.ingest.problem import Refused
from gateway.queue.base import Queue, QueueError
from providers.base import Provider

_LOG = structlog.get_logger()

JSON = "application/json"
NDJSON = "application/x-ndjson"

_KEY = re.compile(r"[!-~]{1,255}")
_NO_JOB = "There is no such job, or its receipts are older than they are kept."
_ENCODED = "Send the body as it is: compressed ones are not taken."
_FAILED = "The gateway failed at this request, which may or may not have been done. Its log says more."
_SHUTDOWN_GRACE = 10.0


class Ingest:
    """What callers of the gateway can ask for, over HTTP.

    Args:
        apps: what is configured, app -> provider -> settings.
        providers: what is known, by name.
        queue: where jobs go.
        receipts: where is read what became of them.
        on_work: called when there is something new to lease.
        meter: where recipients are counted.
    """

    def __init__(
        self,
        *,
        apps: Apps,
        providers: Mapping[str, Provider],
        queue: Queue,
        on_work: Callable[[], None],
        meter: Meter,
        limits: Limits = Limits(),
    ) -> None:
        self._intake = Intake(apps, providers, queue, on_work, meter, limits)
        self._queue = queue
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/jobs", self._submit),
            web.delete("/v1/jobs/{id}", self._cancel),
        ]

    async def _submit(self, request: web.Request) -> web.Response:
        kind = _content_type(request, JSON, NDJSON)
        key = _idempotency_key(request)
        length = request.content_length
        if kind == JSON and length is not None and length > self._limits.body:
            raise too_large(self._limits)
        body = Body(request.content, self._limits, hashed=key is not None)
        take = self._intake.document if kind == JSON else self._intake.stream
        with self._intake.upload() as share:
            return _accepted(await take(body, share, key))

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        if not await self._queue.cancel(job_id, time.time()):
            raise Refused(404, _NO_JOB)
        return web.json_response({"job": job_id}, status=202)


def application(routes: Iterable[web.AbstractRouteDef], middlewares: Sequence[Middleware] = ()) -> web.Application:
    """An application of these routes, all of whose errors are problems. `middlewares` stand outside of that."""
    # `client_max_size` guards aiohttp's own readers, which nothing here uses.
    app = web.Application(middlewares=[*middlewares, _problems], client_max_size=64 * KIB)
    app.add_routes(routes)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """Serves an application the way ingest needs it."""
    return web.AppRunner(
        app,
        access_log=None,  # metrics count requests; nobody can afford a line for each
        auto_decompress=False,  # refused by its header, so not a byte of a bomb is inflated
        keepalive_timeout=75.0,  # also ends connections that never send a request
        lingering_time=5.0,  # for senders of large bodies that were refused early
        shutdown_timeout=_SHUTDOWN_GRACE,
        handle_signals=False,
    )


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return refused.response()
    except QueueError as error:
        return Refused(503, str(error), retry_after=5).response()
    except web.HTTPMethodNotAllowed as error:
        allow = {"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=allow)
        return Refused(405, f"{request.method} is not possible here.", headers=allow).response()
    except web.HTTPException as error:
        return Refused(error.status, error.text or error.reason).response()
    except Exception:
        _LOG.exception("http.failed", method=request.method)
        return Refused(500, _FAILED).response()


def _accepted(answer: Answer) -> web.Response:
    headers = {"Location": f"/v1/jobs/{answer.job_id}"}
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    return web.Response(status=202, body=answer.body, content_type=JSON, headers=headers)


def _content_type(request: web.Request, *known: str) -> str:
    """The request's media type, one of `known`."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, _ENCODED, headers={"Accept-Encoding": "identity"})
    if request.content_type not in known:
        raise Refused(415, f"Send it as {' or '.join(known)}.", headers={"Accept-Post": ", ".join(known)})
    charset = request.charset
    if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Refused(415, "Send it in UTF-8; JSON has no other encoding (RFC 8259, section 8.1).")
    return request.content_type


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Refused(400, "An Idempotency-Key is one field of 1 to 255 visible ASCII characters.")
    return keys[0]
