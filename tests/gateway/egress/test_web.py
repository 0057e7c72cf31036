"""Requests to places that strangers named: bounded, unredirected, behind the guard."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest
import trustme
from aiohttp import web

from gateway.egress.guard import Guard
from gateway.egress.web import ANSWER, Unreached, Web, check_place
from tests.gateway.egress.resolving import INTERNET, Listener, Resolver, public

LOOPS = ("asyncio", "uvloop")

HOST = "hooks.example.com"
INSIDE = "127.0.0.1"
METADATA = "http://169.254.169.254/latest/meta-data/"


class Receiver(NamedTuple):
    """Who is called, with what it was asked."""

    port: int
    tls: ssl.SSLContext
    requests: list[web.Request]

    def url(self, path: str = "/hook") -> str:
        return f"https://{HOST}:{self.port}{path}"


Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[Receiver]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def begin(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Receiver:
        requests: list[web.Request] = []

        async def handle(request: web.Request) -> web.StreamResponse:
            requests.append(request)
            await request.read()
            return await handler(request)

        authority, theirs = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(theirs)
        ours = ssl.create_default_context()
        authority.configure_trust(ours)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runners.append(web.AppRunner(app, shutdown_timeout=0.1))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], INTERNET, 0, ssl_context=theirs)
        await site.start()
        return Receiver(runners[-1].addresses[0][1], ours, requests)

    yield begin
    for runner in runners:
        await runner.cleanup()


def caller(receiver: Receiver, *answers: list[str], timeout: float = 5.0) -> Web:
    return Web(Guard(Resolver(*(answers or ([INTERNET],))), public), timeout=timeout, tls=receiver.tls)


async def ok(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"thanks", headers={"X-Name": "value"})


async def test_a_request_and_its_answer(serve: Serve) -> None:
    receiver = await serve(ok)
    async with caller(receiver) as outside:
        reply = await outside.request("POST", receiver.url(), headers={"webhook-id": "1"}, body=b"{}")
    assert (reply.status, reply.body, reply.headers["x-name"]) == (200, b"thanks", "value")
    (request,) = receiver.requests
    assert request.headers["Webhook-Id"] == "1"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.host == f"{HOST}:{receiver.port}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", [METADATA, "https://127.0.0.1/", "//169.254.169.254/", "/elsewhere"])
async def test_no_redirect_is_followed(status: int, target: str, serve: Serve) -> None:
    """A redirect is an answer: whoever sends one would have us go where nobody has checked."""

    async def redirect(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": target})

    receiver = await serve(redirect)
    async with caller(receiver) as outside:
        reply = await outside.request("POST", receiver.url(), headers={}, body=b"{}")
    assert reply.status == status
    assert len(receiver.requests) == 1


async def test_it_goes_nowhere_inside(serve: Serve) -> None:
    receiver = await serve(ok)
    async with Listener(INSIDE, receiver.port) as inside:
        async with caller(receiver, [INTERNET, INSIDE]) as outside:
            with pytest.raises(Unreached, match="not on the public internet"):
                await outside.request("GET", receiver.url(), headers={})
        assert inside.callers == 0


@pytest.mark.parametrize("literal", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0", "127.1"])
async def test_addresses_written_as_such_are_checked_although_nobody_resolves_them(literal: str, serve: Serve) -> None:
    receiver = await serve(ok)
    resolver = Resolver([INTERNET])
    async with (
        Listener(INSIDE, receiver.port) as inside,
        Web(Guard(resolver, public), timeout=5.0, tls=receiver.tls) as outside,
    ):
        with pytest.raises(Unreached):
            await outside.request("GET", f"https://{literal}:{receiver.port}/", headers={})
        assert inside.callers == 0
    assert receiver.requests == []


async def test_a_resolver_that_changes_its_mind_is_checked_each_time(serve: Serve) -> None:
    """DNS rebinding, between two requests whose connection is not kept."""

    async def last(_request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Connection": "close"})

    receiver = await serve(last)
    async with Listener(INSIDE, receiver.port) as inside:
        async with caller(receiver, [INTERNET], [INSIDE]) as outside:
            assert (await outside.request("GET", receiver.url(), headers={})).status == 200
            with pytest.raises(Unreached, match="not on the public internet"):
                await outside.request("GET", receiver.url(), headers={})
        assert inside.callers == 0


async def test_the_environment_names_no_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = await serve(ok)
    async with Listener(INSIDE) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{INSIDE}:{proxy.port}")
        async with caller(receiver) as outside:
            assert (await outside.request("GET", receiver.url(), headers={})).status == 200
        assert proxy.callers == 0


async def test_of_an_endless_answer_the_beginning_is_kept(serve: Serve) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with_no_end = bytes(16_000)
        while True:
            await response.write(with_no_end)

    receiver = await serve(endless)
    async with caller(receiver) as outside:
        reply = await outside.request("GET", receiver.url(), headers={})
    assert len(reply.body) == ANSWER == 65_536


async def test_nothing_is_unpacked(serve: Serve) -> None:
    packed = gzip.compress(bytes(10_000_000))

    async def bomb(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    receiver = await serve(bomb)
    async with caller(receiver) as outside:
        assert (await outside.request("GET", receiver.url(), headers={})).body == packed


async def test_who_says_nothing_has_had_its_time(serve: Serve) -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    receiver = await serve(silent)
    async with caller(receiver, timeout=0.2) as outside:
        with pytest.raises(Unreached, match="no answer in time"):
            await outside.request("GET", receiver.url(), headers={})


async def test_no_cookie_is_kept(serve: Serve) -> None:
    async def sticky(_request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "a=b"})

    receiver = await serve(sticky)
    async with caller(receiver) as outside:
        for _ in range(2):
            await outside.request("GET", receiver.url(), headers={})
    assert [request.headers.get("Cookie") for request in receiver.requests] == [None, None]


async def test_a_certificate_has_to_be_for_the_name(serve: Serve) -> None:
    receiver = await serve(ok)
    async with caller(receiver) as outside:
        with pytest.raises(Unreached, match="Cert") as failed:
            await outside.request("GET", f"https://other.example.com:{receiver.port}/secret", headers={})
    assert "other" not in str(failed.value)
    assert failed.value.__cause__ is None


async def test_the_operators_own_places_need_no_guard(serve: Serve) -> None:
    """A receiver inside the company, which the settings name."""
    receiver = await serve(ok)
    async with Web(None, timeout=5.0, tls=receiver.tls) as inside:
        with pytest.raises(Unreached, match="Cert"):  # reached, and not trusted under this name
            await inside.request("GET", f"https://{INTERNET}:{receiver.port}/", headers={})


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/x",
        "https://hooks.example.com",
        "https://hooks.example.com:443/x?y=z",
        "HTTPS://Hooks.Example.COM./x",
        "https://xn--bcher-kva.example.com/",
        "https://hooks.example.com/" + "x" * 2022,
    ],
)
def test_places_that_a_stranger_may_name(url: str) -> None:
    check_place(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://hooks.example.com/x",
        "https://hooks.example.com:8443/x",
        "https://hooks.example.com:0443/x",
        "https://user@hooks.example.com/x",
        "https://hooks.example.com/x#y",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/x y",
        "https://hooks.example.com/x\n",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://[::1]/",
        "https://8.8.8.8/",
        "https://localhost/",
        "https://db.localhost/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://intranet/",
        "https://bücher.example.com/",
        "https://hooks.example.com/" + "x" * 2023,
    ],
)
def test_places_that_a_stranger_may_not_name(url: str) -> None:
    with pytest.raises(ValueError, match="has to") as wrong:
        check_place(url)
    assert "hooks" not in str(wrong.value)
    assert "127" not in str(wrong.value)
