"""As many connections to one origin as its source needs, opened one at a time and ahead of need.

A pool belongs to one (app, provider, origin, credential): a service ties a connection to who opened it. It grows
while its connections are limited by the peer (streams or window) although there is work and this process has time
for it; it replaces a connection as soon as that starts to drain; it backs off while dialling or the first answer
fails, because services take repeated connecting for an attack.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import ssl
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from gateway.egress.guard import Forbidden, Guard
from gateway.http2.connection import Connection, Source
from gateway.http2.frames import ErrorCode, error_name
from providers.base import ClientCertificate, Secret

BACKOFF_FLOOR = 1.0
BACKOFF_CEILING = 20.0

DIALS_A_MINUTE = 60
"""Whatever became of them: services take more for an attack. A pool allowed many connections may fill up thrice."""

CLOSE_DEADLINE = 3.0
"""Seconds for the peer's close_notify, and for reading what we said last."""


class Address(NamedTuple):
    """Where an origin is served."""

    host: str
    port: int

    @classmethod
    def of(cls, origin: str) -> Address:
        """The address of `https://host[:port]`.

        Raises:
            ValueError: it is not such an origin.
        """
        parts = urlsplit(origin)
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("an origin has the form https://host[:port]")
        return cls(parts.hostname, parts.port or 443)


class DialFailure(NamedTuple):
    """Why no connection came about."""

    kind: Literal["refused", "timeout", "tls", "alpn", "closed", "forbidden"]
    detail: str


class Listener(Protocol):
    """Who wants to know what happens to a pool's connections."""

    def dialled(self, failure: DialFailure | None) -> None:
        """A connection attempt ended: with None it succeeded."""

    def goaway(self, code: int, debug: bytes) -> None:
        """A connection was told to go away; `debug` is the peer's text, at most 248 bytes of it."""


class Counts(NamedTuple):
    """Connections by what they are doing."""

    dialling: int
    open: int
    draining: int
    streams: int


class Pool:
    """Connections to one origin. All methods are called on the loop's thread and none of them waits but `close`."""

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext,
        source: Source,
        listener: Listener,
        *,
        limit: int,
        request_timeout: float,
        connect_timeout: float,
        guard: Guard | None = None,
        busy: Callable[[], float] = lambda: 0.0,
        jitter: random.Random | None = None,
    ) -> None:
        """`guard` is for an origin that a stranger named.

        `busy` says which share of its core this process uses: more connections would not help a busy one.
        """
        self._address = address
        self._tls = tls
        self._source = source
        self._listener = listener
        self._limit = limit
        self._request_timeout = request_timeout
        self._connect_timeout = connect_timeout
        self._guard = guard
        self._busy = busy
        self._jitter = jitter or random.Random()
        self._loop = asyncio.get_running_loop()
        self._connections: list[Connection] = []
        self._dialling: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._dialled = 0
        self._dials: deque[float] = deque(maxlen=max(DIALS_A_MINUTE, 3 * limit))
        self._closing = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._failure: DialFailure | None = None

    @property
    def failure(self) -> DialFailure | None:
        """Why there is no connection; None while there is one, or nothing went wrong."""
        return None if self._connected else self._failure

    @property
    def _connected(self) -> bool:
        return any(connection.usable and connection.protocol.settled for connection in self._connections)

    def hold(self, now: float) -> float | None:
        """Seconds until the next attempt to connect may begin; None while there is a connection."""
        return None if self._connected else max(0.0, self._not_before - now)

    def counts(self) -> Counts:
        usable = sum(connection.usable for connection in self._connections)
        return Counts(
            dialling=int(self._dialling is not None),
            open=usable,
            draining=len(self._connections) - usable,
            streams=sum(connection.protocol.open_streams for connection in self._connections),
        )

    def wake(self) -> None:
        """There may be new work: offer it to the connections, least loaded first, and open the first one."""
        if self._closing:
            return
        usable = [connection for connection in self._connections if connection.usable]
        for connection in sorted(usable, key=lambda connection: connection.protocol.open_streams):
            if not self._source.backlog or not connection.pump():
                return
        if not usable:
            self._dial()

    def tick(self, now: float) -> None:
        """Deadlines and growth; to be called about ten times a second with the loop's time."""
        for connection in list(self._connections):
            connection.sweep(now)
        if self._closing:
            return
        usable = [connection for connection in self._connections if connection.usable]
        if not usable:
            self._dial()  # ahead of need: a pool that lives has a connection
        elif not self._source.backlog:
            return
        elif any(not connection.protocol.limited for connection in usable):
            self.wake()
        elif self._busy() < 0.9:
            self._dial()

    def serve(self, source: Source, listener: Listener) -> None:
        """Take requests from another source from now on, who is also told what becomes of those on the wire."""
        self._source = source
        self._listener = listener
        for connection in self._connections:
            connection.serve(source)

    def replace(self) -> None:
        """Drain all connections, and open new ones: what they were opened with is no longer good."""
        for connection in list(self._connections):
            connection.drain()

    async def close(self, deadline: float) -> None:
        """Let open requests finish for `deadline` seconds, then say GOAWAY and close."""
        self._closing = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait([self._dialling])
        self.replace()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._empty.wait()
        for connection in list(self._connections):
            connection.abort("shut down")
        await self._empty.wait()

    def _dial(self) -> None:
        usable = [connection for connection in self._connections if connection.usable]
        # Half open after a failure: the one connection there is has to be answered before there is another.
        probing = self._failures > 0 and any(not connection.answered for connection in usable)
        # Each of them sends one request and waits. A second one helps if the first hangs; many would hang together.
        probing |= len(usable) > 1 and not any(connection.answered for connection in usable)
        allowed = not self._closing and len(usable) < self._limit and self._loop.time() >= self._not_before
        if self._dialling is None and allowed and not probing:
            self._dialling = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        self._count_dial(self._loop.time())
        self._dialled += 1
        number = self._dialled
        failure: DialFailure | None
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._open(number)
        except TimeoutError:
            failure = DialFailure("timeout", f"no connection within {self._connect_timeout:g} s")
        except ssl.SSLCertVerificationError as error:
            failure = DialFailure("tls", f"the server's certificate is not trusted: {error.verify_message}")
        except ssl.SSLError as error:
            reason = getattr(error, "reason", None) or error.strerror  # those that Python raises itself have no reason
            failure = DialFailure("tls", f"the TLS handshake failed: {reason}")
        except Forbidden as error:
            failure = DialFailure("forbidden", str(error))
        except OSError as error:
            failure = DialFailure("refused", error.strerror or "the connection was refused or reset")
        except ValueError:  # of the IDNA codec, among others
            failure = DialFailure("refused", "the host's name cannot be resolved")
        else:
            failure = self._adopt(connection)
        finally:
            self._dialling = None
        self._listener.dialled(failure)
        if failure is not None:
            self._back_off(failure)

    async def _open(self, number: int) -> Connection:
        def connection() -> Connection:
            return Connection(
                self._source,
                request_timeout=self._request_timeout,
                on_answer=self._answered,
                on_change=self._changed,
                number=number,
            )

        host, port = self._address
        if self._guard is None:
            _, opened = await self._loop.create_connection(
                connection, host, port, ssl=self._tls, ssl_shutdown_timeout=CLOSE_DEADLINE
            )
            return opened
        sock = await self._guard.connect(host, port)
        try:
            _, opened = await self._loop.create_connection(
                connection, sock=sock, server_hostname=host, ssl=self._tls, ssl_shutdown_timeout=CLOSE_DEADLINE
            )
        except BaseException:
            sock.close()  # where no transport took it
            raise
        return opened

    def _count_dial(self, now: float) -> None:
        self._dials.append(now)
        if len(self._dials) == self._dials.maxlen:
            self._not_before = max(self._not_before, self._dials[0] + 60.0)

    def _adopt(self, connection: Connection) -> DialFailure | None:
        if connection.lost is not None:
            return DialFailure("closed" if connection.spoke_http2 else "alpn", connection.lost)
        self._connections.append(connection)
        self._empty.clear()
        connection.pump()
        return None

    def _back_off(self, failure: DialFailure) -> None:
        """Full jitter: so that many gateways do not come back at the same moment."""
        self._failure = failure
        ceiling = min(BACKOFF_CEILING, BACKOFF_FLOOR * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._not_before = self._loop.time() + self._jitter.uniform(BACKOFF_FLOOR / 4, ceiling)

    def _answered(self) -> None:
        """A connection had its first answer."""
        self._failures = 0
        self._failure = None

    def _changed(self, connection: Connection) -> None:
        """A connection began to drain, or is gone."""
        if connection.lost is not None:
            self._removed(connection)
            return
        if connection.protocol.goaway is not None:
            code, debug = connection.protocol.goaway
            self._listener.goaway(code, debug)
            if code != ErrorCode.NO_ERROR:
                self._back_off(DialFailure("closed", f"told to go away: {error_name(code)}"))
        if connection.retired is not None:
            self._back_off(DialFailure("closed", connection.retired))
        self._dial()

    def _removed(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        if not self._connections:
            self._empty.set()
        if connection.useless and not self._closing:
            self._back_off(DialFailure("closed", connection.lost or "closed without an answer"))
        elif not connection.answered:
            self._not_before = max(self._not_before, self._loop.time() + BACKOFF_FLOOR)
        if self._source.backlog and not self._closing:
            self.wake()


def tls_context(ca_file: str | None, client_certificate: ClientCertificate | None = None) -> ssl.SSLContext:
    """Verified TLS 1.2 or later that offers `h2` alone (RFC 9113 section 3.2); `ca_file` instead of the system's."""
    if client_certificate is None:
        return _anonymous(ca_file)
    context = _verified(ca_file)
    with _in_memory(client_certificate.chain) as chain, _in_memory(client_certificate.key) as key:
        context.load_cert_chain(chain, key)
    return context


@contextlib.contextmanager
def _in_memory(secret: Secret) -> Iterator[str]:
    """A path to read it from: OpenSSL takes certificates from files only, and no disk is to have it."""
    if not hasattr(os, "memfd_create"):  # only Linux has it; elsewhere a file that nobody else may read
        with tempfile.NamedTemporaryFile() as file:
            file.write(secret.reveal())
            file.flush()
            yield file.name
        return
    with os.fdopen(os.memfd_create("carillon", os.MFD_CLOEXEC), "wb") as memory:
        memory.write(secret.reveal())
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"


@functools.cache
def _anonymous(ca_file: str | None) -> ssl.SSLContext:
    """Shared by all that trust the same: to load the system's certificates takes 50 ms and a MiB."""
    return _verified(ca_file)


def _verified(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
