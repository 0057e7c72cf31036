"""Who is let in, as whom, and how they are told if they are not."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientConnectionError, ClientSession, TCPConnector, web

from gateway.access.gate import OpenGate
from gateway.ingest.door import Door
from gateway.ingest.server import application
from gateway.listener import server_context
from tests.gateway.access.house import House, house, settings


async def status(session: ClientSession, path: str = "/v1/parked", **more: Any) -> int:
    async with session.get(path, **more) as response:
        return response.status


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[House]:
    async with house(settings({"acme": {}}, tmp_path / "q.db")) as found:
        yield found


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (None, "This needs a credential"),
        ("Bearer carillon_default_no", "not known"),
        ("Bearer ", "not known"),
        ("Bearer", "not known"),
        ("Basic dXNlcjpwYXNz", "RFC 6750"),
        ("Bearer a.b.c", "not known"),
        ("bearer carillon_default_no extra", "not known"),
    ],
)
async def test_who_shows_nothing_good_is_told_so(gateway: House, field: str | None, why: str) -> None:
    """401 with a challenge and a sentence that repeats nothing of what was shown."""
    headers = {} if field is None else {"Authorization": field}
    async with gateway.caller(None) as session, session.get("/v1/keys", headers=headers) as response:
        assert response.status == 401
        problem = await response.json(content_type=None)
        challenge = response.headers["WWW-Authenticate"]
    assert why in problem["detail"]
    assert challenge == 'Bearer realm="carillon"' + ("" if field is None else ', error="invalid_token"')
    assert field is None or "carillon_default_no" not in str(problem)


async def test_two_credentials_are_none(gateway: House) -> None:
    """Nobody guesses which was meant."""
    key = await gateway.key("default")
    async with gateway.caller(None) as session:
        fields = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
        assert await status(session, headers=fields) == 401
        assert await status(session, headers=fields[:1]) == 200
        assert await status(session, headers=[("authorization", f"bearer {key}")]) == 200


async def test_the_query_opens_nothing(gateway: House) -> None:
    """URLs are logged everywhere; a key belongs into a header."""
    key = await gateway.key("default")
    async with gateway.caller(None) as session:
        assert await status(session, f"/v1/parked?key={key}&access_token={key}") == 401


async def test_an_open_gateway_asks_nobody_but_believes_no_wrong_key(tmp_path: Path) -> None:
    """Who shows nothing is the default tenant; a tenant's key is still that tenant's."""
    async with house(settings({"acme": {}}, tmp_path / "q.db", access={"open": True})) as gateway:
        body = {"app": "shop", "class": "transactional", "message": {"title": "t"}, "recipients": []}
        async with gateway.caller(None) as anyone, gateway.caller(await gateway.key("acme")) as acme:
            assert await status(anyone) == 200
            assert await status(anyone, headers={"Authorization": "Bearer carillon_default_x"}) == 401
            async with anyone.post("/v1/jobs", json={**body, "app": "acme/shop"}) as response:
                assert response.status == 422
            async with acme.get("/v1/tokens/invalid?app=shop") as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("probes", "headers", "open_to"),
    [
        ("loopback", {}, True),
        ("loopback", {"X-Forwarded-For": "192.0.2.1"}, False),
        ("loopback", {"Forwarded": "for=192.0.2.1"}, False),
        ("anyone", {"X-Forwarded-For": "192.0.2.1"}, True),
        ("credential", {}, False),
    ],
)
async def test_probes_are_for_whom_the_settings_say(
    tmp_path: Path, probes: str, headers: dict[str, str], open_to: bool
) -> None:
    """Whether it lives and is ready, everybody may know."""
    async with house(settings({}, tmp_path / "q.db", access={"probes": probes})) as gateway:
        async with gateway.caller(None) as session:
            assert await status(session, "/livez", headers=headers) == 200
            assert await status(session, "/metrics", headers=headers) == (200 if open_to else 401)
            async with session.get("/readyz", headers=headers) as response:
                assert response.status == 200
                assert ("parts" in await response.json()) is open_to
            wrong = headers | {"Authorization": "Bearer carillon_default_x"}
            assert await status(session, "/metrics", headers=wrong) == 401
        async with gateway.caller(await gateway.key("default")) as operator:
            assert await status(operator, "/metrics", headers=headers) == 200


async def test_a_route_that_says_nothing_is_refused_at_start(gateway: House) -> None:
    """Whoever adds one has to decide who may ask."""

    async def handler(_request: web.Request) -> web.Response:
        raise AssertionError

    with pytest.raises(TypeError, match="GET /v1/secret does not say what it needs"):
        application([*gateway.routes, web.get("/v1/secret", handler)], OpenGate(), Door())


class Certificates:
    """An authority, a listener with its certificate, and callers with theirs."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.folder = folder
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            str(folder / "listener.pem")
        )

    def listener(self, *, required: bool) -> ssl.SSLContext:
        return server_context(self.folder / "listener.pem", None, self.folder / "ca.pem", required=required)

    def caller(self, url: str, *identities: str, by: trustme.CA | None = None, **headers: str) -> ClientSession:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if identities:
            (by or self.authority).issue_cert(*identities).configure_cert(context)
        return ClientSession(url, connector=TCPConnector(ssl=context), headers=headers)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def mapped(path: Path, **more: Any) -> Any:
    given = {"san": "DNS:campaigns.acme.example", "tenant": "acme", "scopes": ["read", "operate"], **more}
    return settings({"acme": {}, "globex": {}}, path, access={"certificates": [given]})


async def test_a_certificate_says_who_calls(tmp_path: Path, certificates: Certificates) -> None:
    """By its subject alternative name, with the scopes that are configured; one that is not mapped says nothing."""
    tls = certificates.listener(required=True)
    async with house(mapped(tmp_path / "q.db"), tls) as gateway:
        async with certificates.caller(gateway.url, "campaigns.acme.example") as acme:
            assert await status(acme) == 200
            assert await status(acme, "/v1/tokens/invalid?app=shop") == 200
            async with acme.post("/v1/jobs", json={}) as response:
                assert response.status == 403
        async with certificates.caller(gateway.url, "other.acme.example") as unmapped:
            assert await status(unmapped) == 401


async def test_without_a_certificate_of_the_authority_there_is_no_connection(
    tmp_path: Path, certificates: Certificates
) -> None:
    """Neither none nor somebody else's, where one is required."""
    async with house(mapped(tmp_path / "q.db"), certificates.listener(required=True)) as gateway:
        async with certificates.caller(gateway.url) as bare:
            with pytest.raises(ClientConnectionError):
                await status(bare)
        async with certificates.caller(gateway.url, "campaigns.acme.example", by=trustme.CA()) as foreign:
            with pytest.raises(ClientConnectionError):
                await status(foreign)


async def test_where_it_is_optional_a_key_does_as_well(tmp_path: Path, certificates: Certificates) -> None:
    """And where both are shown, they have to be the same tenant's."""
    async with house(mapped(tmp_path / "q.db"), certificates.listener(required=False)) as gateway:
        keys = {name: f"Bearer {await gateway.key(name)}" for name in ("acme", "globex")}
        name = "campaigns.acme.example"
        async with certificates.caller(gateway.url, Authorization=keys["globex"]) as session:
            assert await status(session) == 200
        async with certificates.caller(gateway.url, name, Authorization=keys["acme"]) as session:
            assert await status(session) == 200
        async with certificates.caller(gateway.url, name, Authorization=keys["globex"]) as session:
            assert await status(session) == 401
        async with certificates.caller(gateway.url) as session:
            assert await status(session) == 401
            assert await status(session, "/livez") == 200


@pytest.mark.parametrize(("name", "content"), [("gone.pem", None), ("broken.pem", "no certificate")])
def test_a_listener_that_cannot_be_is_named(tmp_path: Path, name: str, content: str | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(OSError, match=name):
        server_context(path, None, None, required=False)
    certificates = Certificates(tmp_path)
    with pytest.raises(OSError, match="client_ca_file"):
        server_context(certificates.folder / "listener.pem", None, path, required=False)
