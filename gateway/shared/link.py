"""The way to Redis: connections with deadlines, one word on whether it can be reached, no crowd when it comes back.

After a failure calls are refused at once until the next try is due; that try is one call, and the waits between them
grow and are drawn by lot, so that a fleet does not come back in one moment.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import TimeoutError as Late
from redis.maint_notifications import MaintNotificationsConfig

from gateway.shared.base import SharedUnavailable

CONNECTIONS = 8
"""Of one process. A call takes some 0.1 ms of Redis, so more would not get more done."""

CONNECT = 1.0
CALL = 0.5
"""Seconds for a connection, and for an answer."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds until the first try after a failure, and the most that doubling makes of them; by lot between a half and the
whole."""

_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (AuthenticationError, "refuses the name or password in `redis.url`"),
    (NoPermissionError, "does not allow this user the commands it needs: see docs/shared-state.md"),
    (BusyLoadingError, "is loading its data"),
    (ReadOnlyError, "is a replica, which takes no writes: point `redis.url` to the primary"),
    (OutOfMemoryError, "has no memory left: raise its maxmemory"),
    (Late, "does not answer in time"),
    (TimeoutError, "does not answer in time"),
    (Broken, "cannot be reached"),
    (OSError, "cannot be reached"),
)
"""What is wrong, by exception: the first that fits."""

OUTAGES = tuple(kind for kind, _ in _SENTENCES)

REFUSES = "refuses what it is asked: it has to be Redis 7 or newer, or Valkey"


class Script:
    """A Lua script, which Redis runs as one step."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Link:
    """One process's connections. All methods are called on the loop's thread."""

    def __init__(
        self,
        url: str,
        ca_file: str | None,
        *,
        changed: Callable[[str], None],
        jitter: random.Random,
    ) -> None:
        """`changed` is told when Redis is lost, with a sentence that says why and holds no secret; and when it can be
        reached, with an empty one.

        Raises:
            ValueError: `url` is none.
        """
        self._options: dict[str, Any] = {} if ca_file is None else {"ssl_ca_certs": ca_file}
        self._options |= parse_url(url)
        self._kind: type[Connection] = self._options.pop("connection_class", Connection)
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[Connection] = []
        self._name = _name(url)
        self._changed = changed
        self._jitter = jitter
        self._cause: str | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._known = False

    @property
    def down(self) -> bool:
        """Whether the last call failed for want of Redis."""
        return self._cause is not None

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes | str | float | int]) -> Any:
        """Run a script.

        Raises:
            SharedUnavailable: Redis cannot be reached, or did not answer in time: it may have run.
        """
        try:
            try:
                return await self.call("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await self.call("EVAL", script.text, len(keys), *keys, *args)
        except ResponseError as error:
            raise self._lost(error) from None

    async def call(self, *command: bytes | str | float | int) -> Any:
        """Carry out one command.

        Raises:
            SharedUnavailable: as `run`.
            ResponseError: Redis refuses the command.
        """
        now = asyncio.get_running_loop().time()
        if self._cause is not None:
            if now < self._retry_at:
                raise SharedUnavailable(self._cause)
            self._retry_at = now + CONNECT + CALL  # the others wait for what becomes of this one
        try:
            async with asyncio.timeout(CONNECT + CALL), self._room:
                answer = await self._carry_out(command)
        except OUTAGES as error:
            raise self._lost(error) from None  # a library's words may show what a command held
        except ResponseError:
            self._reached()
            raise
        self._reached()
        return answer

    async def _carry_out(self, command: Sequence[bytes | str | float | int]) -> Any:
        """On a connection that is open, or else on a new one. All that is asked of Redis may be asked twice."""
        if self._idle:
            try:
                return await self._exchange(self._idle.pop(), command)
            except Broken:  # closed by the other side since it was last used, and so are its siblings
                await self._forget_idle()
        return await self._exchange(self._dial(), command)

    async def _exchange(self, connection: Connection, command: Sequence[bytes | str | float | int]) -> Any:
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command(*command)
            answer: Any = await connection.read_response()
        except OUTAGES:
            await connection.disconnect(nowait=True)
            raise
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:  # cancelled: an answer may still come
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return answer

    def _dial(self) -> Connection:
        return self._kind(
            socket_connect_timeout=CONNECT,
            socket_timeout=CALL,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            client_name="carillon",
            protocol=2,
            **self._options,
        )

    async def _forget_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Hang up. No call may be under way."""
        await self._forget_idle()

    def _reached(self) -> None:
        self._failures = 0
        if self._cause is not None or not self._known:
            self._cause, self._known = None, True
            self._changed("")

    def _lost(self, error: Exception) -> SharedUnavailable:
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failures)
        self._retry_at = asyncio.get_running_loop().time() + wait * self._jitter.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 10)
        sentence = next((words for kind, words in _SENTENCES if isinstance(error, kind)), REFUSES)
        cause, former = f"{self._name} {sentence}", self._cause
        self._cause, self._known = cause, True
        if former != cause:
            self._changed(cause)
        return SharedUnavailable(cause)


def _name(url: str) -> str:
    """What an operator knows it by, without name and password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"Redis at {parts.path}"
    return f"Redis at {parts.hostname or 'localhost'}:{parts.port or 6379}"
