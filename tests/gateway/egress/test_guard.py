"""Names that strangers chose: resolved once, checked whole, and connected to where they were checked.

All sockets are real and on loopback, where 127.0.0.2 plays a host of the internet and all others do not.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.egress.guard import MOST_ADDRESSES, Forbidden, Guard, resolve
from gateway.http2.pool import Address, DialFailure, Pool
from tests.gateway.egress.resolving import INTERNET, Listener, Resolver, public
from tests.gateway.http2.requests import Source
from tests.gateway.virtual import until

LOOPS = ("asyncio", "uvloop")

INSIDE = "127.0.0.1"


@pytest.fixture
async def internet() -> AsyncIterator[Listener]:
    async with Listener(INTERNET) as listener:
        yield listener


@pytest.fixture
async def inside(internet: Listener) -> AsyncIterator[Listener]:
    """What must not be reached, on the same port."""
    async with Listener(INSIDE, internet.port) as listener:
        yield listener


async def test_a_public_host_is_connected_to(internet: Listener) -> None:
    resolver = Resolver([INTERNET])
    with await Guard(resolver, public).connect("push.example", internet.port) as sock:
        assert sock.getpeername() == (INTERNET, internet.port)
        assert sock.getblocking() is False
    assert resolver.asked == [("push.example", internet.port)], "once"


@pytest.mark.parametrize("answer", [[INSIDE], [INTERNET, INSIDE], [INSIDE, INTERNET], [INTERNET, "::1"], []])
async def test_one_address_that_is_not_public_spoils_the_answer(
    answer: list[str], internet: Listener, inside: Listener
) -> None:
    """Whoever mixes them wants the first to pass a check and the second to be connected to."""
    with pytest.raises(Forbidden):
        await Guard(Resolver(answer), public).connect("push.example", internet.port)
    assert internet.callers == inside.callers == 0


async def test_a_second_answer_is_never_asked_for(internet: Listener, inside: Listener) -> None:
    """DNS rebinding: public when it is checked, inside when it is connected to."""
    resolver = Resolver([INTERNET], [INSIDE])
    guard = Guard(resolver, public)
    (await guard.connect("rebind.example", internet.port)).close()
    assert len(resolver.asked) == 1
    with pytest.raises(Forbidden):  # the next connection is a question of its own
        await guard.connect("rebind.example", internet.port)
    await until(lambda: internet.callers == 1, 5.0)
    assert inside.callers == 0


async def test_the_peer_is_checked_once_it_is_there(internet: Listener) -> None:
    """Whatever has come between the check and the connection, such as a rule of the packet filter."""
    verdicts: Iterator[bool] = iter([True, True, False])
    with pytest.raises(Forbidden):
        await Guard(Resolver([INTERNET]), lambda _: next(verdicts)).connect("push.example", internet.port)


async def test_the_next_address_is_tried_where_one_does_not_answer(internet: Listener) -> None:
    guard = Guard(Resolver(["127.0.0.3", INTERNET]), lambda address: address.startswith("127.0.0."))
    with await guard.connect("push.example", internet.port) as sock:
        assert sock.getpeername()[0] == INTERNET


async def test_without_an_address_that_answers_the_last_failure_is_told(internet: Listener) -> None:
    guard = Guard(Resolver(["127.0.0.3"]), lambda _: True)
    with pytest.raises(ConnectionRefusedError):
        await guard.connect("push.example", internet.port)


async def test_all_of_an_endless_answer_is_checked_and_little_of_it_tried() -> None:
    many = [f"127.0.1.{number}" for number in range(1, 101)]
    guard = Guard(Resolver(many), lambda address: address != "127.0.1.100")
    with pytest.raises(Forbidden):
        await guard.resolved("push.example", 443)
    guard = Guard(Resolver(many), lambda _: True)
    assert len(await guard.resolved("push.example", 443)) == MOST_ADDRESSES


def test_no_socket_is_made_for_an_address_that_is_not_public() -> None:
    (found,) = asyncio.run(Resolver([INSIDE])("localhost", 443))
    with pytest.raises(Forbidden):
        Guard(public=public).open(found)


async def test_the_systems_resolver_is_asked_by_default() -> None:
    found = await resolve("localhost", 443)
    assert {each.address[0] for each in found} <= {"127.0.0.1", "::1"}
    assert {each.kind for each in found} == {socket.SOCK_STREAM}
    with pytest.raises(Forbidden):
        await Guard().connect("localhost", 443)


async def test_a_literal_is_checked_like_a_name() -> None:
    for literal in ("127.0.0.1", "127.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "169.254.169.254"):
        with pytest.raises(OSError, match=r"not on the public internet|not known|No address"):
            await Guard().connect(literal, 443)


def test_what_is_refused_is_not_described() -> None:
    """Whoever named the host may come to read this, and must not learn what is inside."""
    assert str(Forbidden()) == "the host is not on the public internet"


class TestPool:
    """The client for push services, with a guard."""

    async def test_it_reaches_no_host_that_is_not_public(self, internet: Listener, inside: Listener) -> None:
        source = Source(1)
        pool = _pool(source, Guard(Resolver([INSIDE]), public), internet.port)
        pool.wake()
        await until(lambda: source.dials, 5.0)
        assert source.dials == [DialFailure("forbidden", "the host is not on the public internet")]
        assert inside.callers == 0
        hold = pool.hold(asyncio.get_running_loop().time())
        assert hold is not None
        assert hold > 0, "it is not tried again at once"
        await pool.close(0.0)

    async def test_it_shows_the_name_that_was_given(self, internet: Listener) -> None:
        """SNI and the certificate are by name, whatever address was connected to."""
        source = Source(1)
        pool = _pool(source, Guard(Resolver([INTERNET]), public), internet.port)
        pool.wake()
        await until(lambda: source.dials, 5.0)
        assert b"push.example" in internet.received
        failure = source.dials[0]
        assert failure is not None
        assert failure.kind in ("tls", "refused"), "the listener speaks no TLS"
        await pool.close(0.0)


def _pool(source: Source, guard: Guard, port: int) -> Pool:
    return Pool(
        Address("push.example", port),
        ssl.create_default_context(),
        source,
        source,
        limit=1,
        request_timeout=5.0,
        connect_timeout=5.0,
        guard=guard,
    )
