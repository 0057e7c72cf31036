"""The HTTP side: routes, content types, and what is said about a request that nobody can answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.access.guard import Denied, Forbidden, Gate, Guarded, Unauthenticated, for_anybody, needs, principal
from gateway.access.principal import Scope
from gateway.access.rates import Exceeded
from gateway.credentials.store import Line
from gateway.ingest import openapi
from gateway.ingest.administration import Administration, Entries, Keys
from gateway.ingest.body import Body, too_large
from gateway.ingest.credentials import CredentialDesk, CredentialRoutes
from gateway.ingest.cursors import Cursors
from gateway.ingest.door import Door
from gateway.ingest.intake import Answer, Apps, Intake, Meter
from gateway.ingest.invitation import Invited, invite_later
from gateway.ingest.limits import KIB, Limits
from gateway.ingest.lookup import Audit, Lookup, Receipts
from gateway.ingest.malformed import Runner
from gateway.ingest.media import JSON, NDJSON, content_type
from gateway.ingest.overload import Overload, unstored
from gateway.ingest.parking import Mask, Parking
from gateway.ingest.problem import Refused, failed
from gateway.ingest.records import Exits, JobRecords
from gateway.ingest.webhooks import WebhookDesk, WebhookRoutes
from gateway.queue.base import Queue, QueueError
from providers.base import Provider

_LOG = structlog.get_logger()


_KEY = re.compile(r"[!-~]{1,255}")
_SHUTDOWN_GRACE = 1.0
"""Seconds for the last answers; uploads had theirs before, see `Door.empty`."""


class Allowance(Protocol):
    """What is asked of `access.allowance.Allowance`."""

    async def take_job(self, tenant: str) -> None: ...

    def take_recipients(self, tenant: str, number: int) -> None: ...

    def headers(self, tenant: str) -> dict[str, str]: ...


class Log(Audit, Entries, Protocol):
    """The audit log, written and read."""


class Ingest:
    """What callers of the gateway can ask for, over HTTP.

    Args:
        apps: what is configured, app -> provider -> settings.
        providers: what is known, by name.
        queue: where jobs go.
        receipts: where is read what became of them.
        meter: where recipients are counted.
        audit: where is kept who took jobs back or decided about parked batches.
        mask: how targets are shown to operators.
        credentials: who rotates them.
        line: who signs for an (app, provider).
        keys: what callers show.
        allowance: how much each tenant may ask for.
        cursors: how positions in lists are told.
        webhooks: who is told of receipts.
    """

    def __init__(
        self,
        *,
        apps: Apps,
        providers: Mapping[str, Provider],
        queue: Queue,
        receipts: Receipts,
        meter: Meter,
        audit: Log,
        mask: Mask,
        credentials: CredentialDesk,
        keys: Keys,
        allowance: Allowance,
        cursors: Cursors,
        webhooks: WebhookDesk,
        line: Callable[[str, str], Line | None] = lambda app, provider: None,
        limits: Limits = Limits(),
    ) -> None:
        self._intake = Intake(apps, providers, queue, meter, limits, line)
        self._lookup = Lookup(apps, queue, receipts, audit, cursors, limits)
        self._parking = Parking(queue, audit, mask, cursors, limits)
        self._credentials = CredentialRoutes(credentials, limits)
        self._administration = Administration(keys, audit, limits)
        self._webhooks = WebhookRoutes(webhooks, audit)
        self._allowance = allowance
        self._limits = limits
        self._overload = Overload(limits.free)
        self.door = Door()

    def records(self, exits: Exits) -> JobRecords:
        """Takes jobs that come as records of Kafka."""
        return JobRecords(self._intake, self._limits, exits)

    def routes(self) -> list[Guarded]:
        """All of `/v1`, and the description of it."""
        return [
            *needs(Scope.SEND, web.post("/v1/jobs", self._submit, expect_handler=invite_later)),
            *self._lookup.routes(),
            *self._parking.routes(),
            *self._credentials.routes(),
            *self._webhooks.routes(),
            *self._administration.routes(),
            *for_anybody(web.get("/openapi.json", _openapi)),
        ]

    async def _submit(self, request: web.Request) -> web.Response:
        kind = content_type(request, JSON, NDJSON)
        key = _idempotency_key(request)
        length = request.content_length
        if kind == JSON and length is not None and length > self._limits.body:
            raise too_large(self._limits.body)
        body = Body(Invited(request), self._limits, hashed=key is not None)
        take = self._intake.document if kind == JSON else self._intake.stream
        caller = principal(request)
        await self._allowance.take_job(caller.tenant)
        with self.door.let_in(body), self._overload.heed(length), self._intake.upload() as share:
            answer = await take(body, share, key, caller)
        self._allowance.take_recipients(caller.tenant, answer.accepted)
        return _accepted(answer, self._allowance.headers(caller.tenant))


async def _openapi(_request: web.Request) -> web.Response:
    return web.Response(body=openapi.document(), content_type=JSON)


def application(
    routes: Iterable[Guarded | web.RouteDef], gate: Gate, door: Door, middlewares: Sequence[Middleware] = ()
) -> web.Application:
    """An application of these routes, all of whose errors are problems. `middlewares` stand outside of that.

    Raises:
        TypeError: a route does not say what it needs.
    """
    # `client_max_size` guards aiohttp's own readers, which nothing here uses.
    app = web.Application(middlewares=[*middlewares, _problems], client_max_size=64 * KIB)
    app.on_response_prepare.append(door.end_connections)
    for route in routes:
        if not isinstance(route, Guarded):
            raise TypeError(f"{route.method} {route.path} does not say what it needs, see gateway.access.guard")
        app.add_routes([route.behind(gate)])
    return app


def runner(app: web.Application) -> web.AppRunner:
    """Serves an application the way ingest needs it."""
    return Runner(
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
    except Denied as denied:
        return _denied(denied).response()
    except Exceeded as exceeded:
        return Refused(429, str(exceeded), retry_after=exceeded.retry_after, headers=exceeded.headers).response()
    except QueueError as error:
        return unstored(error).response()
    except web.HTTPMethodNotAllowed as error:
        allow = {"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=allow)
        return Refused(405, f"{request.method} is not possible here.", headers=allow).response()
    except web.HTTPException as error:
        return Refused(error.status, error.text or error.reason).response()
    except Exception:
        _LOG.exception("http.failed", method=request.method)
        return failed().response()


def _denied(denied: Denied) -> Refused:
    """RFC 6750, section 3."""
    match denied:
        case Forbidden():
            challenge = f'Bearer realm="carillon", error="insufficient_scope", scope="{denied.scope}"'
            return Refused(403, str(denied), headers={"WWW-Authenticate": challenge})
        case Unauthenticated(presented=True):
            challenge = 'Bearer realm="carillon", error="invalid_token"'
        case _:
            challenge = 'Bearer realm="carillon"'
    return Refused(401, str(denied), headers={"WWW-Authenticate": challenge})


def _accepted(answer: Answer, limits: Mapping[str, str]) -> web.Response:
    headers = {"Location": f"/v1/jobs/{answer.job_id}", **limits}
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    return web.Response(status=202, body=answer.body, content_type=JSON, headers=headers)


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Refused(400, "An Idempotency-Key is one field of 1 to 255 visible ASCII characters.")
    return keys[0]
