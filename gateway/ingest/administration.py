"""A tenant's keys and its part of the audit log, for who operates it. Nobody gives away more than they have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.access.guard import Guarded, needs, principal
from gateway.access.keys import ApiKey, KeyRefused, NewKey, Wish
from gateway.access.principal import Principal, Scope
from gateway.audit.log import Actor, Entry
from gateway.ingest.answers import AuditEntry, AuditPage, CreatedKey, KeyList, KeyReport
from gateway.ingest.body import Body
from gateway.ingest.limits import Limits
from gateway.ingest.lookup import json_response, page_bounds
from gateway.ingest.media import JSON, content_type
from gateway.ingest.problem import Refused, invalid, undecoded
from providers.base import Problem

_NO_KEY = "There is no such key."
_MORE = "is more than the credential has that asks for it"


class WantedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: Annotated[
        str,
        Meta(
            description="Who calls with it. A name has two keys that are good at a time, the second to change over to.",
            pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        ),
    ]
    scopes: Annotated[
        list[Scope],
        Meta(
            description="send: hand in jobs and take them back. read: what became of them. operate: parked batches,"
            " credentials, keys, the audit log.",
            min_length=1,
            max_length=3,
        ),
    ]
    apps: Annotated[
        Annotated[list[str], Meta(min_length=1, max_length=1000)] | None,
        Meta(description="Apps that it is limited to; all without."),
    ] = None
    expires_in: Annotated[
        Annotated[float, Meta(gt=0, le=10 * 365 * 86400)] | None,
        Meta(description="Seconds until it ends by itself; never without."),
    ] = None


class Keys(Protocol):
    """What is done through `access.keystore.KeyStore`."""

    async def create(self, actor: Actor, wish: Wish) -> NewKey: ...

    async def revoke(self, actor: Actor, key_id: str, tenant: str) -> ApiKey: ...

    async def of_tenant(self, tenant: str) -> list[ApiKey]: ...


class Entries(Protocol):
    """What is read of `audit.log.AuditLog`."""

    async def entries(self, after: int, limit: int, tenant: str) -> list[Entry]: ...


class Administration:
    """The routes under `/v1/keys` and `/v1/audit`."""

    def __init__(self, keys: Keys, log: Entries, limits: Limits) -> None:
        self._keys = keys
        self._log = log
        self._limits = limits

    def routes(self) -> list[Guarded]:
        return needs(
            Scope.OPERATE,
            web.get("/v1/keys", self._list),
            web.post("/v1/keys", self._create),
            web.delete("/v1/keys/{id}", self._revoke),
            web.get("/v1/audit", self._audit),
        )

    async def _list(self, request: web.Request) -> web.Response:
        caller = principal(request)
        return json_response(KeyList([_report(key) for key in await self._keys.of_tenant(caller.tenant)]))

    async def _create(self, request: web.Request) -> web.Response:
        content_type(request, JSON)
        text = await Body(request.content, self._limits, hashed=False).whole(self._limits.free)
        try:
            wanted = msgspec.json.decode(text, type=WantedKey)
        except (ValueError, RecursionError) as error:
            raise undecoded(error, text, WantedKey) from None
        caller = principal(request)
        if faults := _beyond(wanted, caller):
            raise invalid(faults, "This key cannot be made.")
        expires = None if wanted.expires_in is None else time.time() + wanted.expires_in
        apps = wanted.apps if wanted.apps is not None or caller.apps is None else sorted(caller.apps)
        try:
            made = await self._keys.create(
                caller.actor, Wish(caller.tenant, wanted.name, tuple(wanted.scopes), apps, expires)
            )
        except KeyRefused as refused:
            raise Refused(409, str(refused)) from None
        return json_response(CreatedKey(_report(made.key), made.secret), status=201)

    async def _revoke(self, request: web.Request) -> web.Response:
        caller = principal(request)
        try:
            revoked = await self._keys.revoke(caller.actor, request.match_info["id"], caller.tenant)
        except KeyRefused:
            raise Refused(404, _NO_KEY) from None
        return json_response(_report(revoked))

    async def _audit(self, request: web.Request) -> web.Response:
        after, limit = page_bounds(request, self._limits)
        entries = await self._log.entries(after, limit, principal(request).tenant)
        return json_response(AuditPage([_entry(each) for each in entries], str(after + len(entries))))


def _beyond(wanted: WantedKey, caller: Principal) -> Sequence[Problem]:
    """What a key would let its holder do that who asks for it may not do."""
    faults = [Problem(f"/scopes/{at}", _MORE) for at, scope in enumerate(wanted.scopes) if scope not in caller.scopes]
    return faults + [Problem(f"/apps/{at}", _MORE) for at, app in enumerate(wanted.apps or ()) if not caller.full(app)]


def _report(key: ApiKey) -> KeyReport:
    return KeyReport(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        apps=None if key.apps is None else sorted(key.apps),
        created_at=key.created,
        created_by=key.created_by,
        expires_at=key.expires,
        revoked_at=key.revoked,
        last_used_at=key.last_used,
    )


def _entry(entry: Entry) -> AuditEntry:
    return AuditEntry(entry.at, entry.actor, entry.action, entry.subject, entry.detail)
