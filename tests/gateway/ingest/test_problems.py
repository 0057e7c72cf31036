"""Bad input: problem+json that points at what is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest import submission
from gateway.ingest.problem import Refused, located, pointer
from gateway.ingest.submission import JobLine, ttl_seconds
from tests.gateway.fakes import MemoryQueue
from tests.gateway.ingest.conftest import HEAD, Gateway, Serve, document, lines, recipient

DEEP = 100_000


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


WRONG = {
    "unknown field": ({"titel": "x"}, "/titel", "did you mean"),
    "unknown field far from any": ({"zzz": 1}, "/zzz", "known here: app, "),
    "unknown field of the message": ({"message": {"titel": "x"}}, "/message/titel", "did you mean `title`?"),
    "wrong type": ({"app": 1}, "/app", "Expected `str`, got `int`"),
    "unknown app": ({"app": "shpo"}, "/app", "did you mean `shop`?"),
    "class": ({"class": "urgent"}, "/class", "must be one of: "),
    "on_unknown": ({"on_unknown": "retry"}, "/on_unknown", "must be one of: "),
    "data value": ({"message": {"data": {"a": "b", "c/d": 1}}}, "/message/data/c~1d", "Expected `str`"),
    "huge integer": ({"message": {"apns": {"x": [0, 2**70]}}}, "/message/apns/x/1", "64 bits"),
    "campaign": ({"campaign": "a\nb"}, "/campaign", "control characters"),
    "campaign length": ({"campaign": "a" * 129}, "/campaign", "128"),
    "collapse key with CRLF": ({"collapse_key": "a\r\nb"}, "/collapse_key", "visible ASCII"),
    "collapse key with a newline at its end": ({"collapse_key": "a\n"}, "/collapse_key", "visible ASCII"),
    "collapse key length": ({"collapse_key": "a" * 65}, "/collapse_key", "64"),
    "ordering key with a blank": ({"ordering_key": "a b"}, "/ordering_key", "visible ASCII"),
    "ordering key length": ({"ordering_key": "a" * 65}, "/ordering_key", "64"),
    "ttl word": ({"ttl": "6 hours"}, "/ttl", "such as 6h"),
    "ttl zero": ({"ttl": 0}, "/ttl", "at least one second"),
    "ttl endless": ({"ttl": "400d"}, "/ttl", "365 days"),
    "ttl type": ({"ttl": 1.5}, "/ttl", "Expected `int | str | null`"),
    "both": ({"ttl": 60, "expires_at": "2999-01-01T00:00:00Z"}, "/ttl", "leave one of them out"),
    "past": ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at", "in the past"),
    "far": ({"expires_at": "2999-01-01T00:00:00Z"}, "/expires_at", "two years"),
    "no zone": ({"expires_at": "2026-01-01T00:00:00"}, "/expires_at", "timezone"),
    "no date": ({"deliver_at": "tomorrow"}, "/deliver_at", "RFC3339"),
    "far delivery": ({"deliver_at": "2999-01-01T00:00:00Z"}, "/deliver_at", "365 days"),
    "depth": ({"message": {"apns": nested(40)}}, "/message/apns" + "/a" * 31, "deeper than 32"),
    "template": ({"message": {"title": "{% if %}"}}, "/message/title", "template"),
    "placeholder in a key": ({"message": {"data": {"{{a}}": "b"}}}, "/message/data/{{a}}", "keys"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_wrong_is_pointed_at(gateway: Gateway, name: str, streamed: bool) -> None:
    """422 with a JSON pointer, whether the job comes as a document or as a stream; nothing is stored."""
    change, where, words = WRONG[name]
    body: Any = lines(recipient(0), head={**HEAD, **change}) if streamed else document(**change)
    status, problem = await gateway.post(body)
    assert (status, problem["status"], problem["title"]) == (422, 422, "Unprocessable Entity")
    assert [error["pointer"] for error in problem["errors"]] == [where]
    assert words in problem["errors"][0]["detail"]
    assert not gateway.queue.jobs


async def test_all_that_is_wrong_is_said_at_once(gateway: Gateway) -> None:
    """Whatever can be found independently of the rest."""
    _, problem = await gateway.post(document(app="nix", ttl="x", collapse_key="ö", campaign="\x00"))
    assert {error["pointer"] for error in problem["errors"]} == {"/app", "/ttl", "/collapse_key", "/campaign"}


@pytest.mark.parametrize("field", ["app", "class", "message", "recipients"])
async def test_what_is_missing_is_named(gateway: Gateway, field: str) -> None:
    """A document lacks a field."""
    body = document()
    del body[field]
    status, problem = await gateway.post(body)
    assert status == 422
    assert field in problem["errors"][0]["detail"]


@pytest.mark.parametrize("recipients", [[], {}, "u1", None, 7])
async def test_recipients_are_an_array_with_something_in_it(gateway: Gateway, recipients: Any) -> None:
    """422 otherwise."""
    status, problem = await gateway.post({**document(), "recipients": recipients})
    assert (status, problem["errors"][0]["pointer"]) == (422, "/recipients")


async def test_a_stream_needs_recipients_and_has_them_on_their_own_lines(gateway: Gateway) -> None:
    """A job's line alone is none; recipients in it are in the wrong place."""
    assert (await gateway.post(lines()))[1]["errors"][0]["pointer"] == "/recipients"
    status, problem = await gateway.post(lines(head=document()))
    assert (status, problem["errors"][0]["pointer"]) == (422, "/recipients")
    assert (await gateway.post(b""))[0] == 400
    assert (await gateway.post(b"\n \n"))[0] == 400


JOB = json.dumps(document()).encode()
BROKEN = {
    "empty": b"",
    "half": JOB[:50],
    "two": JOB + JOB,
    "NaN": JOB.replace(b'"Hello"', b"NaN"),
    "Infinity": JOB.replace(b'"token0"', b"Infinity"),
    "not UTF-8": JOB.replace(b"Hello", b"H\xffllo"),
    "half a surrogate pair": JOB.replace(b"Hello", b"\\ud800"),
    "raw newline in a string": JOB.replace(b"Hello", b"He\nllo"),
    "byte order mark": b"\xef\xbb\xbf" + JOB,
    "deep message": JOB.replace(b'"Hello"}', b'"Hello","apns":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"),
    "deep array": JOB.replace(b'"Hello"}', b'"Hello","apns":{"a":' + b"[" * DEEP),
    "deep recipients": JOB.replace(b'"token0"', b"[" * DEEP + b"]" * DEEP),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_json_is_400(gateway: Gateway, name: str) -> None:
    """The service stands, whatever the nesting."""
    async with gateway.session.post(
        "/v1/jobs", data=BROKEN[name], headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 400
        assert response.content_type == "application/problem+json"
        assert (await response.json(content_type=None))["errors"][0]["pointer"] == ""
    assert (await gateway.post(document()))[0] == 202


async def test_the_last_of_duplicate_keys_counts(gateway: Gateway) -> None:
    """As everywhere in the field (RFC 8259, section 4, leaves it open); never both, never an error."""
    text = JOB.replace(b'"app": "shop"', b'"app": "nix", "app": "shop"').replace(b'"id": "u0"', b'"id": "a", "id": "b"')
    async with gateway.session.post("/v1/jobs", data=text, headers={"Content-Type": "application/json"}) as response:
        assert response.status == 202
    assert gateway.stored == [("b",)]


async def test_a_body_has_at_most_eight_mebibytes(gateway: Gateway) -> None:
    """413 for a byte more, known ahead or not; exactly that is fine."""
    limit = 8 * 2**20
    headers = {"Content-Type": "application/json"}
    text = JOB[:-2] + b" " * (limit - len(JOB)) + JOB[-2:]

    async def chunks() -> Any:
        yield text
        yield b" "

    async with gateway.session.post("/v1/jobs", data=io.BytesIO(text), headers=headers) as response:
        assert response.status == 202
    async with gateway.session.post("/v1/jobs", data=io.BytesIO(text + b" "), headers=headers) as response:
        assert response.status == 413
    async with gateway.session.post("/v1/jobs", data=chunks(), headers=headers) as response:
        assert response.status == 413
        assert "application/x-ndjson" in (await response.json(content_type=None))["detail"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_job_without_its_recipients_is_small(gateway: Gateway, streamed: bool) -> None:
    """413: what is copied to every batch in mind has a bound of its own."""
    head = {**HEAD, "message": {"title": "x" * 70_000}}
    body = lines(recipient(0), head=head) if streamed else {**head, "recipients": [recipient(0)]}
    assert (await gateway.post(body))[0] == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": "application/json; charset=UTF-8"}, 202),
        ({"Content-Type": "application/json", "Content-Encoding": "identity"}, 202),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/x-ndjson", "Content-Encoding": "br"}, 415),
        ({"Content-Type": "application/json", "Idempotency-Key": ""}, 400),
        ({"Content-Type": "application/json", "Idempotency-Key": "a b"}, 400),
        ({"Content-Type": "application/json", "Idempotency-Key": "k" * 256}, 400),
    ],
)
async def test_headers_are_looked_at_before_the_body(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    """Types, encodings and keys that are not taken."""
    async with gateway.session.post("/v1/jobs", data=JOB, headers=headers) as response:
        assert response.status == status
        if status >= 400:
            assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/nothing", 404, None),
        ("PUT", "/v1/jobs", 405, "OPTIONS, POST"),
        ("POST", "/v1/tokens/invalid", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/v1/jobs", 204, "OPTIONS, POST"),
        ("OPTIONS", "/v1/nothing", 404, None),
    ],
)
async def test_other_paths_and_methods(
    gateway: Gateway, method: str, path: str, status: int, allow: str | None
) -> None:
    """404 and 405 are problems too; OPTIONS says what is possible."""
    async with gateway.session.request(method, path) as response:
        assert response.status == status
        assert response.headers.get("Allow") == allow
        if status >= 400:
            assert (await response.json(content_type=None))["status"] == status


async def test_a_failure_of_ours_is_a_problem_without_details(serve: Serve) -> None:
    """500, and nothing of the exception leaves the house."""

    class Failing(MemoryQueue):
        async def submit(self, *_: Any) -> None:
            raise ZeroDivisionError("secret")

    gateway = await serve(queue=Failing())
    status, problem = await gateway.post(document())
    assert (status, "secret" in json.dumps(problem)) == (500, False)


# --- by themselves


@given(st.integers(1, 365 * 86400))
def test_seconds_are_a_ttl(seconds: int) -> None:
    """A number and the same number with its unit are the same."""
    assert ttl_seconds(seconds) == ttl_seconds(f"{seconds}s") == seconds


@given(st.text() | st.from_regex(r"\d+[smhd]", fullmatch=True) | st.integers())
def test_any_ttl_is_a_duration_within_bounds_or_an_error(ttl: str | int) -> None:
    """Nothing else can come out, whatever is in it."""
    try:
        seconds = ttl_seconds(ttl)
    except ValueError:
        return
    assert 1 <= seconds <= 365 * 86400
    if isinstance(ttl, str):
        assert ttl[:-1].isascii()
        assert int(ttl[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ttl[-1]] == seconds


@given(st.lists(st.text() | st.integers(0, 99), max_size=5))
def test_a_pointer_leads_back_to_its_steps(steps: list[str | int]) -> None:
    """RFC 6901, sections 3 and 4."""
    text = pointer(steps)
    back = [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]
    assert back == [str(step) for step in steps]


@given(st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=3))
def test_a_value_of_a_mapping_is_found(key: str, others: dict[str, str]) -> None:
    """msgspec does not say which value of a mapping was wrong, so it is looked for."""
    others.pop(key, None)
    text = msgspec.json.encode({**HEAD, "message": {"data": {**others, key: 1}}})
    with pytest.raises(Refused) as caught:
        submission.read(text, JobLine)
    assert msgspec.json.decode(caught.value.response().body)["errors"][0]["pointer"] == pointer(
        ["message", "data", key]
    )


class _Line(msgspec.Struct):
    values: list[dict[str, int]]


def test_a_value_within_an_array_is_found() -> None:
    """Positions are steps as well."""
    text = b'{"values": [{}, {"a": 1, "b": "x"}]}'
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(text, type=_Line)
    assert located(caught.value, text, _Line).pointer.startswith("/values/1/")


@pytest.mark.parametrize("behind", [b'"\\ud800"', b"[" * DEEP, b'"\xff"', b"tru"])
async def test_what_comes_before_something_that_is_no_json_is_pointed_at(gateway: Gateway, behind: bytes) -> None:
    """Decoding ended at the first mistake; telling where it is must not stumble over the next one."""
    body = b'{"app": "shop", "class": "promotional", "message": {"data": {"a": [[]]}}, "recipients": ' + behind + b"}"
    async with gateway.session.post("/v1/jobs", data=body, headers={"Content-Type": "application/json"}) as response:
        problem = await response.json(content_type=None)
    assert 400 <= response.status < 500, problem
    assert problem["errors"][0]["pointer"] in ("/message/data", "/message/data/a")


async def test_nobody_else_waits_for_a_large_body(gateway: Gateway) -> None:
    """A body of 8 MiB is taken in slices of a few milliseconds: between them, others get their turn."""
    large = json.dumps(document(*[recipient(n) for n in range(100_000)])).encode()
    assert len(large) < 8 * 2**20
    gaps: list[float] = []
    clock = time.thread_time  # what this loop worked, however busy the machine is with other things

    async def watch() -> None:
        while True:
            start = clock()
            await asyncio.sleep(0)
            gaps.append(clock() - start)

    watcher = asyncio.create_task(watch())
    headers = {"Content-Type": "application/json"}
    async with gateway.session.post("/v1/jobs", data=io.BytesIO(large), headers=headers) as response:
        assert response.status == 202
    watcher.cancel()
    # Whole, it takes 100 ms and more.
    assert max(gaps) < 0.06
