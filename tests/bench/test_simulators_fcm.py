"""The FCM simulator: OAuth's assertion, the message's rules, the error bodies, over h2 and HTTP/1.1."""

from __future__ import annotations

import json
import ssl
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import pytest

from bench.simulators import Certificates, Credentials, Rule, Script, Simulator

from .conftest import Connect, Start
from .simulators_client import Client, Response, assertion

PATH = "/v1/projects/carillon-simulator/messages:send?prettyPrint=false"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture(params=["strict", "quick"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def account(credentials: Credentials) -> dict[str, str]:
    return json.loads(credentials.service_account_file.read_text())


async def exchange(simulator: Simulator, connect: Connect, jwt: str) -> Response:
    client = await connect(urlsplit(simulator.token_uri).port)
    form = urlencode({"grant_type": GRANT, "assertion": jwt}).encode()
    return await client.request("/token", {"content-type": "application/x-www-form-urlencoded"}, form)


class Sender:
    """A client with an access token."""

    def __init__(self, client: Client, token: str) -> None:
        self.client = client
        self.token = token

    async def send(self, message: dict[str, Any], path: str = PATH, **more: Any) -> Response:
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        return await self.client.request(path, headers, json.dumps({"message": message, **more}).encode())


async def sender(simulator: Simulator, connect: Connect, credentials: Credentials) -> Sender:
    answer = await exchange(simulator, connect, assertion(account(credentials)))
    assert (answer.status, answer.json["token_type"], answer.json["expires_in"]) == (200, "Bearer", 3600)
    return Sender(await connect(simulator), answer.json["access_token"])


def details(response: Response) -> dict[str, Any]:
    return {detail["@type"].rpartition(".")[2]: detail for detail in response.json["error"].get("details", ())}


async def test_accepts_a_message(mode: str, simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """An assertion becomes an access token, and a message a unique name; the journal counts by token."""
    simulator = await simulate("fcm", mode=mode)
    fcm = await sender(simulator, connect, credentials)
    names = [(await fcm.send({"token": "abcd:1", "notification": {"title": "T"}})).json["name"] for _ in range(2)]
    assert all(name.startswith("projects/carillon-simulator/messages/0:") for name in names)
    assert len(set(names)) == 2
    assert simulator.journal.counts() == {"abcd:1": 2} == simulator.journal.accepted()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"aud": "https://elsewhere.example/token"}, "invalid_grant"),
        ({"iss": "someone@else"}, "invalid_grant"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope"),
        ({"iat": int(time.time()) + 900, "exp": int(time.time()) + 1800}, "invalid_grant"),
        ({"exp": int(time.time()) - 900, "iat": int(time.time()) - 1800}, "invalid_grant"),
        ({"exp": int(time.time()) + 7200}, "invalid_grant"),
    ],
)
async def test_refuses_assertions(
    simulate: Start, connect: Connect, credentials: Credentials, changes: dict[str, Any], error: str
) -> None:
    """Audience, issuer, scope and times of an assertion have to be right; the answer carries the service's date."""
    simulator = await simulate("fcm")
    answer = await exchange(simulator, connect, assertion(account(credentials), **changes))
    assert (answer.status, answer.json["error"]) == (400, error)
    assert "date" in answer.headers


async def test_refuses_a_foreign_signature(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """An assertion whose signature is not the account's is an invalid grant."""
    simulator = await simulate("fcm")
    jwt = assertion(account(credentials))
    head, claims, signature = jwt.split(".")
    forged = f"{head}.{claims}.{signature[::-1]}"
    answer = await exchange(simulator, connect, forged)
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


async def test_speaks_http_1(simulate: Start, tls: Certificates, credentials: Credentials) -> None:
    """Token endpoint and send route answer HTTP/1.1 too, several requests on a connection."""
    simulator = await simulate("fcm")
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    connector = aiohttp.TCPConnector(ssl=context, limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        form = {"grant_type": GRANT, "assertion": assertion(account(credentials))}
        async with session.post(simulator.token_uri, data=form) as answer:
            token = (await answer.json())["access_token"]
        for _ in range(3):
            async with session.post(
                simulator.endpoints[0] + PATH,
                json={"message": {"token": "abcd"}},
                headers={"authorization": f"Bearer {token}"},
            ) as answer:
                assert answer.status == 200
    assert simulator.journal.counts() == {"abcd": 3}
    assert simulator.stats()["connections"] == 1


async def test_refuses_access_tokens(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """A token that was never issued is unauthenticated without an FcmError; an expired one says so."""
    simulator = await simulate("fcm")
    fcm = await sender(simulator, connect, credentials)
    good, fcm.token = fcm.token, "ya29.made-up"
    answer = await fcm.send({"token": "abcd"})
    assert (answer.status, answer.json["error"]["status"], details(answer)) == (401, "UNAUTHENTICATED", {})
    fcm.token = good
    simulator.service._tokens.revoke()
    answer = await fcm.send({"token": "abcd"})
    assert details(answer)["ErrorInfo"]["reason"] == "ACCESS_TOKEN_EXPIRED"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "message"),
        ({"token": "abcd", "topic": "news"}, "message"),
        ({"token": "abcd", "data": {"a": "b", "n": 1}}, "message.data[1].value"),
        ({"token": "abcd", "data": {"from": "me"}}, "message.data[0].key"),
        ({"token": "abcd", "data": {"google.x": "me"}}, "message.data[0].key"),
        ({"token": "abcd", "titel": "x"}, "message"),
        ({"token": "abcd", "android": {"ttl": "3"}}, "message.android.ttl"),
        ({"token": "abcd", "android": {"ttl": "2419201s"}}, "message.android.ttl"),
        ({"token": "abcd", "android": {"priority": "LOUD"}}, "message.android.priority"),
        ({"token": "abcd", "android": {"notification": {"color": "red"}}}, "message.android.notification.color"),
        ({"token": "abcd", "apns": {"headers": {"apns-priority": 5}}}, "message.apns.headers[0].value"),
        (
            {"token": "abcd", "webpush": {"fcm_options": {"link": "http://x"}}},
            "message.webpush.fcm_options.link",
        ),
        ({"topic": "/topics/x"}, "message.topic"),
    ],
)
async def test_names_the_field_that_is_wrong(
    simulate: Start, connect: Connect, credentials: Credentials, message: dict[str, Any], field: str
) -> None:
    """What is wrong with a message comes as google.rpc.BadRequest, with proto paths."""
    fcm = await sender(await simulate("fcm"), connect, credentials)
    answer = await fcm.send(message)
    assert (answer.status, answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert [violation["field"] for violation in details(answer)["BadRequest"]["fieldViolations"]] == [field]


async def test_takes_both_spellings(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """snake_case and lowerCamelCase name the same fields."""
    fcm = await sender(await simulate("fcm"), connect, credentials)
    snake = {"token": "abcd", "android": {"collapse_key": "a", "ttl": "3.5s", "priority": "high"}}
    camel = {"token": "abcd", "android": {"collapseKey": "a", "fcmOptions": {"analyticsLabel": "x"}}}
    assert [(await fcm.send(message)).status for message in (snake, camel)] == [200, 200]
    assert (await fcm.send({"topic": "news"}, validate_only=True)).status == 200


async def test_limits_the_payload(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """4,096 bytes for a device, 2,048 for a topic; refused with an FcmError and no field."""
    fcm = await sender(await simulate("fcm"), connect, credentials)
    assert (await fcm.send({"token": "abcd", "data": {"k": "x" * 4095}})).status == 200
    answer = await fcm.send({"token": "abcd", "data": {"k": "x" * 4096}})
    assert details(answer)["FcmError"]["errorCode"] == "INVALID_ARGUMENT"
    assert (await fcm.send({"topic": "news", "data": {"k": "x" * 2048}})).status == 400


@pytest.mark.parametrize(
    ("token", "status", "word", "code"),
    [
        ("unreg-1", 404, "NOT_FOUND", "UNREGISTERED"),
        ("badtok-1", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("mismatch-1", 403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        ("apns401-1", 401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
        ("quota-x", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
    ],
)
async def test_tokens_say_what_happens(
    mode: str,
    simulate: Start,
    connect: Connect,
    credentials: Credentials,
    token: str,
    status: int,
    word: str,
    code: str,
) -> None:
    """A token's first word is what happens to it, with FCM's own error."""
    simulator = await simulate("fcm", mode=mode)
    answer = await (await sender(simulator, connect, credentials)).send({"token": token})
    assert (answer.status, answer.json["error"]["status"]) == (status, word)
    assert details(answer)["FcmError"]["errorCode"] == code
    assert answer.headers.get("retry-after") == ("60" if status == 429 else None)
    assert simulator.journal.accepted() == {}


async def test_numbers_in_tokens(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """int-2 and unavail-2 fail twice, slow-50 takes 50 ms, flaky-0 never fails."""
    fcm = await sender(await simulate("fcm"), connect, credentials)
    assert [(await fcm.send({"token": "int-2-a"})).status for _ in range(3)] == [500, 500, 200]
    assert [(await fcm.send({"token": "unavail-2-a"})).status for _ in range(3)] == [503, 503, 200]
    start = time.monotonic()
    assert (await fcm.send({"token": "slow-50-a"})).status == 200
    assert time.monotonic() - start >= 0.045
    assert (await fcm.send({"token": "flaky-0-a"})).status == 200


async def test_lost_answers(mode: str, simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """A lost message is processed, its answer is not seen, and a second try shows in the journal as a second time."""
    simulator = await simulate("fcm", mode=mode)
    fcm = await sender(simulator, connect, credentials)
    headers = {"authorization": f"Bearer {fcm.token}"}
    fcm.client.send(PATH, headers, b'{"message":{"token":"lost-a"}}')
    await fcm.client.until(lambda: fcm.client.lost)
    fcm.client = await connect(simulator)
    assert (await fcm.send({"token": "lost-a"})).status == 200
    assert simulator.journal.accepted() == {"lost-a": 2}


async def test_front_end_errors(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """A foreign project is denied, unknown paths and a bad gateway are HTML, Retry-After may be a date."""
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    script = Script(
        (Rule(prefix="gate", answer="BAD_GATEWAY"), Rule(prefix="wait", answer="unavailable", retry_after=date))
    )
    fcm = await sender(await simulate("fcm", script=script), connect, credentials)
    assert (await fcm.send({"token": "abcd"}, "/v1/projects/other/messages:send")).status == 403
    answer = await fcm.send({"token": "abcd"}, "/fcm/send")
    assert (answer.status, answer.body[:15]) == (404, b"<!DOCTYPE html>")
    assert (await fcm.send({"token": "gate"})).status == 502
    assert (await fcm.send({"token": "wait"})).headers["retry-after"] == date


async def test_over_runs_end_the_connection(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """More than 100 streams: GOAWAY with PROTOCOL_ERROR and Google's text; what is below is answered."""
    simulator = await simulate("fcm", script=Script((Rule(delay=0.1),)))
    fcm = await sender(simulator, connect, credentials)
    fcm.client.h2.remote_settings[3] = 1000
    fcm.client.h2.remote_settings.acknowledge()
    headers = {"authorization": f"Bearer {fcm.token}"}
    streams = [fcm.client.send(PATH, headers, b'{"message":{"token":"abcd"}}') for _ in range(101)]
    await fcm.client.until(lambda: fcm.client.lost)
    assert [(code, debug) for _, code, debug in fcm.client.goaways] == [(1, b"exceeded_max_concurrent_streams")]
    assert len(fcm.client.finished) == 100
    assert streams[-1] not in fcm.client.finished
