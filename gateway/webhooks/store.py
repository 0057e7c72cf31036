"""How far each endpoint was told, and the messages that it has not taken, in the queue's file.

A message is a place in a feed and not a copy: which receipts it holds is read again for each attempt, and stays the
same, since a receipt never changes. One that is taken leaves no row.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import apsw

from gateway.queue.database import Database
from gateway.queue.rows import every, first, only
from gateway.receipts.store import OFFSET_BITS

LONGEST_PENDING = 64
"""Messages of an endpoint that are being tried; what is behind them waits in the feed."""


class Kind(StrEnum):
    """What a message tells of, and the name of the cursor of it."""

    RECEIPTS = "receipts"
    TOKENS = "tokens"


class Endpoint(NamedTuple):
    """How an endpoint stands."""

    number: int
    app: str
    name: str
    receipts: int
    """Cursors."""
    tokens: int
    disabled: str
    """Why nothing is sent; "" while it is."""
    failing_since: float | None
    """UNIX seconds of the first failure since it last took something."""
    delivered: int
    """Messages that it took."""
    delivered_at: float | None
    trouble: str
    """What became of the last attempt that failed."""

    def cursor(self, kind: Kind) -> int:
        return self.receipts if kind is Kind.RECEIPTS else self.tokens


class Message(NamedTuple):
    """A message that was not taken yet."""

    number: int
    kind: Kind
    start: int
    stop: int
    """Cursors before and behind it."""
    holds: int
    attempts: int
    since: float
    """UNIX seconds of the first attempt, or when it was cut."""


class Backlog(NamedTuple):
    pending: int
    exhausted: int


_ENDPOINT = (
    "SELECT number, app, name, receipts, tokens, disabled, failing_since, delivered, delivered_at, trouble "
    "FROM webhook_endpoints"
)


class WebhookStore:
    """Reads and writes it. Instants are UNIX seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, app: str, name: str) -> Endpoint:
        """The endpoint; a new one is told of what ends from now on."""

        def operation(db: apsw.Connection) -> Endpoint:
            (revision,) = only(db, "SELECT coalesce(max(revision), 0) FROM feed")
            (tokens,) = only(db, "SELECT coalesce(max(revision), 0) FROM dead_targets")
            db.execute(
                "INSERT OR IGNORE INTO webhook_endpoints (app, name, receipts, tokens) VALUES (?, ?, ?, ?)",
                (app, name, revision + 1 << OFFSET_BITS, tokens),
            )
            return Endpoint(*only(db, f"{_ENDPOINT} WHERE app = ? AND name = ?", (app, name)))

        return await self._database.write(operation)

    async def endpoint(self, number: int) -> Endpoint:
        return await self._database.read(lambda db: Endpoint(*only(db, f"{_ENDPOINT} WHERE number = ?", (number,))))

    async def backlog(self, number: int) -> Backlog:
        sql = "SELECT count(*) FILTER (WHERE NOT exhausted), count(*) FILTER (WHERE exhausted) FROM webhook_messages"
        return await self._database.read(lambda db: Backlog(*only(db, f"{sql} WHERE endpoint = ?", (number,))))

    async def cut(self, endpoint: Endpoint, kind: Kind, start: int, stop: int, count: int, now: float) -> None:
        """Make a message of what is between two cursors, and go on behind it; before it, there is nothing else."""
        column = kind.value

        def operation(db: apsw.Connection) -> None:
            db.execute(
                f"UPDATE webhook_endpoints SET {column} = ? WHERE number = ? AND {column} = ?",
                (stop, endpoint.number, endpoint.cursor(kind)),
            )
            if db.changes():  # otherwise somebody has set it back meanwhile
                db.execute(
                    "INSERT INTO webhook_messages (endpoint, kind, start, stop, count, since, due) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (endpoint.number, kind.value, start, stop, count, now, now),
                )

        await self._database.write(operation)

    async def due(self, number: int, now: float, limit: int) -> list[Message]:
        """Messages whose time has come, the longest waiting first."""
        sql = (
            "SELECT number, kind, start, stop, count, attempts, since FROM webhook_messages "
            "WHERE endpoint = ? AND NOT exhausted AND due <= ? ORDER BY due, number LIMIT ?"
        )
        rows = await self._database.read(lambda db: every(db, sql, (number, now, limit)))
        return [Message(row[0], Kind(row[1]), *row[2:]) for row in rows]

    async def took(self, endpoint: int, message: Message, now: float) -> None:
        """It has the message. If it had taken nothing for a while, all that waits for it is due."""

        def operation(db: apsw.Connection) -> None:
            db.execute("DELETE FROM webhook_messages WHERE number = ?", (message.number,))
            failing = only(db, "SELECT failing_since FROM webhook_endpoints WHERE number = ?", (endpoint,))
            if failing != (None,):
                db.execute("UPDATE webhook_messages SET due = ? WHERE endpoint = ? AND due > ?", (now, endpoint, now))
            db.execute(
                "UPDATE webhook_endpoints SET failing_since = NULL, trouble = '', delivered = delivered + 1, "
                "delivered_at = ? WHERE number = ?",
                (now, endpoint),
            )

        await self._database.write(operation)

    async def refused(self, endpoint: int, message: Message, due: float | None, trouble: str, now: float) -> None:
        """It has it not; `due` is when it is tried again, None for not at all."""

        def operation(db: apsw.Connection) -> None:
            db.execute(
                "UPDATE webhook_messages SET attempts = attempts + 1, due = ?, exhausted = ? WHERE number = ?",
                (now if due is None else due, due is None, message.number),
            )
            db.execute(
                "UPDATE webhook_endpoints SET failing_since = coalesce(failing_since, ?), trouble = ? WHERE number = ?",
                (now, trouble, endpoint),
            )

        await self._database.write(operation)

    async def drop(self, message: Message) -> None:
        """There is nothing to tell."""
        sql = "DELETE FROM webhook_messages WHERE number = ?"
        await self._database.write(lambda db: db.execute(sql, (message.number,)) and None)

    async def exhaust(self, message: Message) -> None:
        """It cannot be told any more, which is not its receiver's fault."""
        sql = "UPDATE webhook_messages SET exhausted = 1 WHERE number = ?"
        await self._database.write(lambda db: db.execute(sql, (message.number,)) and None)

    async def disable(self, endpoint: int, reason: str) -> None:
        sql = "UPDATE webhook_endpoints SET disabled = ? WHERE number = ?"
        await self._database.write(lambda db: db.execute(sql, (reason, endpoint)) and None)

    async def enable(self, endpoint: int, now: float) -> None:
        """Begin anew: all that waits is due."""

        def operation(db: apsw.Connection) -> None:
            db.execute(
                "UPDATE webhook_endpoints SET disabled = '', failing_since = NULL, trouble = '' WHERE number = ?",
                (endpoint,),
            )
            db.execute(
                "UPDATE webhook_messages SET due = ?1, since = ?1 WHERE endpoint = ?2 AND NOT exhausted",
                (now, endpoint),
            )

        await self._database.write(operation)

    async def replay(self, endpoint: int, since: float | None, now: float) -> int:
        """Try exhausted messages again; with `since`, tell once more all that ended from then on.

        Returns:
            How many exhausted messages there were.
        """

        def operation(db: apsw.Connection) -> int:
            db.execute(
                "UPDATE webhook_messages SET exhausted = 0, attempts = 0, due = ?1, since = ?1 "
                "WHERE endpoint = ?2 AND exhausted",
                (now, endpoint),
            )
            tried = db.changes()
            if since is not None:
                row = first(
                    db,
                    "SELECT min(f.revision) FROM feed f JOIN batches b USING (sequence) WHERE b.finished >= ?",
                    (since,),
                )
                tokens = only(db, "SELECT min(revision) FROM dead_targets WHERE since >= ?", (since,))[0]
                if row is not None and row[0] is not None:
                    db.execute(
                        "UPDATE webhook_endpoints SET receipts = min(receipts, ?) WHERE number = ?",
                        (row[0] << OFFSET_BITS, endpoint),
                    )
                if tokens is not None:
                    db.execute(
                        "UPDATE webhook_endpoints SET tokens = min(tokens, ?) WHERE number = ?", (tokens - 1, endpoint)
                    )
            return tried

        return await self._database.write(operation)
