"""The fast simulators against a client on h2: valid on the wire, and a ledger that was decoded rightly."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.simulators import Rule, Script, Simulator, targets
from bench.simulators import frames as wire
from bench.simulators.fast_journal import FastJournal
from bench.simulators.message import Request

from .conftest import Connect, Start
from .simulators_client import TOKEN, Client, apns_body, apns_headers

COUNT = 300


def requests(service: str, simulator: Simulator) -> list[tuple[str, dict[str, str], bytes, str]]:
    """Path, headers, body and ledger key of some valid requests."""
    made = []
    for member in targets(service, COUNT, endpoints=simulator.endpoints):
        target = json.loads(b"{" + member + b"}")
        if service == "apns":
            headers = apns_headers("x")
            made.append((f"/3/device/{target['token']}", headers, apns_body(), headers["apns-id"]))
        elif service == "fcm":
            body = json.dumps({"message": {"data": {"token": "a trap"}, "token": target["token"]}}).encode()
            made.append(("/v1/projects/x/messages:send", {}, body, target["token"]))
        elif service == "webpush":
            path = "/" + target["subscription"]["endpoint"].split("/", 3)[3]
            made.append((path, {"ttl": "60"}, b"x" * 200, path))
        else:
            identity = f"delivery-{len(made)}"
            made.append((f"/push/{target['token']}", {}, json.dumps({"id": identity}).encode(), identity))
    return made


async def send_all(client: Client, made: list[Any]) -> list[int]:
    return [client.send(path, headers, body) for path, headers, body, _ in made]


@pytest.mark.parametrize(("service", "status"), [("apns", 200), ("fcm", 200), ("webpush", 201), ("stub", 200)])
async def test_answers_and_remembers(simulate: Start, connect: Connect, service: str, status: int) -> None:
    """Every request is answered with success, and the ledger has each key as often as it was sent.

    The client's HPACK encoder indexes whatever it can, so that decoding needs the connection's dynamic table.
    """
    simulator = await simulate(service, mode="fast")
    made = requests(service, simulator)
    answers = []
    for client in [await connect(simulator), await connect(simulator)]:
        await client.until(lambda client=client: client.limits[-1] >= 100)
        for start in range(0, COUNT, 100):
            streams = await send_all(client, made[start : start + 100])
            answers += [await client.answer(stream) for stream in streams]
    assert {answer.status for answer in answers} == {status}
    expected = {key: 2 for _, _, _, key in made}
    assert simulator.journal.counts() == expected == simulator.journal.accepted()
    assert simulator.journal.statuses() == {status: 2 * COUNT}
    assert len(simulator.journal) == 2 * COUNT
    if service == "fcm":
        names = [answer.json["name"] for answer in answers]
        assert len(set(names)) == 2 * COUNT
        assert names[0].startswith("projects/carillon-simulator/messages/0:")
    if service == "webpush":
        assert len({answer.headers["location"] for answer in answers}) == 2 * COUNT


@pytest.mark.parametrize("service", ["apns", "fcm", "webpush", "stub"])
async def test_shares_of_errors(simulate: Start, connect: Connect, service: str) -> None:
    """A share of answers are the service's own errors, whole, and the ledger counts what was accepted only."""
    script = Script.shares({"unregistered": 0.1, "throttled": 0.1, "unavailable": 0.1}, seed=5)
    simulator = await simulate(service, mode="fast", script=script)
    client = await connect(simulator)
    made = requests(service, simulator)
    answers = []
    for start in range(0, COUNT, 100):
        streams = await send_all(client, made[start : start + 100])
        answers += [await client.answer(stream) for stream in streams]
    accepted = {key for (_, _, _, key), answer in zip(made, answers, strict=True) if answer.status in (200, 201)}
    assert set(simulator.journal.accepted()) == accepted
    assert 0.5 * COUNT < len(accepted) < 0.9 * COUNT
    errors = [answer for answer in answers if answer.status not in (200, 201)]
    assert len({answer.status for answer in errors}) == 3
    assert all(answer.body for answer in errors)


async def test_apple_profile(simulate: Start, connect: Connect) -> None:
    """One stream until the first answer, then a thousand; 40 ms a round trip; windows refilled at half; an apns-id."""
    simulator = await simulate("apns", mode="fast", profile="apple")
    client = await connect(simulator)
    assert client.limits == [1]
    body = apns_body(category="c" * 3900)
    start = time.monotonic()
    answer = await client.request(f"/3/device/{TOKEN}", apns_headers("x"), body)
    assert time.monotonic() - start >= 0.039
    assert len(answer.headers["apns-id"]) == 36
    await client.until(lambda: client.limits == [1, 1000])
    streams = [client.send(f"/3/device/{TOKEN}", apns_headers("x"), body) for _ in range(12)]
    for stream in streams:
        await client.answer(stream)
    assert len(client.window_updates) == 1
    assert 32_768 <= client.window_updates[0] <= 13 * len(body)


async def test_keeps_to_the_clients_connection_window(simulate: Start, connect: Connect) -> None:
    """Answers with bodies wait for the client's connection window."""
    simulator = await simulate("fcm", mode="fast")
    client = await connect(simulator)
    client.h2.acknowledge_received_data = lambda length, stream: None  # a client that is slow to read
    body, streams = b'{"message":{"token":"abcd"}}', set()
    while not client_is_full(client):
        streams = {client.send("/v1/projects/x/messages:send", {}, body) for _ in range(100)}
        await client.until(lambda streams=streams: streams <= client.finished or client_is_full(client))
    assert not streams <= client.finished
    client.h2.increment_flow_control_window(1 << 20)
    client.flush()
    await client.until(lambda: streams <= client.finished)


def client_is_full(client: Client) -> bool:
    return client.h2.inbound_flow_control_window < 100


async def test_pings_goaway_settings_and_cut(simulate: Start, connect: Connect) -> None:
    """PING is acknowledged; control tells the connections of SETTINGS, GOAWAY and an end without warning."""
    simulator = await simulate("apns", mode="fast")
    client = await connect(simulator)
    client.h2.ping(b"12345678")
    client.flush()
    await client.until(lambda: client.pongs == 1)
    stream = client.send(f"/3/device/{TOKEN}", apns_headers("x"), apns_body())
    await client.answer(stream)
    simulator.settings({3: 5})
    await client.until(lambda: client.limits[-1] == 5)
    simulator.goaway(2, b"debug")
    await client.until(lambda: client.lost)
    assert client.goaways == [(stream, 2, b"debug")]
    other = await connect(simulator)
    simulator.cut()
    await other.until(lambda: other.lost)
    assert other.goaways == []


async def test_a_new_script_leaves_what_was_decided(simulate: Start, connect: Connect) -> None:
    """The ledger knows the answers of each script by its time; reset forgets, and decoding goes on."""
    simulator = await simulate("apns", mode="fast")
    client = await connect(simulator)

    async def push() -> tuple[str, int]:
        headers = apns_headers("x")
        return headers["apns-id"], (await client.request(f"/3/device/{TOKEN}", headers, apns_body())).status

    first, status = await push()
    assert status == 200
    simulator.load(Script((Rule(answer="unavailable"),)))
    second, status = await push()
    assert status == 503
    assert simulator.journal.counts() == {first: 1, second: 1}
    assert simulator.journal.accepted() == {first: 1}
    simulator.reset()
    third, _ = await push()
    assert (simulator.journal.counts(), len(simulator.journal)) == ({third: 1}, 1)


async def test_plays_no_rules_about_targets(simulate: Start) -> None:
    """A fast simulator looks into no request, and says so instead of ignoring a rule."""
    with pytest.raises(ValueError, match="looks into no request"):
        await simulate("apns", mode="fast", script=Script((Rule(prefix="ab", answer="throttled"),)))


@given(padding=st.integers(0, 20), split=st.integers(1, 40), priority=st.booleans(), cut=st.integers(0, 200))
def test_journal_reads_any_framing(padding: int, split: int, priority: bool, cut: int) -> None:
    """Padding, priority, CONTINUATION and bodies in pieces are what HTTP/2 allows, and so the ledger reads them."""
    block = b"\x83" + b"\x44\x05/path" + b"\x40\x01k\x01v"
    head, rest = block[:split], block[split:]
    start = bytes([padding]) + (b"\0\0\0\0\x10" if priority else b"") + head + bytes(padding)
    flags = wire.PADDED | (wire.WITH_PRIORITY if priority else 0) | (0 if rest else wire.END_HEADERS)
    headers = [wire.frame(wire.HEADERS, flags, 1, start)]
    headers += [wire.frame(wire.CONTINUATION, wire.END_HEADERS, 1, rest)] if rest else []
    body = bytes(range(200))
    padded = bytes([padding]) + body[:cut] + bytes(padding)
    bodies = [wire.frame(wire.DATA, wire.PADDED, 1, padded), wire.frame(wire.DATA, 1, 1, body[cut:])]
    seen: list[Request] = []

    def key(request: Request) -> bytes:
        seen.append(request)
        return request.path

    journal = FastJournal(key, keeps_bodies=True)
    recording = journal.record()
    recording.add(headers, bodies, [b"\0\0\0\1"])
    assert journal.counts() == {"/path": 1}
    assert seen == [Request(b"POST", b"/path", {b"k": b"v"}, False, body)]


@pytest.mark.parametrize("mode", ["fast", "quick"])
async def test_arrivals_are_told_by_the_monotonic_clock(simulate: Start, connect: Connect, mode: str) -> None:
    """The first one counts where a key is seen twice, and nobody else's is told."""
    simulator = await simulate("stub", mode=mode)
    client = await connect(simulator)
    await client.until(lambda: client.limits[-1] >= 100)
    before = time.monotonic()
    first, between, second = [], [], []
    for identity, moments in (("a", first), ("a", between), ("b", second)):
        await client.answer(client.send("/push/00", {}, json.dumps({"id": identity}).encode()))
        moments.append(time.monotonic())
    arrivals = simulator.journal.arrivals(["a", "c"])
    assert list(arrivals) == ["a"]
    assert before <= arrivals["a"] <= first[0]
    (of_b,) = simulator.journal.arrivals(["b"]).values()
    assert between[0] <= of_b <= second[0]


async def test_a_service_restarts_where_it_was(simulate: Start, connect: Connect) -> None:
    """Connections end and are refused for a while; then it listens on the same port, and remembers what it saw."""
    simulator = await simulate("apns", mode="fast")
    client = await connect(simulator)
    await client.request(f"/3/device/{TOKEN}", apns_headers("x"), apns_body())
    restarting = asyncio.create_task(simulator.restart(0.3))
    await client.until(lambda: client.lost)
    with pytest.raises(ConnectionRefusedError):
        await connect(simulator)
    await restarting
    await connect(simulator)
    assert len(simulator.journal) == 1
