"""The audit log: rows that are only ever added, each with the hash of itself and all before it.

A row that was changed, removed, added in between or moved breaks the chain at its place, and rows that are missing at
the end leave a chain that ends before its noted head. Whoever can write the file can forge the whole of it, so compare
the newest hash with one that was noted elsewhere (`carillon audit verify --head`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import apsw
import msgspec

from gateway.queue.database import Database
from gateway.queue.rows import every, only

START = bytes(32)
"""What the first row's hash continues."""

Detail = Mapping[str, str | int | float | bool | list[str] | None]
NO_DETAIL: Detail = {}


class Actor(NamedTuple):
    """Who did it."""

    tenant: str
    """"" for the machine itself, and for who works on it by the command line."""
    name: str


GATEWAY = Actor("", "gateway")
"""What it does by itself."""


class Entry(msgspec.Struct, frozen=True):
    """A row."""

    number: int
    at: float
    """UNIX seconds."""
    tenant: str
    actor: str
    action: str
    """Noun and verb with a dot between them, such as `key.create`."""
    subject: str
    """What it was done to: the id of a key, a job or a batch, or a credential's app and provider."""
    detail: dict[str, Any]
    hash: str
    """Hexadecimal; over this row and the hash before it."""


class Verdict(NamedTuple):
    """What a look at the whole chain found."""

    entries: int
    head: str
    """The newest hash."""
    fault: str
    """"" if there is none; otherwise where the chain breaks, and how."""


class AuditLog:
    """Writes and reads it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def record(self, actor: Actor, action: str, subject: str, detail: Detail = NO_DETAIL) -> None:
        """Add a row; it is durable when this returns. No secret, target or payload belongs into it.

        Raises:
            QueueError: it is not stored, so what it says should not be done.
        """
        now = self._clock()
        await self._database.write(lambda db: append(db, now, actor, action, subject, detail))

    async def entries(self, after: int, limit: int, tenant: str) -> list[Entry]:
        """What a tenant's people did, oldest first, without their first `after` rows: a tenant counts its own."""
        return await self._database.read(lambda db: entries_of(db, after, limit, tenant))


def append(
    db: apsw.Connection, now: float, actor: Actor, action: str, subject: str, detail: Detail = NO_DETAIL
) -> None:
    """Add a row in the transaction of what it tells about."""
    number, previous = only(db, "SELECT number + 1, hash FROM audit_head")
    text = msgspec.json.encode(detail).decode()
    row = (number, now, actor.tenant, actor.name, action, subject, text)
    hashed = _hash(previous, row)
    db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, hashed))
    db.execute("UPDATE audit_head SET number = ?, hash = ?", (number, hashed))


def entries_of(db: apsw.Connection, after: int, limit: int, tenant: str) -> list[Entry]:
    """At most `limit` rows of a tenant, without its first `after`."""
    rows = every(db, "SELECT * FROM audit WHERE tenant = ? ORDER BY number LIMIT ? OFFSET ?", (tenant, limit, after))
    return [_entry(row) for row in rows]


def newest(db: apsw.Connection, limit: int) -> list[Entry]:
    """The last `limit` rows of everybody, oldest first."""
    rows = every(db, "SELECT * FROM audit ORDER BY number DESC LIMIT ?", (limit,))
    return [_entry(row) for row in reversed(rows)]


def _entry(row: tuple[Any, ...]) -> Entry:
    number, at, tenant, actor, action, subject, detail, hashed = row
    return Entry(number, at, tenant, actor, action, subject, msgspec.json.decode(detail), hashed.hex())


def verify(db: apsw.Connection, noted: str = "") -> Verdict:
    """Follow the whole chain.

    Args:
        noted: a hash of the past, in hexadecimal, that has to be on it; "" for none.
    """
    head_number, head = only(db, "SELECT number, hash FROM audit_head")
    number, previous, seen = 0, START, noted in ("", START.hex())
    for row in db.execute("SELECT * FROM audit ORDER BY number"):
        if row[0] != number + 1:
            return Verdict(number, previous.hex(), f"row {number + 1} is missing: the next is {row[0]}")
        if row[7] != _hash(previous, row[:7]):
            return Verdict(number, previous.hex(), f"row {row[0]} is not what was written")
        number, previous = row[0], row[7]
        seen = seen or previous.hex() == noted
    if (number, previous) != (head_number, head):
        return Verdict(number, previous.hex(), f"the rows end at {number}, and {head_number} were written")
    if not seen:
        return Verdict(number, previous.hex(), "the noted hash is not on the chain: it was written anew")
    return Verdict(number, previous.hex(), "")


def _hash(previous: bytes, row: tuple[Any, ...]) -> bytes:
    return hashlib.sha256(previous + msgspec.json.encode(row)).digest()
