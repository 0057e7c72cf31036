"""What is marked as nobody's business goes every way through a gateway, and is looked for wherever it leaves traces.

The gateway is a process of its own at debug level. Its services answer with what they were sent, in reasons, header
fields and GOAWAY's debug data; parts of it fail where they never should, quoting what they have at hand.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from bench.simulators import Certificates, Credentials, configuration
from bench.world import World
from tests.integration.echoing import REFUSED, STATUSES, Echo
from tests.providers.material import EC_KEY, b64, point

FAILING = Path(__file__).parent / "failing"

PAYLOAD = "birdie-7-payload"
VARIABLE = "birdie-8-variable"
DEVICE = "cafe0123" * 8
REGISTRATION = "birdie-9-registration:APA91bBirdie" + "x9" * 60
ENDPOINT = "birdie-10-endpoint"
AUTH = b64(b"birdie-11-secret")
POINT = b64(point(EC_KEY))
BEARER = "birdie-12-bearer"
BYTES = "birdie-13-bytes"

CANARY = re.compile(r"birdie|cafe0123cafe|eyJ[\w-]{8}|ya29\.|PRIVATE KEY", re.IGNORECASE)
"""All of these, JWTs, access tokens and keys."""


class Canaries(World):
    """A gateway whose app `shop` has good services, `echo` and `refused` those that echo."""

    def __init__(self) -> None:
        failing = {"PYTHONPATH": str(FAILING), "CARILLON_OBSERVE__LOG_LEVEL": "debug"}
        quick = {"CARILLON_DISPATCH__BACKOFF_CAP": "0.2s", "CARILLON_DISPATCH__RETRY_FLOOR": "1000"}
        super().__init__(
            ("apns", "fcm", "webpush"),
            mode="quick",
            serve=False,
            environment={**failing, **quick, "CARILLON_DISPATCH__MAX_FAILURES": "2"},
        )

    def serve(self, echo: Echo) -> None:
        described: dict[str, Any] = json.loads((self.folder / "simulators.json").read_text())["services"]
        blocks = {name: dict(service["settings"]) for name, service in described.items()}
        # The access tokens are the simulators' own; only the messages go to the echo.
        blocks["fcm"] |= {"endpoint": echo.origin, "token_uri": described["fcm"]["token_uri"]}
        blocks["apns"] |= {"endpoint": echo.origin}
        blocks["webpush"] |= {"endpoints": [echo.origin]}
        fragment = self.folder / "simulators.toml"
        refused = blocks["apns"] | {"topic": f"com.example.{REFUSED.decode()}", "team_id": "OTHER12345"}
        fragment.write_text(
            configuration.toml("shop", {"services": described})
            + configuration.toml("echo", {"services": {name: {"settings": block} for name, block in blocks.items()}})
            + configuration.toml("refused", {"services": {"apns": {"settings": refused}}})
        )
        self.echo = echo
        self.gateway = self._start_gateway()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        named = {"Authorization": f"Bearer {self.key}"} | named
        request = Request(f"{self.url}{path}", data=body or None, method=method, headers=named)
        try:
            with urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def submit(self, app: str, recipients: list[dict[str, Any]], **fields: Any) -> tuple[int, str]:
        message = {"title": f"{PAYLOAD} {{{{who}}}}", "body": PAYLOAD, "data": {"key": PAYLOAD}}
        job = {"app": app, "class": "transactional", "ttl": "8s", "message": message, "recipients": recipients}
        body = json.dumps({**job, **fields}).encode()
        return self.ask("POST", "/v1/jobs", body, content_type="application/json")

    def finished(self, answer: str, seconds: float = 40.0) -> str:
        """The receipts of an accepted job, once it has them all."""
        job, end = json.loads(answer)["job"], time.monotonic() + seconds
        while not (status := json.loads(self.ask("GET", f"/v1/jobs/{job}")[1]))["finished"]:
            assert time.monotonic() < end, status
            time.sleep(0.1)
        lines = map(json.loads, self.ask("GET", f"/v1/jobs/{job}/receipts")[1].splitlines())
        return "\n".join(json.dumps(_without_addresses(line)) for line in lines)

    def raw(self, data: bytes) -> str:
        """What is answered to bytes that need not be HTTP."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(data)
            parts = []
            while part := sock.recv(65_536):
                parts.append(part)
        return b"".join(parts).decode("latin-1")


def _without_addresses(receipt: dict[str, Any]) -> dict[str, Any]:
    """The id of a Web Push message is an address of the service's choice (RFC 8030), for its caller alone."""
    return {key: value for key, value in receipt.items() if receipt["provider"] != "webpush" or key != "provider_id"}


@pytest.fixture(scope="module")
def world() -> Iterator[Canaries]:
    with Canaries() as world, Echo(Certificates.make(world.folder)) as echo:
        world.serve(echo)
        yield world


def recipients(world: Canaries, count: int = 2 * len(STATUSES), *, origin: str | None = None) -> list[dict[str, Any]]:
    """Of all providers, all of whose targets are canaries."""
    origin = origin or world.echo.origin
    found: list[dict[str, Any]] = []
    for number in range(count):
        person = {"id": f"u{number}", "vars": {"who": VARIABLE}}
        keys = {"p256dh": POINT, "auth": AUTH}
        found += [
            {**person, "provider": "apns", "token": f"{DEVICE[:-4]}{number:04x}"},
            {**person, "provider": "fcm", "token": f"{REGISTRATION}{number}"},
            {**person, "provider": "webpush",
             "subscription": {"endpoint": f"{origin}/push/{ENDPOINT}-{number}", "keys": keys}},
        ]  # fmt: skip
    return found


def test_nothing_that_is_nobodys_business_leaves_traces(world: Canaries) -> None:
    told: dict[str, str] = {}

    # success, and services that echo: reasons, header fields, ids, GOAWAY's debug data
    status, answer = world.submit("echo", recipients(world))
    assert status == 202, answer
    told["receipts of echoes"] = world.finished(answer)
    assert world.echo.answered > 3 * len(STATUSES)
    heard = b" ".join(world.echo.heard).decode("latin-1")
    for canary in (DEVICE[:-4], REGISTRATION, ENDPOINT, PAYLOAD, VARIABLE, "eyJ"):
        assert canary in heard, "it has gone out and has come back"
    good = [person for person in recipients(world, 2) if person["provider"] != "webpush"]
    status, answer = world.submit("shop", good)
    assert status == 202, answer
    told["receipts of successes"] = world.finished(answer)
    assert '"accepted"' in told["receipts of successes"]

    # refusals: of recipients, of messages, of bodies, of requests
    bad = [
        {"id": "a", "provider": "apns", "token": f"../{BYTES}"},
        {"id": "b", "provider": "fcm", "token": f"{REGISTRATION}\r\nx: y"},
        {"id": "c", "provider": "webpush", "subscription": {"endpoint": f"https://evil.com/{ENDPOINT}", "keys": {}}},
        {"id": "d", "provider": "webpush",
         "subscription": {"endpoint": f"{world.echo.origin}/{ENDPOINT}", "keys": {"p256dh": BYTES, "auth": AUTH}}},
        {"id": "e", "provider": "apns", "token": DEVICE, "vars": {"who": {"deep": VARIABLE}}},
        {"id": "f", "provider": "apns", "token": DEVICE},
    ]  # fmt: skip
    told["refused recipients"] = world.submit("shop", bad)[1]
    told["a template that fails"] = world.submit(
        "shop", good, message={"title": f"{{% for x in 5 %}}{PAYLOAD}", "body": "{{ who.x.y }}"}
    )[1]
    told["a payload that is too large"] = world.submit("shop", good, message={"title": PAYLOAD * 1000})[1]
    told["not JSON"] = world.ask(
        "POST",
        "/v1/jobs",
        f'{{"app": "shop", "message": {{"title": "{PAYLOAD}"'.encode(),
        content_type="application/json",
    )[1]
    told["a wrong type"] = world.submit("shop", good, ttl=PAYLOAD, collapse_key=PAYLOAD + "\n")[1]
    told["a wrong place"] = world.submit("shop", good, message={"title": {"inner": PAYLOAD}})[1]

    # callers whom nobody knows
    for authorization in (f"Bearer {BEARER}", f"Bearer pgw_default_{BYTES}", f"Basic {BYTES}", BYTES):
        told[f"refused as {authorization[:6]}"] = world.ask("GET", "/v1/parked", authorization=authorization)[1]

    # what is not even HTTP
    for number, data in enumerate(MALFORMED):
        told[f"malformed {number}"] = world.raw(data)
        assert told[f"malformed {number}"].startswith("HTTP/1.0 400 Bad Request")
        assert "application/problem+json" in told[f"malformed {number}"]

    # a credential that its service refuses, with the same words: jobs wait, and are taken back
    status, answer = world.submit(
        "refused", [{"id": "x", "provider": "apns", "token": DEVICE, "vars": {"who": VARIABLE}}]
    )
    assert status == 202, answer
    while "route refused/apns" not in world.ask("GET", "/readyz")[1]:
        time.sleep(0.1)
    told["how the refused credential is told"] = world.ask("GET", "/readyz")[1]
    told["cancelling"] = world.ask("DELETE", f"/v1/jobs/{json.loads(answer)['job']}")[1]
    told["receipts of a refused credential"] = world.finished(answer)

    # what fails although it never should
    status, answer = world.submit("shop", good, campaign="fails")
    assert status == 202, answer
    told["receipts of a batch that fails"] = world.finished(answer)
    assert "LookupError in failing" in told["receipts of a batch that fails"]
    told["a route that fails"] = world.submit("shop", good, campaign=f"breaks the door {PAYLOAD}")[1]

    for pid in world.gateway.family():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), "a crash writes no memory down"

    for path in ("/readyz", "/metrics", "/livez", "/v1/parked", "/openapi.json", f"/v1/jobs/{BYTES}"):
        told[path] = world.ask("GET", path)[1]
    world.gateway.stop()
    told["log"] = world.gateway.log.read_text()
    for event in (
        "process.failed",
        "http.failed",
        "batch.set_aside",
        "batch.dead_lettered",
        "route.",
        "http.malformed",
    ):
        assert event in told["log"], f"that way was not gone: {event}"
    told["metrics"] = b"".join(
        path.read_bytes() for path in sorted((world.folder / "queue" / "metrics").rglob("*")) if path.is_file()
    ).decode("latin-1")
    assert "carillon" in told["metrics"]

    hits = {where: CANARY.findall(text) for where, text in told.items() if CANARY.search(text)}
    assert hits == {}
    key = world.key
    assert key
    assert [where for where, text in told.items() if key in text] == []


MALFORMED = (
    f"GET /{BYTES} HTTP/1.1\r\nHost: x\r\nx: {BYTES}\x00\r\n\r\n".encode(),
    f"GET /v1/jobs HTTP/1.1\r\n{BYTES}\r\n\r\n".encode(),
    f"{BYTES} nonsense\r\n\r\n".encode(),
    f"GET / HTTP/9.{BYTES}\r\n\r\n".encode(),
    f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {BYTES}\r\n\r\n".encode(),
    f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{BYTES}\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BEARER}\r\nx: {BYTES * 2000}\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\n{BYTES} : {BYTES}\r\n\r\n".encode(),
    f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{BYTES}".encode(),
)
"""Requests that no parser takes."""


def test_the_credentials_of_the_simulators_are_in_no_log(world: Canaries) -> None:
    """Their files' own contents, besides what such things look like."""
    told = world.gateway.log.read_text() + (world.folder / "simulators.log").read_text()
    for path in (Credentials.make(world.folder).apns_key_file, Credentials.make(world.folder).vapid_key_file):
        for line in path.read_text().splitlines()[1:-1]:
            assert line not in told
