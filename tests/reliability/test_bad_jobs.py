"""Jobs that no caller in its right mind would send, among good ones, against a real worker over HTTP."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
import pytest

from bench.api import Api
from bench.campaign import MESSAGE
from bench.ledger import Ledger
from bench.world import World

from .conftest import Evidence

ROW = "R15"
JSON, NDJSON = "application/json", "application/x-ndjson"
AT_ONCE = 8
"""Bad jobs sent side by side; then comes a good one."""
PATIENCE = 60.0
KIB, MIB = 1024, 2**20

HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308, "", " ", "\x00", "\ud800", "\u202e", "NaN",
    "null", "a\r\nX-Injected: 1", "a\nb", "é" * 2000, "x" * 4097, "x" * 70_000, "../../etc/passwd", "{{", "{{name}}",
    "{% for %}", "{{ 10 ** 10 ** 10 }}", "9" * 400, "2026-13-45T99:99:99Z", "-1h", [], {}, [[]], {"": ""},
    [None] * 1000, {"a": {"b": {}}},
)  # fmt: skip
"""Values in places where others are meant."""


class Request(NamedTuple):
    """What is sent, and what kind of badness it is."""

    kind: str
    body: bytes
    content_type: str = JSON


class Maker:
    """Bad requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._number = 0
        self._kinds: tuple[Callable[[], Request], ...] = (
            self._hostile_value, self._hostile_value, self._hostile_value, self._bytes_flipped, self._bytes_flipped,
            self._truncated, self._not_utf8, self._deep, self._not_a_number, self._twice_the_key, self._large_payload,
            self._line_breaks_in_ids, self._other_top_level, self._torn_lines,
        )  # fmt: skip

    def good(self, count: int = 3) -> dict[str, Any]:
        """A job of this many deliveries, all of them with targets and ids of their own."""
        recipients = []
        for _ in range(count):
            self._number += 1
            variables = {"product": "Shoes", "pct": 20, "sku": f"A{self._number}"}
            token = self._draw.randbytes(32).hex()
            recipients.append({"id": f"r{self._number}", "provider": "apns", "token": token, "vars": variables})
        return {
            "app": "shop",
            "class": "promotional",
            "ttl": "1h",
            "message": copy.deepcopy(MESSAGE),
            "recipients": recipients,
        }

    def bad(self, number: int) -> Request:
        """Some megabytes are rare, since they cost the sender most."""
        if number % 200 == 100:
            return self._large_body()
        return self._draw.choice(self._kinds)()

    def _hostile_value(self) -> Request:
        job = self.good()
        places = list(_places(job))
        for _ in range(self._draw.choice((1, 1, 1, 2, 5))):
            place, key = self._draw.choice(places)
            place[key] = copy.deepcopy(self._draw.choice(HOSTILE))
        if self._draw.random() < 0.1:
            job[self._draw.choice(("Class", "recipient", "", "__proto__", "x" * 5000))] = 1
        return self._either("a value that is not meant", job)

    def _either(self, kind: str, job: dict[str, Any]) -> Request:
        """As a document, or as lines if it still can be written so."""
        recipients = job.get("recipients")
        if isinstance(recipients, list) and self._draw.random() < 0.5:
            head = {key: value for key, value in job.items() if key != "recipients"}
            return Request(kind, b"\n".join(json.dumps(row).encode() for row in (head, *recipients)), NDJSON)
        return Request(kind, json.dumps(job).encode())

    def _bytes_flipped(self) -> Request:
        request = self._either("bytes flipped", self.good())
        body = bytearray(request.body)
        for _ in range(self._draw.randint(1, 8)):
            body[self._draw.randrange(len(body))] = self._draw.randrange(256)
        return request._replace(body=bytes(body))

    def _truncated(self) -> Request:
        request = self._either("cut short", self.good())
        return request._replace(body=request.body[: self._draw.randrange(len(request.body))])

    def _not_utf8(self) -> Request:
        request = self._either("not UTF-8", self.good())
        wrong = self._draw.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"))
        return request._replace(body=request.body.replace(b"Shoes", b"Sh" + wrong + b"es"))

    def _deep(self) -> Request:
        depth, (left, right) = 100_000, self._draw.choice(((b"[", b"]"), (b'{"a":', b"}")))
        nested = left * depth + b"1" + right * depth if self._draw.random() < 0.5 else left * depth
        place = self._draw.choice((b'"Shoes"', b'"shop"', b'"1h"'))
        request = self._either("nested 100,000 deep", self.good())
        return request._replace(body=request.body.replace(place, nested))

    def _not_a_number(self) -> Request:
        word = self._draw.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x10", b"1_000", b"01", b"9" * 5000))
        request = self._either("no number", self.good())
        return request._replace(body=request.body.replace(b'"pct": 20', b'"pct": ' + word))

    def _twice_the_key(self) -> Request:
        request = self._either("a key twice", self.good())
        place = self._draw.choice((b'"app": "shop"', b'"provider": "apns"', b'"pct": 20'))
        other = place.rpartition(b":")[0] + self._draw.choice((b': "bank"', b': {"a": 1}', b": null", b": 7"))
        both = [place, other]
        self._draw.shuffle(both)
        return request._replace(body=request.body.replace(place, b", ".join(both)))

    def _large_payload(self) -> Request:
        """Just above the 4 KiB that APNs takes, by the message itself or by one recipient's variable."""
        job = self.good()
        if self._draw.random() < 0.5:
            job["message"]["body"] = "x" * (4 * KIB + 1)
        else:
            self._draw.choice(job["recipients"])["vars"]["product"] = "x" * (4 * KIB + 1)
        return self._either("a payload above 4 KiB", job)

    def _line_breaks_in_ids(self) -> Request:
        job = self.good()
        recipient, text = self._draw.choice(job["recipients"]), self._draw.choice(("a\r\nb", "\n", "a\x00", "a\u2028b"))
        recipient[self._draw.choice(("id", "token"))] = text
        return self._either("a line break in an id", job)

    def _other_top_level(self) -> Request:
        body = self._draw.choice(
            (b"", b"null", b"[]", b'"x"', b"1", b"{}", b"\n\n\n", b"\xef\xbb\xbf{}", b"\x00" * 100)
        )
        return Request("no job at all", body, self._draw.choice((JSON, NDJSON, "text/plain", "application/xml")))

    def _torn_lines(self) -> Request:
        lines = self._either("lines torn apart", self.good()).body.replace(b", ", b",\n")
        return Request("lines torn apart", lines, NDJSON)

    def _large_body(self) -> Request:
        job = self.good()
        job["message"]["body"] = "x" * (10 * MIB)
        return self._either("10 MiB", job)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found


class Attack:
    """Sends bad and good jobs, some at a time."""

    def __init__(self, api: Api, session: aiohttp.ClientSession, maker: Maker) -> None:
        self.api = api
        self._session = session
        self._maker = maker
        self.ledger = Ledger()
        self.answers: Counter[str] = Counter()
        self.good: list[str] = []
        self.taken: dict[str, int] = {}
        """Jobs that were bad and accepted at least in part: so many of their recipients."""

    async def run(self, count: int) -> None:
        todo = [self._maker.bad(number) for number in range(count)]
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*map(self._send_bad, todo[start : start + AT_ONCE]))
            await self._send_good()

    async def _send_good(self) -> None:
        job = self._maker.good(5)
        answer = await self.api.submit_document(json.dumps(job).encode())
        self.ledger.accepted({recipient["id"]: None for recipient in job["recipients"]})
        self.good.append(answer["job"])

    async def _send_bad(self, request: Request) -> None:
        headers = {"Content-Type": request.content_type}
        try:
            data = io.BytesIO(request.body)
            async with self._session.post(f"{self.api.url}/v1/jobs", data=data, headers=headers) as response:
                status, kind, text = response.status, response.content_type, await response.text()
        except aiohttp.ClientOSError:  # it was refused while it was still being sent
            assert len(request.body) > MIB, request.kind
            self.answers["refused on the way"] += 1
            return
        self.answers[str(status)] += 1
        assert status == 202 or 400 <= status < 500, (request.kind, status, request.body[:2000], text)
        document = json.loads(text)
        if status != 202:
            assert kind == "application/problem+json"
            assert document["status"] == status
            assert document["detail"].endswith(".")
            return
        self.taken[document["job"]] = document["accepted"]
        for refusal in document["refused"]:
            assert refusal["reason"]

    async def finished(self) -> Counter[str]:
        """All that was accepted has ended; how the deliveries of bad jobs did. They enter the ledger by delivery id."""
        async with asyncio.timeout(PATIENCE):
            for job_id in [*self.good, *self.taken]:
                while not (await self.api.job(job_id))["finished"]:
                    await asyncio.sleep(0.05)
        for job_id in self.good:
            async for receipt in self.api.receipts(job_id):
                assert receipt["state"] == "accepted", receipt
                self.ledger.receipt(receipt)
        states: Counter[str] = Counter()
        for job_id, accepted in self.taken.items():
            found = [receipt async for receipt in self.api.receipts(job_id)]
            assert len(found) == accepted, job_id
            for receipt in found:
                states[receipt["state"]] += 1
                assert receipt["state"] == "accepted" or receipt["reason"], receipt
                self.ledger.accepted({receipt["id"]: None})
                self.ledger.receipt({**receipt, "recipient": receipt["id"]})
        return states


async def attack(world: World, count: int, seed: int) -> tuple[Attack, Counter[str]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), headers=world.credential) as session:
        attacking = Attack(world.api(session), session, Maker(seed))
        await attacking.run(count)
        states = await attacking.finished()
    world.enter_taken(attacking.ledger)
    return attacking, states


@pytest.mark.timeout(400)
def test_bad_jobs_are_refused_or_end_and_good_ones_do_not_notice(long: bool, seed: int, evidence: Evidence) -> None:
    """Each is answered with a problem that says what is wrong, or each of its deliveries has a receipt; the worker
    neither fails at one nor dies of it, and every good job between them is delivered."""
    count = 10_000 if long else 1_000
    with World(["apns"], mode="quick") as world:
        attacking, states = asyncio.run(attack(world, count, seed))
        log = world.gateway.log.read_text()
        assert world.gateway.running
    balance = attacking.ledger.balance()
    figures = {
        "seed": seed,
        "bad_jobs": count,
        "answers": dict(sorted(attacking.answers.items())),
        "receipts_of_bad_jobs": dict(sorted(states.items())),
        "good_jobs": len(attacking.good),
    }
    evidence.record(f"{count:,} bad jobs, with good ones between them", figures, balance)
    assert balance.clean, (balance, figures)
    for event in ("http.failed", "worker.failed", "batch.set_aside", "batch.crashed", "Traceback"):
        assert event not in log, log[-3000:]
