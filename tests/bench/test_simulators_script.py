"""Scripts, targets, the stub's service, and the process with its control listener."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from bench.simulators import Credentials, Rule, Script, targets
from bench.simulators.control import Control
from bench.simulators.script import ACCEPT, Player, named_rule
from bench.simulators.subscriptions import Factory

from .conftest import Connect, Start
from .simulators_client import Client, Response


def player(*rules: Rule, seed: int = 0, named: bool = False) -> Player:
    made = Player(named=named)
    made.load(Script(rules, seed))
    return made


def test_shares_are_of_targets_and_never_overlap() -> None:
    """A share picks its part of the targets, the same for the same seed, disjoint from other shares."""
    tokens = [member[9:-1] for member in targets("apns", 20_000)]
    script = Script.shares({"unregistered": 0.05, "throttled": 0.1}, seed=3)
    counts = Counter(player(*script.rules, seed=3).rule(token).answer for token in tokens)
    assert counts["unregistered"] == pytest.approx(1000, rel=0.15)
    assert counts["throttled"] == pytest.approx(2000, rel=0.15)
    again = [player(*script.rules, seed=3).rule(token).answer for token in tokens[:500]]
    assert again == [player(*script.rules, seed=3).rule(token).answer for token in tokens[:500]]
    assert again != [player(*script.rules, seed=4).rule(token).answer for token in tokens[:500]]


def test_transient_shares_end() -> None:
    """In a mix, a throttled target is accepted at the next attempt, a dead one never."""
    script = Script.shares({"unregistered": 0.5, "throttled": 0.5})
    playing = player(*script.rules)
    first = [playing.rule(b"%d" % number).answer for number in range(100)]
    second = [playing.rule(b"%d" % number).answer for number in range(100)]
    assert set(first) == {"unregistered", "throttled"}
    assert [answer if answer == "unregistered" else "accepted" for answer in first] == second


def test_the_first_rule_that_applies_wins() -> None:
    """Rules are tried in order, by prefix; behind them a target's own name counts."""
    playing = player(Rule(prefix="ab", answer="failed"), Rule(prefix="a", answer="throttled"), named=True)
    answers = [playing.rule(target).answer for target in (b"abc", b"acc", b"unreg-1", b"other")]
    assert answers == ["failed", "throttled", "unregistered", "accepted"]


def test_flaky_targets_follow_from_name_and_attempt() -> None:
    """flaky-30 fails some 30 of 100 attempts, always the same ones."""
    rules = [named_rule(b"flaky-30-x", attempt) for attempt in range(1000)]
    assert 200 < sum(rule is not ACCEPT for rule in rules) < 400
    assert rules == [named_rule(b"flaky-30-x", attempt) for attempt in range(1000)]


@pytest.mark.parametrize("service", ["apns", "fcm", "stub", "webpush"])
def test_targets_are_distinct_and_repeatable(service: str) -> None:
    """Targets are JSON members, distinct, the same for the same seed and other ones for another."""
    endpoints = ["https://127.0.0.1:1", "https://127.0.0.1:2"]
    made = targets(service, 1000, 7, endpoints=endpoints)
    assert len(set(made)) == 1000
    assert made == targets(service, 1000, 7, endpoints=endpoints)
    assert not set(made) & set(targets(service, 1000, 8, endpoints=endpoints))
    assert not set(made) & set(targets(service, 1000, 7, start=1000, endpoints=endpoints))
    for member in made[:10]:
        [(kind, target)] = json.loads(b"{" + member + b"}").items()
        assert kind == ("subscription" if service == "webpush" else "token")
        assert service != "apns" or len(bytes.fromhex(target)) == 32


def test_subscriptions_need_no_state() -> None:
    """Another factory knows a subscription's secrets from its endpoint alone, and no invented one's."""
    document = json.loads(Factory().document("https://127.0.0.1:1", "vip-7"))
    token = document["endpoint"].rpartition("/")[2].encode()
    assert Factory().secrets(token) is not None
    assert Factory().secrets(token.replace(b"vip-7", b"vip-8")) is None
    assert Factory().secrets(b"nonsense") is None


async def stub_push(client: Client, key: str, body: dict[str, Any], path: str = "/push/abc") -> Response:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return await client.request(path, headers, json.dumps(body).encode())


async def test_the_stub(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """200 without a body, 401 for another key, 400 for another shape, and what tokens ask for."""
    simulator = await simulate("stub", script=Script((Rule(prefix="old-", answer="unregistered", since=5.5),)))
    client = await connect(simulator)
    key, body = credentials.stub_key, {"id": "d1", "title": "T", "body": "B", "data": {"k": "v"}}
    answer = await stub_push(client, key, body)
    assert (answer.status, answer.body) == (200, b"")
    assert (await stub_push(client, "wrong", body)).status == 401
    assert (await stub_push(client, key, {"title": "no id"})).status == 400
    assert (await stub_push(client, key, body, "/elsewhere")).status == 404
    assert (await stub_push(client, key, body, "/push/old-1")).json == {"reason": "gone", "since": 5}
    answer = await stub_push(client, key, body, "/push/quota-1")
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")
    assert (await stub_push(client, key, body, "/push/unavail-1")).status == 503
    assert simulator.journal.accepted() == {"d1": 1}


async def test_control(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """A ledger is lines of key, times seen and times accepted; scripts, resets and cuts are told over HTTP."""
    simulator = await simulate("stub")
    client = await connect(simulator)
    control = Control([simulator])
    port = await control.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        script = Script((Rule(answer="failed", attempts=1),))
        async with session.post("/script", data=msgspec.json.encode(script)) as response:
            assert response.status == 200
        for identity in ("d1", "d1", "with blank"):
            await stub_push(client, credentials.stub_key, {"id": identity})
        async with session.get("/ledger?service=stub") as response:
            assert sorted((await response.text()).splitlines()) == ["d1 2 1", "with\\x20blank 1 1"]
        async with session.get("/stats") as response:
            stats = await response.json()
        assert stats["services"]["stub"]["requests"] == 3
        assert stats["cpu_seconds"] > 0
        for path, body, status in (
            ("/script", b'{"rules":[{"answer":"nonsense"}]}', 400),
            ("/script", b"{", 400),
            ("/reset?service=apns", b"", 404),
            ("/settings", b'{"3": 9}', 200),
            ("/reset", b"", 200),
            ("/cut", b"", 200),
        ):
            async with session.post(path, data=body) as response:
                assert response.status == status, path
    await client.until(lambda: client.lost)
    assert client.limits[-1] == 9
    assert len(simulator.journal) == 0
    await control.close()


async def test_the_process(tmp_path: Path) -> None:
    """`python -m bench.simulators` writes what a gateway needs, says that it is ready, and ends cleanly on SIGTERM."""
    command = [sys.executable, "-m", "bench.simulators", "--folder", str(tmp_path), "--origins", "2", "--mode", "quick"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    described = json.loads((tmp_path / "simulators.json").read_text())
    settings = tomllib.loads((tmp_path / "simulators.toml").read_text())["apps"]["shop"]
    process.send_signal(signal.SIGTERM)
    rest, _ = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, rest) == (0, b"")
    assert set(settings) == {"apns", "fcm", "webpush", "stub"}
    assert settings == {name: service["settings"] for name, service in described["services"].items()}
    assert len(settings["webpush"]["endpoints"]) == 2
    assert settings["apns"]["key_file"].startswith(str(tmp_path))
    assert settings["stub"]["key"] not in json.dumps(ready)
    assert ready["services"]["apns"]["endpoints"] == [settings["apns"]["endpoint"]]
