"""Requests that try to be two, to be endless, or to cost more than they are worth."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from gateway.ingest import invitation
from providers import template
from tests.gateway.ingest.conftest import Gateway, Serve, document, recipient


async def exchange(gateway: Gateway, data: bytes) -> bytes:
    """All that is answered to these bytes, and to a good request behind them, with which the connection ends."""
    reader, writer = await asyncio.open_connection(*gateway.address)
    writer.write(data + LAST)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    return [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]


LAST = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
BODY = json.dumps(document(recipient(0))).encode()
JOB = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMUGGLED = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

SMUGGLING = {
    "both lengths": JOB + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "two lengths": JOB + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + SMUGGLED,
    "a list of lengths": JOB + b"Content-Length: 5, 5\r\n\r\n" + SMUGGLED,
    "a signed length": JOB + b"Content-Length: +5\r\n\r\n" + SMUGGLED,
    "a length with an underscore": JOB + b"Content-Length: 1_0\r\n\r\n" + SMUGGLED,
    "an unknown encoding": JOB + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    "chunked, but not last": JOB + b"Transfer-Encoding: chunked, identity\r\n\r\n" + SMUGGLED,
    "a space before the colon": JOB + b"Transfer-Encoding : chunked\r\n\r\n" + SMUGGLED,
    "a folded field": JOB + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "two hosts": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a NUL in a field": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "a NUL in the path": b"GET /openapi\x00.json HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bare return": b"GET /openapi.json HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "a chunk's size with a sign": JOB + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n" + SMUGGLED,
    "a chunk that is longer than it says": JOB + b"Transfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n" + SMUGGLED,
    "another version": b"GET /openapi.json HTTP/9.9\r\nHost: x\r\n\r\n",
    "a name that is none": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX\xff: y\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
async def test_a_request_that_could_be_read_as_two_is_refused_and_nothing_behind_it_is_read(
    gateway: Gateway, name: str
) -> None:
    answer = await exchange(gateway, SMUGGLING[name])
    assert [status for status in statuses(answer) if status != 400] == [], answer
    assert statuses(answer), "it is told"
    assert gateway.queue.jobs == {}


async def test_what_is_no_request_is_told_so_without_a_word_of_it(gateway: Gateway) -> None:
    """The line that cannot be read may be one with a credential, and whoever reads the answer another."""
    data = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer birdie\x00\r\n\r\n"
    head, _, body = (await exchange(gateway, data)).partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["title"] == "Bad Request"
    assert b"birdie" not in body


async def test_endless_fields_are_refused(gateway: Gateway) -> None:
    long = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"
    many = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"
    path = b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    for data in (long, many, path):
        assert statuses(await exchange(gateway, data)) == [400]


def test_without_the_compiled_parser_nothing_is_served() -> None:
    """The one in Python is for where there is no other, and has had fewer eyes on it."""
    code = "from gateway.listener import require_parser; require_parser()"
    for value, status in (("", 0), ("1", 1)):
        environment = {**os.environ, "AIOHTTP_NO_EXTENSIONS": value}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert ("AIOHTTP_NO_EXTENSIONS" in done.stderr) is bool(value)


async def test_a_bomb_is_refused_unopened(gateway: Gateway) -> None:
    """10 MB of nothing in 10 KB: refused by its header, whatever is in it."""
    bomb = gzip.compress(bytes(10_000_000))
    for encoding in ("gzip", "deflate", "br", "zstd"):
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        async with gateway.session.post("/v1/jobs", data=bomb, headers=headers) as response:
            assert response.status == 415
            assert response.headers["Accept-Encoding"] == "identity"


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return dict(value)


@pytest.mark.parametrize(("depth", "status"), [(template.DEEPEST - 3, 202), (template.DEEPEST + 1, 422), (900, 422)])
async def test_a_message_is_nested_32_deep_at_most(gateway: Gateway, depth: int, status: int) -> None:
    message = {"title": "t", "stub": nested(depth)}
    body = json.dumps(document(recipient(0), message=message)).encode()
    async with gateway.session.post("/v1/jobs", data=body, headers={"Content-Type": "application/json"}) as response:
        assert response.status == status, await response.text()


@pytest.mark.parametrize("depth", [40, 3000, 100_000])
async def test_variables_that_are_nested_deeper_are_refused_alone(gateway: Gateway, depth: int) -> None:
    """Whether a template looks into them or not."""
    for title in ("{{ a }}", "{% if a %}x{% endif %}"):
        good, bad = recipient(0, vars={"a": "x"}), recipient(1, vars={"a": 0})
        text = json.dumps(document(good, bad, message={"title": title})).encode()
        body = text.replace(b": 0}", b": " + b"[" * depth + b"]" * depth + b"}")
        async with gateway.session.post(
            "/v1/jobs", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            answer = await response.json()
        if depth < 1000:
            assert response.status == 202, answer
            assert [refused["id"] for refused in answer["refused"]] == ["u1"]
        else:
            assert response.status in (202, 400), answer  # where even the parser finds it too deep, it is no JSON


class TestExpectation:
    """Who asks whether to send a body is told once somebody wants it."""

    async def test_a_body_that_is_wanted_is_asked_for(self, gateway: Gateway) -> None:
        reader, writer = await asyncio.open_connection(*gateway.address)
        writer.write(JOB + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert await asyncio.wait_for(reader.readexactly(len(invitation.CONTINUE)), 5) == invitation.CONTINUE
        writer.write(BODY)
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [202]
        writer.close()

    async def test_one_that_is_too_large_is_refused_before_it_is_sent(self, gateway: Gateway) -> None:
        reader, writer = await asyncio.open_connection(*gateway.address)
        writer.write(JOB + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 413 ")
        writer.close()

    async def test_a_closed_door_is_told_before_it_is_sent(self, gateway: Gateway) -> None:
        gateway.door.shut()
        reader, writer = await asyncio.open_connection(*gateway.address)
        writer.write(JOB + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 503 ")
        writer.close()

    async def test_other_expectations_are_not_met(self, gateway: Gateway) -> None:
        answer = await exchange(gateway, JOB + b"Expect: miracles\r\nContent-Length: 0\r\n\r\n")
        assert statuses(answer) == [417]  # and no more is read

    async def test_old_senders_are_not_asked(self, gateway: Gateway) -> None:
        reader, writer = await asyncio.open_connection(*gateway.address)
        old = JOB.replace(b"HTTP/1.1", b"HTTP/1.0")
        writer.write(old + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [202]
        writer.close()


async def test_whole_uploads_with_an_expectation_are_taken(serve: Serve) -> None:
    """As curl sends what is larger than a mebibyte."""
    gateway = await serve()
    people = [recipient(number) for number in range(3000)]
    async with gateway.session.post("/v1/jobs", json=document(*people), expect100=True) as response:
        assert response.status == 202
        assert (await response.json())["accepted"] == 3000
