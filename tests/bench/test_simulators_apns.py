"""The APNs simulator against a client on h2: what Apple's documentation says, and what a script makes of it."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from bench.simulators import Certificates, Credentials, Rule, Script
from bench.simulators.apns import Apns, Key
from bench.simulators.message import Request

from .conftest import Connect, Start
from .simulators_client import TOKEN, Client, Response, apns_body, apns_headers, provider_token

PATH = f"/3/device/{TOKEN}"


@pytest.fixture
def token(credentials: Credentials) -> str:
    return provider_token(credentials.apns_key_file)


@pytest.fixture(params=["strict", "quick"])
def mode(request: pytest.FixtureRequest) -> str:
    """Every rule holds on both wires."""
    return str(request.param)


async def push(client: Client, token: str, path: str = PATH, **changes: str | None) -> Response:
    return await client.request(path, apns_headers(token, **changes), apns_body())


async def test_accepts_a_valid_request(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """A valid request is answered 200 without a body, with its own apns-id, and is in the journal once."""
    simulator = await simulate("apns", mode=mode)
    client = await connect(simulator)
    identity = str(uuid.uuid4())
    response = await push(client, token, apns_id=identity)
    assert (response.status, response.body) == (200, b"")
    assert response.headers["apns-id"] == identity
    assert simulator.journal.counts() == {identity: 1} == simulator.journal.accepted()
    assert simulator.journal.statuses() == {200: 1}


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"apns_id": "not-a-uuid"}, 400, "BadMessageId"),
        ({"apns_topic": None}, 400, "MissingTopic"),
        ({"apns_topic": "com.example.other"}, 400, "TopicDisallowed"),
        ({"apns_topic": "com.example.shop.voip"}, 400, "BadTopic"),
        ({"apns_push_type": "voip"}, 400, "BadTopic"),
        ({"apns_push_type": "shout"}, 400, "InvalidPushType"),
        ({"apns_push_type": None}, 400, "InvalidPushType"),
        ({"apns_priority": "7"}, 400, "BadPriority"),
        ({"apns_push_type": "background", "apns_priority": "10"}, 400, "BadPriority"),
        ({"apns_push_type": "background", "apns_priority": None}, 400, "BadPriority"),
        ({"apns_expiration": "soon"}, 400, "BadExpirationDate"),
        ({"apns_expiration": "-1"}, 400, "BadExpirationDate"),
        ({"apns_collapse_id": "x" * 65}, 400, "BadCollapseId"),
        ({"authorization": None}, 403, "MissingProviderToken"),
        ({"authorization": "bearer a.b.c"}, 403, "InvalidProviderToken"),
    ],
)
async def test_refuses_bad_headers(
    simulate: Start, connect: Connect, token: str, changes: dict[str, Any], status: int, reason: str
) -> None:
    """Each header that the documentation restricts is refused with the documented reason."""
    simulator = await simulate("apns")
    response = await push(await connect(simulator), token, **changes)
    assert (response.status, response.json["reason"]) == (status, reason)
    assert simulator.journal.accepted() == {}


@pytest.mark.parametrize(
    ("path", "method", "status", "reason"),
    [
        ("/3/device/", "POST", 400, "MissingDeviceToken"),
        ("/3/device/xyz", "POST", 400, "BadDeviceToken"),
        ("/3/device/abc", "POST", 400, "BadDeviceToken"),
        ("/4/device/abcd", "POST", 404, "BadPath"),
        (PATH, "PUT", 405, "MethodNotAllowed"),
    ],
)
async def test_refuses_bad_paths(
    simulate: Start, connect: Connect, token: str, path: str, method: str, status: int, reason: str
) -> None:
    """Only POST to /3/device/ and an even number of hex digits is a push."""
    client = await connect(await simulate("apns"))
    response = await client.request(path, apns_headers(token), apns_body(), method)
    assert (response.status, response.json["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("alert", b"", 400),
        ("alert", b"{", 400),
        ("alert", b"[]", 400),
        ("alert", apns_body(badge="3"), 400),
        ("alert", apns_body(badge=3, sound={"name": "a", "critical": 1, "volume": 0.5}), 200),
        ("alert", json.dumps({"aps": {"alert": "x" * 4096}}).encode(), 413),
        ("alert", json.dumps({"aps": {"alert": "x", "interruption-level": "loud"}}).encode(), 400),
        ("background", b'{"aps":{"content-available":1}}', 200),
        ("background", b'{"aps":{"content-available":1,"badge":1}}', 400),
        ("voip", json.dumps({"aps": {}, "x": "y" * 5000}).encode(), 200),
        ("liveactivity", b'{"aps":{"event":"update","timestamp":1,"content-state":{}}}', 200),
        ("liveactivity", b'{"aps":{"event":"update","content-state":{}}}', 400),
        ("liveactivity", b'{"aps":{"event":"start","timestamp":1,"content-state":{}}}', 400),
        ("widgets", b'{"aps":{"content-changed":true}}', 200),
        ("mdm", b'{"mdm":"magic"}', 200),
    ],
)
async def test_checks_payloads_by_push_type(
    simulate: Start, connect: Connect, token: str, kind: str, body: bytes, status: int
) -> None:
    """Size and shape of a payload follow its push type."""
    suffix = {"voip": ".voip", "liveactivity": ".push-type.liveactivity", "widgets": ".push-type.widgets"}
    headers = apns_headers(
        token, apns_push_type=kind, apns_priority="5", apns_topic="com.example.shop" + suffix.get(kind, "")
    )
    client = await connect(await simulate("apns"))
    assert (await client.request(PATH, headers, body)).status == status


async def test_binds_a_connection_to_its_key(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """Too old a token is expired, a foreign team or signature invalid, and tokens change once in 20 minutes."""
    client = await connect(await simulate("apns"))
    key = credentials.apns_key_file
    assert (await push(client, provider_token(key, age=3700))).json["reason"] == "ExpiredProviderToken"
    assert (await push(client, provider_token(key, team="OTHER00000"))).json["reason"] == "InvalidProviderToken"
    assert (await push(client, provider_token(key, key_id="OTHER00000"))).json["reason"] == "InvalidProviderToken"
    foreign = provider_token(credentials.vapid_key_file)
    assert (await push(client, foreign)).json["reason"] == "InvalidProviderToken"
    token = provider_token(key, age=60)
    assert (await push(client, token)).status == 200
    assert (await push(client, provider_token(key, age=30))).json["reason"] == "TooManyProviderTokenUpdates"
    assert (await push(client, token)).status == 200


def test_binds_a_connection_to_its_team(credentials: Credentials) -> None:
    """Another registered key on the same connection is unrelated; after 20 minutes a new token is welcome."""
    public = credentials.apns_key
    apns = Apns({"SIMKEY0001": Key("SIMTEAM001", public), "SIMKEY0002": Key("SIMTEAM001", public)})
    visit = apns.opened({})

    def judged(key_id: str, age: float, now: float) -> str | None:
        token = provider_token(credentials.apns_key_file, key_id=key_id, age=age)
        fields = [(b":method", b"POST"), (b":path", PATH.encode())]
        fields += [(name.encode(), value.encode()) for name, value in apns_headers(token).items()]
        refusal = apns.judge(visit, Request.of(fields, apns_body()), now).refusal
        return refusal and json.loads(refusal.body)["reason"]

    now = time.time()
    assert judged("SIMKEY0001", 0, now) is None
    assert judged("SIMKEY0002", 0, now) == "UnrelatedKeyIdInToken"
    assert judged("SIMKEY0001", -1200, now + 1199) == "TooManyProviderTokenUpdates"
    assert judged("SIMKEY0001", -1200, now + 1201) is None


async def test_takes_a_client_certificate_instead_of_a_token(
    simulate: Start, connect: Connect, tls: Certificates, folder: Any
) -> None:
    """With mutual TLS neither authorization nor topic is needed: the certificate has both."""
    certificate = tls.client("com.example.shop", folder)
    client = await connect(await simulate("apns"), certificate=certificate)
    assert (await push(client, "", authorization=None, apns_topic=None)).status == 200
    assert (await push(client, "", authorization=None, apns_topic="com.example.other")).status == 400


async def test_starts_with_one_stream(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """A token connection may have one stream until its first answer, then a thousand."""
    client = await connect(await simulate("apns", mode=mode))
    assert client.limits == [1]
    assert (await push(client, token)).status == 200
    await client.until(lambda: client.limits == [1, 1000])
    streams = [client.send(PATH, apns_headers(token), apns_body()) for _ in range(50)]
    assert {(await client.answer(stream)).status for stream in streams} == {200}


async def test_refuses_streams_over_the_limit(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """A stream over the limit is refused unprocessed: REFUSED_STREAM, nothing in the journal, the rest unharmed."""
    script = Script((Rule(delay=0.1),))
    simulator = await simulate("apns", mode=mode, script=script)
    client = await connect(simulator)
    client.h2.remote_settings[3] = 1000  # a client that does not wait
    client.h2.remote_settings.acknowledge()
    first = client.send(PATH, apns_headers(token), apns_body())
    second = client.send(PATH, apns_headers(token), apns_body())
    await client.until(lambda: second in client.resets)
    assert client.resets[second][0] == 7
    assert (await client.answer(first)).status == 200
    assert len(simulator.journal) == 1
    assert simulator.stats()["overruns"] == 1


async def test_apples_manners(simulate: Start, connect: Connect, token: str) -> None:
    """In Apple's profile a rejection brings the limit down to 1, a success back to 1,000, and a 410 does nothing."""
    script = Script((Rule(prefix="bad0", answer="rejected"), Rule(prefix="dead", answer="unregistered")))
    client = await connect(await simulate("apns", profile="apple", script=script))
    await push(client, token)
    await client.until(lambda: client.limits == [1, 1000])
    await push(client, token, "/3/device/dead" + "00" * 30)
    await push(client, token, "/3/device/bad0" + "00" * 30)
    await client.until(lambda: client.limits == [1, 1000, 1])
    await push(client, token)
    await client.until(lambda: client.limits == [1, 1000, 1, 1000])


async def test_many_rejections_end_the_connection(simulate: Start, connect: Connect, token: str) -> None:
    """In Apple's profile a hundred bad tokens get the connection closed with GOAWAY."""
    client = await connect(await simulate("apns", profile="apple", script=Script((Rule(answer="rejected"),))))
    for _ in range(100):
        await push(client, token)
    await client.until(lambda: client.lost)
    assert [code for _, code, _ in client.goaways] == [0]


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ("unregistered", 410, "Unregistered"),
        ("ExpiredToken", 410, "ExpiredToken"),
        ("rejected", 400, "BadDeviceToken"),
        ("throttled", 429, "TooManyRequests"),
        ("unavailable", 503, "ServiceUnavailable"),
        ("failed", 500, "InternalServerError"),
        ("credential", 403, "ExpiredProviderToken"),
        ("Shutdown", 503, "Shutdown"),
        ("DeviceTokenNotForTopic", 400, "DeviceTokenNotForTopic"),
    ],
)
async def test_answers_by_script(
    mode: str, simulate: Start, connect: Connect, token: str, answer: str, status: int, reason: str
) -> None:
    """A rule answers in the service's own words; only a 410 says since when, in milliseconds."""
    script = Script((Rule(prefix="ab", answer=answer, since=1_700_000_000.5),))
    simulator = await simulate("apns", mode=mode, script=script)
    client = await connect(simulator)
    response = await push(client, token)
    assert (response.status, response.json["reason"]) == (status, reason)
    assert response.json.get("timestamp") == (1_700_000_000_500 if status == 410 else None)
    assert (await push(client, token, "/3/device/" + "cd" * 32)).status == 200
    assert simulator.journal.statuses() == {status: 1, 200: 1}


async def test_a_rule_may_end_after_some_attempts(simulate: Start, connect: Connect, token: str) -> None:
    """Throttled once, then fine; each token has its own count, and the journal says which attempt it was."""
    simulator = await simulate("apns", script=Script((Rule(answer="throttled", attempts=1),)))
    client = await connect(simulator)
    other = "/3/device/" + "cd" * 32
    statuses = [(await push(client, token, path)).status for path in (PATH, PATH, other, PATH, other)]
    assert statuses == [429, 200, 429, 200, 200]
    assert [entry.attempt for entry in simulator.engine.journal] == [1, 2, 1, 3, 2]


async def test_reset(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """RST_STREAM instead of an answer; with REFUSED_STREAM the request is not processed."""
    script = Script((Rule(prefix="ab", fault="reset", code=7, attempts=1), Rule(prefix="cd", fault="reset", code=2)))
    simulator = await simulate("apns", mode=mode, script=script)
    client = await connect(simulator)
    stream = client.send(PATH, apns_headers(token), apns_body())
    await client.until(lambda: stream in client.resets)
    assert (client.resets[stream], simulator.journal.counts()) == ([7], {})
    stream = client.send("/3/device/" + "cd" * 32, apns_headers(token), apns_body())
    await client.until(lambda: stream in client.resets)
    assert client.resets[stream] == [2]
    assert list(simulator.journal.counts().values()) == [1]
    assert simulator.journal.accepted() == {}
    assert (await push(client, token)).status == 200


async def test_reset_after_a_complete_answer(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """An answer followed by RST_STREAM is whole all the same."""
    simulator = await simulate("apns", mode=mode, script=Script((Rule(fault="reset_after", code=8),)))
    client = await connect(simulator)
    assert (await push(client, token)).status == 200
    assert len(simulator.journal.accepted()) == 1
    assert (await push(client, token)).status == 200


async def test_goaway_below_a_stream(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """GOAWAY leaves the stream that met it unprocessed, answers what is below, and closes."""
    script = Script((Rule(prefix="60", fault="goaway", code=2), Rule(prefix="ee", delay=0.1)))
    simulator = await simulate("apns", mode=mode, script=script)
    client = await connect(simulator)
    await push(client, token)
    await client.until(lambda: client.limits[-1] == 1000)
    below = client.send("/3/device/" + "ee" * 32, apns_headers(token), apns_body())
    above = client.send("/3/device/" + "60" * 32, apns_headers(token), apns_body())
    await client.until(lambda: client.lost)
    assert client.goaways == [(above - 2, 2, b"")]
    assert below in client.finished
    assert above not in client.responses
    assert len(simulator.journal) == 2


async def test_graceful_goaway_in_two_steps(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """First 2^31-1, then the last stream; everything sent in between is answered."""
    simulator = await simulate("apns", mode=mode, script=Script((Rule(fault="drain", attempts=1),)))
    client = await connect(simulator)
    stream = client.send(PATH, apns_headers(token), apns_body())
    await client.until(lambda: client.lost)
    assert [last for last, _, _ in client.goaways] == [2**31 - 1, stream]
    assert client.responses[stream].status == 200


@pytest.mark.parametrize(("fault", "accepted"), [("cut", 0), ("lost", 1)])
async def test_cuts_connections(
    mode: str, simulate: Start, connect: Connect, token: str, fault: Any, accepted: int
) -> None:
    """cut loses the request, lost only its answer: the ledger tells them apart, the client cannot."""
    simulator = await simulate("apns", mode=mode, script=Script((Rule(fault=fault),)))
    client = await connect(simulator)
    client.send(PATH, apns_headers(token), apns_body())
    await client.until(lambda: client.lost)
    assert (len(simulator.journal), len(simulator.journal.accepted())) == (1, accepted)
    assert client.responses == {}


async def test_hangs(simulate: Start, connect: Connect, token: str) -> None:
    """A hanging request is never answered; others on the connection are."""
    script = Script((Rule(prefix="ab", fault="hang"),))
    client = await connect(await simulate("apns", script=script))
    await push(client, token, "/3/device/" + "cd" * 32)
    await client.until(lambda: client.limits[-1] == 1000)
    hanging = client.send(PATH, apns_headers(token), apns_body())
    assert (await push(client, token, "/3/device/" + "cd" * 32)).status == 200
    assert hanging not in client.responses


async def test_changes_settings_in_mid_flight(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """A rule, or control, lowers the stream limit of a connection."""
    simulator = await simulate("apns", mode=mode, script=Script((Rule(fault="settings", code=7, attempts=1),)))
    client = await connect(simulator)
    assert (await push(client, token)).status == 200
    await client.until(lambda: 7 in client.limits)
    simulator.settings({3: 3})
    await client.until(lambda: client.limits[-1] == 3)


async def test_a_smaller_window_in_mid_flight(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """With a stream window smaller than a body, the window opens again as the body arrives."""
    simulator = await simulate("apns", mode=mode)
    client = await connect(simulator)
    simulator.settings({4: 50})
    await client.until(lambda: client.h2.remote_settings.initial_window_size == 50)
    stream = client.h2.get_next_available_stream_id()
    fields = [(":method", "POST"), (":scheme", "https"), (":authority", client.authority), (":path", PATH)]
    client.h2.send_headers(stream, [*fields, *apns_headers(token).items()])
    body = apns_body(category="c" * 200)
    while body:
        await client.until(lambda: client.h2.local_flow_control_window(stream) > 0)
        room = client.h2.local_flow_control_window(stream)
        client.h2.send_data(stream, body[:room], end_stream=len(body) <= room)
        body = body[room:]
        client.flush()
    assert (await client.answer(stream)).status == 200


async def test_refills_the_connection_window_at_half(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """The connection window of 65,535 bytes is refilled when half of it is used, as Apple's."""
    client = await connect(await simulate("apns", mode=mode))
    body = apns_body(category="c" * 3900)
    for _ in range(20):
        assert (await client.request(PATH, apns_headers(token), body)).status == 200
    assert len(client.window_updates) == 2
    assert all(32_768 <= update <= 32_768 + len(body) for update in client.window_updates)


async def test_slow_bodies(mode: str, simulate: Start, connect: Connect, token: str) -> None:
    """A body may come a byte at a time."""
    script = Script((Rule(answer="rejected", fault="slow", delay=0.001),))
    client = await connect(await simulate("apns", mode=mode, script=script))
    assert (await push(client, token)).json["reason"] == "BadDeviceToken"


async def test_round_trips_delay_everything_and_keep_order(
    mode: str, simulate: Start, connect: Connect, token: str
) -> None:
    """With an RTT no answer is earlier, and answers keep their order."""
    client = await connect(await simulate("apns", mode=mode, rtt=0.05))
    await push(client, token)
    await client.until(lambda: client.limits[-1] == 1000)
    start = time.monotonic()
    streams = [client.send(PATH, apns_headers(token), apns_body()) for _ in range(10)]
    for stream in streams:
        await client.answer(stream)
    assert time.monotonic() - start >= 0.05
    assert [stream for stream in client.responses if stream in streams] == streams


async def test_unknown_answers_are_refused_at_start(simulate: Start) -> None:
    """A script with an answer that the service does not have is a mistake, told at once."""
    with pytest.raises(KeyError, match="no answer 'nonsense'"):
        await simulate("apns", script=Script((Rule(answer="nonsense"),)))
