"""API keys: how they are made, what is kept of them, and what is done to them in a transaction.

A key is `carillon_TENANT_` and 32 random bytes. Of those only the SHA-256 is stored: they hold more than anybody can
guess, so a slow hash would protect nothing that a fast one does not. The prefix is for secret scanners; who asks, the
stored row says and not the text.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import apsw
import msgspec

from gateway.access.principal import Principal, Scope
from gateway.access.settings import Key
from gateway.audit.log import Actor, append
from gateway.queue.rows import every, first, only

PREFIX = "carillon_"
LIVE = 2
"""Keys of one name that may be good at the same time: the new one is handed out while the old one still works."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COLUMNS = "id, tenant, name, hash, scopes, apps, created, created_by, expires, revoked, last_used"
_LIVE = "revoked IS NULL AND (expires IS NULL OR expires > :now)"


class KeyRefused(Exception):
    """A key that is not made or not revoked; says why and what to do."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key. Instants are UNIX seconds."""

    id: str
    """Names it, and opens nothing."""
    tenant: str
    name: str
    """Whose it is, such as the system that calls with it; shared by a key and the one that follows it."""
    hash: bytes
    scopes: frozenset[Scope]
    apps: frozenset[str] | None
    """See `Principal.apps`."""
    created: float
    created_by: str
    expires: float | None
    revoked: float | None
    last_used: float | None
    """To the minute or so."""

    def live(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)

    def principal(self) -> Principal:
        return Principal(self.tenant, f"{self.name} ({self.id})", self.scopes, self.apps)


class NewKey(NamedTuple):
    """A key that was just made. The secret is nowhere else."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"NewKey({self.key.id})"


class Wish(NamedTuple):
    """A key that somebody wants."""

    tenant: str
    name: str
    scopes: Collection[Scope] = tuple(Scope)
    apps: Collection[str] | None = None
    expires: float | None = None


def digest(secret: str) -> bytes:
    # Header fields may hold any bytes, which come as surrogates.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def draw(now: float, actor: Actor, wish: Wish) -> NewKey:
    """A key that nobody knows of yet.

    Raises:
        KeyRefused: as it is wished for, it would be of no use.
    """
    if fault := _fault(wish, now):
        raise KeyRefused(fault)
    secret = f"{PREFIX}{wish.tenant}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=f"key_{secrets.token_hex(8)}",
        tenant=wish.tenant,
        name=wish.name,
        hash=digest(secret),
        scopes=frozenset(wish.scopes),
        apps=None if wish.apps is None else frozenset(wish.apps),
        created=now,
        created_by=actor.name,
        expires=wish.expires,
        revoked=None,
        last_used=None,
    )
    return NewKey(key, secret)


def create(db: apsw.Connection, now: float, actor: Actor, wish: Wish) -> NewKey:
    """Make a key.

    Raises:
        KeyRefused: as `draw`, or there is one too many.
    """
    made = draw(now, actor, wish)
    sql = f"SELECT count(*) FROM api_keys WHERE tenant = :tenant AND name = :name AND {_LIVE}"
    (live,) = only(db, sql, {"tenant": wish.tenant, "name": wish.name, "now": now})
    if live >= LIVE:
        raise KeyRefused(f"{wish.name} has {LIVE} keys already: revoke the one that nobody uses any more")
    db.execute(f"INSERT INTO api_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(made.key))
    _changed(db)
    append(db, now, actor, "key.create", made.key.id, _told(made.key))
    return made


def declared(key: Key) -> ApiKey:
    """A key of the configuration."""
    return ApiKey(
        id=f"key_{key.sha256[:16]}",
        tenant=key.tenant,
        name=key.name,
        hash=bytes.fromhex(key.sha256),
        scopes=key.scopes,
        apps=key.apps,
        created=0.0,
        created_by="the configuration",
        expires=None,
        revoked=None,
        last_used=None,
    )


def revoke(db: apsw.Connection, now: float, actor: Actor, key_id: str, tenant: str | None = None) -> ApiKey:
    """End a key for good. `tenant`: it has to be this one's; None for anybody's.

    Raises:
        KeyRefused: there is no such key.
    """
    key = find(db, key_id, tenant)
    if key is None:
        raise KeyRefused("There is no such key: list them to see their ids.")
    if key.revoked is None:
        db.execute("UPDATE api_keys SET revoked = ? WHERE id = ?", (now, key_id))
        _changed(db)
        append(db, now, actor, "key.revoke", key_id, {"name": key.name, "tenant": key.tenant})
    return msgspec.structs.replace(key, revoked=key.revoked or now)


def find(db: apsw.Connection, key_id: str, tenant: str | None = None) -> ApiKey | None:
    row = first(db, f"SELECT {_COLUMNS} FROM api_keys WHERE id = ?", (key_id,))
    return None if row is None or tenant not in (None, row[1]) else _key(row)


def all_keys(db: apsw.Connection, tenant: str | None = None) -> list[ApiKey]:
    """Those of a tenant or (None) of all, the oldest first, with the ones that are no longer good."""
    condition, bindings = ("", ()) if tenant is None else ("WHERE tenant = ? ", (tenant,))
    return [_key(row) for row in every(db, f"SELECT {_COLUMNS} FROM api_keys {condition}ORDER BY created", bindings)]


def live_keys(db: apsw.Connection, now: float) -> list[ApiKey]:
    return [_key(row) for row in every(db, f"SELECT {_COLUMNS} FROM api_keys WHERE {_LIVE}", {"now": now})]


def revision(db: apsw.Connection) -> int:
    """Changes whenever a key is made or revoked."""
    return int(only(db, "SELECT revision FROM api_keys_state")[0])


def cursor_secret(db: apsw.Connection) -> bytes:
    """What positions in lists are made unreadable with, of this file for ever."""
    return bytes(only(db, "SELECT cursors FROM api_keys_state")[0])


def note_use(db: apsw.Connection, used: Iterable[str], now: float) -> None:
    """Keep that keys were used lately, by their ids."""
    for key_id in used:
        db.execute("UPDATE api_keys SET last_used = max(coalesce(last_used, 0), ?) WHERE id = ?", (now, key_id))


def _fault(wish: Wish, now: float) -> str:
    if not _NAME.fullmatch(wish.name):
        return "A key's name is up to 64 letters, digits, dots, hyphens and underscores: call it like who uses it."
    if not wish.scopes:
        return f"A key needs a scope: {', '.join(Scope)}."
    if wish.apps is not None and not wish.apps:
        return "A key that is limited to no app at all is of no use: name some, or leave the limit out."
    if wish.expires is not None and wish.expires <= now:
        return "A key that has expired already is of no use: name a moment that is still to come."
    return ""


def _changed(db: apsw.Connection) -> None:
    db.execute("UPDATE api_keys_state SET revision = revision + 1")


def _told(key: ApiKey) -> dict[str, str | float | list[str] | None]:
    apps = None if key.apps is None else sorted(key.apps)
    return {"name": key.name, "tenant": key.tenant, "scopes": sorted(key.scopes), "apps": apps, "expires": key.expires}


def _row(key: ApiKey) -> tuple[Any, ...]:
    apps = None if key.apps is None else " ".join(sorted(key.apps))
    values = msgspec.structs.asdict(key) | {"scopes": " ".join(sorted(key.scopes)), "apps": apps}
    return tuple(values[column] for column in _COLUMNS.split(", "))


def _key(row: tuple[Any, ...]) -> ApiKey:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    apps = values["apps"]
    values["scopes"] = frozenset(Scope(scope) for scope in values["scopes"].split())
    values["apps"] = None if apps is None else frozenset(apps.split())
    return ApiKey(**values)
