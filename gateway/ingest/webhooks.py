"""Who is told of receipts: how each endpoint stands, and what an operator can do. No answer shows where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.access.guard import Guarded, needs, principal
from gateway.access.principal import Principal, Scope
from gateway.ingest.lookup import Audit, json_response
from gateway.ingest.problem import Refused
from gateway.webhooks.courier import Answer
from gateway.webhooks.service import Standing

_NONE = "No such webhook is configured: add [apps.NAME.webhooks.ENDPOINT] to the settings."

Instant = Annotated[float, Meta(description="UNIX seconds.")]


class WebhookReport(msgspec.Struct, frozen=True, kw_only=True):
    """How an endpoint stands."""

    id: Annotated[str, Meta(description="The names of app and endpoint, with a dot between them.")]
    app: str
    name: str
    state: Annotated[str, Meta(description="active, failing or disabled.")]
    reason: Annotated[str, Meta(description="Why it is disabled, or what became of the last attempt that failed.")]
    failing_since: Instant | None
    delivered: Annotated[int, Meta(description="Messages that it took, ever.")]
    delivered_at: Instant | None
    pending: Annotated[int, Meta(description="Messages that are tried again.")]
    exhausted: Annotated[int, Meta(description="Messages that wait for a replay.")]


class WebhookList(msgspec.Struct, frozen=True):
    """All endpoints."""

    webhooks: list[WebhookReport]


class WebhookTrial(msgspec.Struct, frozen=True):
    """What became of a message that tells of nothing."""

    taken: bool
    status: Annotated[int | None, Meta(description="Of the receiver's answer; null if there was none.")]
    reason: str


class WebhookDesk(Protocol):
    """Who carries it out; see `gateway.webhooks.service.Webhooks`."""

    async def list(self, sees: Callable[[str], bool]) -> Iterable[Standing]: ...
    async def standing(self, app: str, name: str) -> Standing: ...
    async def enable(self, app: str, name: str) -> None: ...
    async def replay(self, app: str, name: str, since: float | None) -> int: ...
    async def test(self, app: str, name: str) -> Answer: ...


class WebhookRoutes:
    """The routes under `/v1/webhooks`."""

    def __init__(self, desk: WebhookDesk, audit: Audit) -> None:
        self._desk = desk
        self._audit = audit

    def routes(self) -> list[Guarded]:
        return needs(
            Scope.OPERATE,
            web.get("/v1/webhooks", self._list),
            web.post("/v1/webhooks/{id}/enable", self._enable),
            web.post("/v1/webhooks/{id}/replay", self._replay),
            web.post("/v1/webhooks/{id}/test", self._test),
        )

    async def _list(self, request: web.Request) -> web.Response:
        caller = principal(request)
        found = await self._desk.list(caller.sees)
        return json_response(WebhookList([_report(standing, caller) for standing in found]))

    async def _enable(self, request: web.Request) -> web.Response:
        app, name = await self._decided(request, "webhook.enable")
        await self._desk.enable(app, name)
        return await self._stands(request, app, name)

    async def _replay(self, request: web.Request) -> web.Response:
        since = _since(request)
        app, name = await self._decided(request, "webhook.replay")
        await self._desk.replay(app, name, since)
        return await self._stands(request, app, name)

    async def _test(self, request: web.Request) -> web.Response:
        answer = await self._desk.test(*await self._decided(request, "webhook.test"))
        return json_response(WebhookTrial(not answer.trouble, answer.status, answer.trouble))

    async def _stands(self, request: web.Request, app: str, name: str) -> web.Response:
        return json_response(_report(await self._desk.standing(app, name), principal(request)))

    async def _decided(self, request: web.Request, action: str) -> tuple[str, str]:
        """The endpoint that something is about to be done to, after it is kept who does it."""
        caller = principal(request)
        named, _, name = request.match_info["id"].partition(".")
        app = caller.full(named)
        try:
            await self._desk.standing(app, name)
        except KeyError:
            raise Refused(404, _NONE) from None
        await self._audit.record(caller.actor, action, f"{app}/{name}")
        return app, name


def _since(request: web.Request) -> float | None:
    text = request.query.get("since")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Refused(400, "`since` has to be whole UNIX seconds.")
    return float(text)


def _report(standing: Standing, caller: Principal) -> WebhookReport:
    endpoint, backlog = standing
    state = "disabled" if endpoint.disabled else "active" if endpoint.failing_since is None else "failing"
    app = caller.shown(endpoint.app)
    return WebhookReport(
        id=f"{app}.{endpoint.name}",
        app=app,
        name=endpoint.name,
        state=state,
        reason=endpoint.disabled or endpoint.trouble,
        failing_since=endpoint.failing_since,
        delivered=endpoint.delivered,
        delivered_at=endpoint.delivered_at,
        pending=backlog.pending,
        exhausted=backlog.exhausted,
    )
