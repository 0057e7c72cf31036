"""What an operator sees of credentials, and can do. No answer holds a secret."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.access.guard import Guarded, needs, principal
from gateway.access.principal import Principal, Scope
from gateway.audit.log import Actor
from gateway.credentials import records
from gateway.credentials.records import Record, Step
from gateway.ingest.body import Body
from gateway.ingest.limits import Limits
from gateway.ingest.lookup import json_response, page_bounds
from gateway.ingest.media import JSON, content_type
from gateway.ingest.problem import Refused, undecoded
from providers.base import Material, Secret

_NONE = "There is no such credential."

Number = Annotated[str, Meta(description="The credential's number.")]
Instant = Annotated[float, Meta(description="UNIX seconds.")]


class CredentialReport(msgspec.Struct, frozen=True, kw_only=True):
    """A credential, without its secret."""

    id: Number
    app: str
    provider: str
    source: Annotated[str, Meta(description="Where its secret is: settings, upload or directory.")]
    fingerprint: str
    key_id: Annotated[str, Meta(description="What the service calls it; for VAPID, the public key.")]
    expires_at: Instant | None
    state: Annotated[str, Meta(description="staged, canary, active, overlap, retired or broken.")]
    share: Annotated[float, Meta(description="Of the app's traffic that a canary signs.")]
    trouble: Annotated[str, Meta(description="What its service, or a check, has against it.")]
    proven_at: Instant | None
    promoted_at: Instant | None
    since: Instant
    overlap_until: Instant | None
    added_at: Instant
    added_by: str


class CredentialList(msgspec.Struct, frozen=True):
    """All credentials, by age."""

    credentials: list[CredentialReport]


class CredentialStep(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to a credential."""

    id: Number
    app: str
    provider: str
    at: Instant
    by: str
    step: str
    state: Annotated[str, Meta(description="After it.")]
    detail: str


class CredentialHistory(msgspec.Struct, frozen=True):
    """Steps of all credentials, oldest first."""

    steps: list[CredentialStep]
    cursor: Annotated[str, Meta(description="Pass it as `after` for the next page.")]


class NewCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A credential to add."""

    app: str
    provider: str
    material: Annotated[
        dict[str, str],
        Meta(
            description="Its parts as text. apns: `key` (PEM), `key_id`, `team_id`; or `certificate` (PEM), "
            "`certificate_key`. fcm: `service_account` (JSON). webpush: `vapid_key` (PEM or base64url)."
        ),
    ]


class CredentialDesk(Protocol):
    """Who carries it out; see `gateway.credentials.desk.Desk`."""

    async def credentials(self) -> list[Record]: ...
    async def get(self, number: int) -> Record: ...
    async def history(self, after: int, limit: int, sees: Callable[[str], bool]) -> list[Step]: ...
    async def add(self, app: str, provider: str, material: Material, actor: Actor) -> Record: ...
    async def probe(self, number: int, actor: Actor) -> Record: ...
    async def rotate(self, number: int, actor: Actor) -> Record: ...
    async def promote(self, number: int, actor: Actor) -> Record: ...
    async def rollback(self, number: int, actor: Actor) -> Record: ...
    async def retire(self, number: int, actor: Actor) -> Record: ...


class CredentialRoutes:
    """The routes under `/v1/credentials`."""

    def __init__(self, desk: CredentialDesk, limits: Limits) -> None:
        self._desk = desk
        self._limits = limits

    def routes(self) -> list[Guarded]:
        steps = {
            "probe": self._desk.probe,
            "rotate": self._desk.rotate,
            "promote": self._desk.promote,
            "rollback": self._desk.rollback,
            "retire": self._desk.retire,
        }
        return needs(
            Scope.OPERATE,
            web.get("/v1/credentials", self._list),
            web.post("/v1/credentials", self._add),
            web.get("/v1/credentials/history", self._history),
            *(web.post(f"/v1/credentials/{{id}}/{name}", self._step(step)) for name, step in steps.items()),
        )

    async def _list(self, request: web.Request) -> web.Response:
        caller = principal(request)
        own = [record for record in await self._desk.credentials() if caller.sees(record.app)]
        return json_response(CredentialList([_report(record, caller) for record in own]))

    async def _history(self, request: web.Request) -> web.Response:
        (after, limit), caller = page_bounds(request, self._limits), principal(request)
        steps = await self._desk.history(after, limit, caller.sees)
        shown = [_step(step, caller) for step in steps]
        return json_response(CredentialHistory(shown, str(after + len(shown))))

    async def _add(self, request: web.Request) -> web.Response:
        content_type(request, JSON)
        caller = principal(request)
        text = await Body(request.content, self._limits, hashed=False).whole(self._limits.free)
        try:
            new = msgspec.json.decode(text, type=NewCredential)
        except (ValueError, RecursionError) as error:
            raise undecoded(error, text, NewCredential) from None
        material, app = {name: Secret(part.encode()) for name, part in new.material.items()}, caller.full(new.app)
        if not app:
            raise Refused(422, "It was not added: there is no such app.")
        try:
            record = await self._desk.add(app, new.provider, material, caller.actor)
        except records.Refused as error:
            raise Refused(422, f"It was not added: {error}.") from None
        return json_response(_report(record, caller), status=201)

    def _step(
        self, step: Callable[[int, Actor], Awaitable[Record]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            caller, number = principal(request), request.match_info["id"]
            if not (number.isascii() and number.isdigit() and len(number) < 19):
                raise Refused(404, _NONE)
            try:
                if not caller.sees((await self._desk.get(int(number))).app):
                    raise Refused(404, _NONE)
            except records.Refused:
                raise Refused(404, _NONE) from None
            try:
                record = await step(int(number), caller.actor)
            except records.Refused as error:
                raise Refused(409, f"This is not possible now: {error}.") from None
            return json_response(_report(record, caller))

        return handler


def _report(record: Record, caller: Principal) -> CredentialReport:
    return CredentialReport(
        id=str(record.number),
        app=caller.shown(record.app),
        provider=record.provider,
        source=record.source,
        fingerprint=record.fingerprint,
        key_id=record.key_id,
        expires_at=record.expires,
        state="broken" if record.trouble else record.state,
        share=record.share,
        trouble=record.trouble,
        proven_at=record.proven,
        promoted_at=record.promoted,
        since=record.since,
        overlap_until=record.until,
        added_at=record.added,
        added_by=record.actor,
    )


def _step(step: Step, caller: Principal) -> CredentialStep:
    return CredentialStep(
        id=str(step.credential),
        app=caller.shown(step.app),
        provider=step.provider,
        at=step.at,
        by=step.actor,
        step=step.step,
        state=step.state,
        detail=step.detail,
    )
