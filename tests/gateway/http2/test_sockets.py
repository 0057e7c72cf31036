"""Connections, pools and single requests over real TLS, on asyncio's loop and on uvloop.

What depends on timers is tested in `test_connection` and `test_pool`; here it is whether sockets, TLS and either loop
do what those suppose.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from bench.simulators import Certificates, Credentials, Options, Rule, Script, Simulator, start
from gateway.egress.guard import Guard
from gateway.http2.pool import Address, Pool, tls_context
from gateway.http2.single import RequestFailed, post
from providers.base import Exchange, Head
from tests.gateway.egress.resolving import Resolver
from tests.gateway.http2.requests import Source
from tests.gateway.virtual import until

LOOPS = ("asyncio", "uvloop")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials.make(tmp_path_factory.mktemp("credentials"))


Begin = Callable[..., Awaitable[Simulator]]


@pytest.fixture
async def begin(certificates: Certificates, credentials: Credentials) -> AsyncIterator[Begin]:
    """Starts stub services with scripts."""
    running = []

    async def begin(*rules: Rule, rtt: float = 0.0) -> Simulator:
        options = Options(script=Script(rules), rtt=rtt)
        running.append(await start("stub", tls=certificates, credentials=credentials, options=options))
        return running[-1]

    yield begin
    for simulator in running:
        await simulator.close()


class Pushes(Source):
    """Requests that the stub service understands: `/push/NAME-NUMBER`."""

    def __init__(self, credentials: Credentials, count: int, name: str = "token", body: bytes = b'{"id":"%d"}') -> None:
        super().__init__(count)
        self.name = name
        self.template = body
        bearer = b"Bearer " + credentials.stub_key.encode()
        fixed = (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b"authorization", bearer),
        )
        self.head = Head(fixed, (), (b":path",))

    def take(self, streams: int, window: int):  # type: ignore[no-untyped-def]
        requests = super().take(streams, window)
        if requests is None:
            return None
        paths = [f"/push/{self.name}-{tag}".encode() for tag in requests.tags]
        bodies = [self.template % tag for tag in requests.tags]
        return requests._replace(head=self.head, fields=(paths,), bodies=bodies)


def pool_of(
    source: Source,
    simulator: Simulator,
    certificates: Certificates,
    *,
    timeout: float = 5.0,
    guard: Guard | None = None,
    host: str | None = None,
) -> Pool:
    pool = Pool(
        Address(host or simulator.host, simulator.port),
        tls_context(str(certificates.ca_file)),
        source,
        source,
        limit=3,
        request_timeout=timeout,
        connect_timeout=5.0,
        guard=guard,
    )
    pool.wake()
    return pool


async def turn(pool: Pool, condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Tick as the dispatcher does, until something is so."""
    loop = asyncio.get_running_loop()

    async def ticking() -> None:
        while True:
            pool.tick(loop.time())
            await asyncio.sleep(0.02)

    clock = loop.create_task(ticking())
    try:
        await until(condition, seconds)
    finally:
        clock.cancel()


async def test_everything_arrives_once(begin: Begin, certificates: Certificates, credentials: Credentials) -> None:
    simulator, source = await begin(), Pushes(credentials, 3000)
    pool = pool_of(source, simulator, certificates)
    await turn(pool, lambda: source.done == 3000)
    assert len(source.accepted) == 3000
    assert len(simulator.journal) == 3000
    await pool.close(1.0)
    assert pool.counts() == (0, 0, 0, 0)


async def test_behind_a_guard_everything_arrives_as_well(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    """The socket is connected before TLS begins, and the certificate is still that of the name."""
    simulator, source = await begin(), Pushes(credentials, 300)
    resolver = Resolver([simulator.host])
    pool = pool_of(
        source,
        simulator,
        certificates,
        host="localhost",
        guard=Guard(resolver, lambda address: address == simulator.host),
    )
    await turn(pool, lambda: source.done == 300)
    assert len(source.accepted) == 300
    assert set(resolver.asked) == {("localhost", simulator.port)}
    await pool.close(1.0)
    assert pool.counts() == (0, 0, 0, 0)


async def test_behind_a_guard_a_certificate_is_checked_by_name(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    simulator, source = await begin(), Pushes(credentials, 1)
    pool = pool_of(
        source,
        simulator,
        certificates,
        host="push.example.com",
        guard=Guard(Resolver([simulator.host]), lambda _: True),
    )
    await turn(pool, lambda: source.dials)
    failure = source.dials[0]
    assert failure is not None
    assert failure.kind == "tls"
    assert "push.example.com" in failure.detail
    await pool.close(0.0)


async def test_bodies_larger_than_the_windows_arrive_whole(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    body = b'{"id":"%d","title":"' + b"x" * 100_000 + b'"}'
    simulator, source = await begin(), Pushes(credentials, 20, body=body)
    pool = pool_of(source, simulator, certificates)
    await turn(pool, lambda: source.done == 20)
    assert len(source.accepted) == 20
    await pool.close(1.0)


async def test_a_hanging_request_times_out_alone(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    simulator, source = await begin(Rule(prefix="token-7", share=1.0, fault="hang")), Pushes(credentials, 60)
    pool = pool_of(source, simulator, certificates, timeout=0.5)
    hangs = [number for number in range(60) if str(number).startswith("7")]
    await turn(pool, lambda: source.done == 60)
    assert sorted(source.unknown) == hangs
    source.waiting = [100]
    await turn(pool, lambda: source.done == 61)
    await pool.close(1.0)


async def test_a_graceful_goaway_loses_nothing(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    simulator, source = await begin(rtt=0.02), Pushes(credentials, 2000)
    pool = pool_of(source, simulator, certificates)
    await turn(pool, lambda: source.done > 300)
    simulator.goaway()
    await turn(pool, lambda: source.done == 2000)
    assert len(source.accepted) == 2000
    assert len(simulator.journal) == 2000
    assert source.farewells
    await pool.close(1.0)


async def test_a_cut_leaves_unknown_what_was_open_and_the_rest_goes_on(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    simulator, source = await begin(rtt=0.05), Pushes(credentials, 2000)
    pool = pool_of(source, simulator, certificates)
    await turn(pool, lambda: source.done > 300)
    simulator.cut()
    await turn(pool, lambda: source.done == 2000)
    assert 0 < len(source.unknown) < 400
    assert not source.on_wire
    await pool.close(1.0)


async def test_an_endpoint_that_nobody_serves_is_refused(
    begin: Begin, certificates: Certificates, credentials: Credentials
) -> None:
    simulator, source = await begin(), Pushes(credentials, 1)
    await simulator.close()
    pool = pool_of(source, simulator, certificates)
    await turn(pool, lambda: source.dials)
    assert pool.failure is not None
    assert pool.failure.kind == "refused"
    await pool.close(1.0)


async def test_a_certificate_of_somebody_else_is_not_trusted(
    begin: Begin, certificates: Certificates, credentials: Credentials, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    simulator, source = await begin(), Pushes(credentials, 1)
    pool = Pool(
        Address(simulator.host, simulator.port),
        tls_context(str(tmp_path / "other.pem")),
        source,
        source,
        limit=1,
        request_timeout=5.0,
        connect_timeout=5.0,
    )
    await turn(pool, lambda: source.dials)
    assert pool.failure is not None
    assert pool.failure.kind == "tls"
    assert "certificate is not trusted" in pool.failure.detail
    assert source.waiting == [0]
    await pool.close(1.0)


async def served(
    tmp_path: Path, *protocols: str, speaks: bytes | None = b""
) -> tuple[asyncio.Server, int, ssl.SSLContext]:
    """A TLS server that offers these ALPN protocols, says something and closes; None: says nothing and stays."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(list(protocols))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if speaks is None:
            await reader.read()
        else:
            writer.write(speaks)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1], tls_context(str(tmp_path / "ca.pem"))


@pytest.mark.parametrize(
    ("protocols", "speaks", "kind"),
    [(("http/1.1",), b"", "alpn"), (("h2",), b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed")],
)
async def test_a_server_of_another_kind_gets_nothing(
    tmp_path: Path, protocols: tuple[str, ...], speaks: bytes, kind: str
) -> None:
    server, port, tls = await served(tmp_path, *protocols, speaks=speaks)
    source = Source(1)
    pool = Pool(Address("127.0.0.1", port), tls, source, source, limit=1, request_timeout=5.0, connect_timeout=5.0)
    await turn(pool, lambda: pool.failure is not None)
    assert pool.failure is not None
    assert pool.failure.kind == kind
    await pool.close(1.0)
    server.close()


async def test_closing_does_not_wait_for_a_peer_that_does_not_listen(tmp_path: Path) -> None:
    """TLS would wait half a minute for its farewell."""
    server, port, tls = await served(tmp_path, "h2", speaks=None)
    source = Source(1)
    pool = Pool(Address("127.0.0.1", port), tls, source, source, limit=1, request_timeout=5.0, connect_timeout=5.0)
    await turn(pool, lambda: pool.counts().open)
    async with asyncio.timeout(2.0):
        await pool.close(0.2)
    assert set(source.unknown) == {0}
    server.close()


class TestSingle:
    def asked(self, simulator: Simulator, credentials: Credentials, token: str = "token") -> Exchange:
        bearer = b"Bearer " + credentials.stub_key.encode()
        return Exchange(f"{simulator.endpoints[0]}/push/{token}", ((b"authorization", bearer),), b'{"id":"1"}')

    async def test_an_answer_is_awaited(
        self, begin: Begin, certificates: Certificates, credentials: Credentials
    ) -> None:
        simulator = await begin(Rule(prefix="gone", answer="unregistered"))
        tls = tls_context(str(certificates.ca_file))
        assert (await post(self.asked(simulator, credentials), tls)).status == 200
        answer = await post(self.asked(simulator, credentials, "gone"), tls)
        assert (answer.status, answer.body[:10]) == (410, b'{"reason":')
        await asyncio.sleep(0.05)
        assert simulator.stats()["connections_open"] == 0

    async def test_a_refused_stream_is_tried_again(
        self, begin: Begin, certificates: Certificates, credentials: Credentials
    ) -> None:
        simulator = await begin(Rule(fault="reset", code=7, attempts=2))
        answer = await post(self.asked(simulator, credentials), tls_context(str(certificates.ca_file)))
        assert answer.status == 200

    @pytest.mark.parametrize("fault", ["lost", "cut"])
    async def test_a_lost_connection_is_told(
        self, begin: Begin, certificates: Certificates, credentials: Credentials, fault: str
    ) -> None:
        simulator = await begin(Rule(fault=fault))  # type: ignore[arg-type]
        with pytest.raises(RequestFailed):
            await post(self.asked(simulator, credentials), tls_context(str(certificates.ca_file)))

    async def test_no_connection_is_told(
        self, begin: Begin, certificates: Certificates, credentials: Credentials
    ) -> None:
        simulator = await begin()
        await simulator.close()
        with pytest.raises(RequestFailed):
            await post(self.asked(simulator, credentials), tls_context(str(certificates.ca_file)))

    async def test_whoever_gives_up_leaves_nothing_behind(
        self, begin: Begin, certificates: Certificates, credentials: Credentials
    ) -> None:
        simulator = await begin(Rule(fault="hang"))
        asking = asyncio.create_task(post(self.asked(simulator, credentials), tls_context(str(certificates.ca_file))))
        await until(lambda: len(simulator.journal))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: simulator.stats()["connections_open"] == 0, 2.0)
