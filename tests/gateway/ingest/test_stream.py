"""Jobs as NDJSON: any number of recipients, in bounded memory, all or nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gateway.ingest.overload import RETRY_AFTER
from gateway.model import Lane
from gateway.queue.base import NewBatch, QueueFull
from tests.gateway.fakes import MemoryQueue
from tests.gateway.ingest.conftest import HEAD, NDJSON, Gateway, Serve, lines, recipient


class Gate(MemoryQueue):
    """Says when something is put or a job begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.abandoned = asyncio.Event()

    async def begin(self, *arguments: Any) -> Any:
        self.begun.set()
        return await super().begin(*arguments)

    async def abandon(self, job_id: str) -> None:
        await super().abandon(job_id)
        self.abandoned.set()


def head_of_request(length: int | None, **headers: str) -> bytes:
    framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    fields = {"Host": "localhost", **NDJSON, **framing, **headers}
    return b"POST /v1/jobs HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()).encode() + b"\r\n"


async def test_lines_become_batches(gateway: Gateway) -> None:
    """The job's line first, then recipients; blank lines and CRLF do no harm, nor does a missing last newline."""
    body = b"\r\n" + lines(recipient(0), b"", recipient(1)).replace(b"\n", b"\r\n") + json.dumps(recipient(2)).encode()
    status, answer = await gateway.post(body)
    assert (status, answer["accepted"], answer["refused"]) == (202, 3, [])
    assert gateway.stored == [("u0", "u1", "u2")]
    assert gateway.counts.accepted == {("shop", "stub", Lane.PROMOTIONAL): 3}


async def test_bad_lines_are_refused_alone(gateway: Gateway) -> None:
    """Whatever is in them; the index counts recipients, not bytes or blank lines."""
    bad: list[bytes] = [
        b"{",
        b"[]",
        b'"u"',
        b"NaN",
        b'{"id":"nan","provider":"stub","token":"t","vars":{"a":NaN}}',
        b'{"id":"utf8","provider":"stub","token":"t","vars":{"a":"\xff"}}',
        b'{"id":"half","provider":"stub","token":"t","vars":{"a":"\\udc00"}}',
        b'{"id":"deep","provider":"stub","token":"t","vars":{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}}",
        b'{"id":"two","provider":"stub","token":"t"} {"id":"three","provider":"stub","token":"t"}',
        b'{"id":"\\r\\n","provider":"stub","token":"t"}',
        b'{"id":"raw\x00","provider":"stub","token":"t"}',
        json.dumps(recipient(0, extra=1)).encode(),
        b"\x0c",
    ]
    rows: list[Any] = []
    for number, line in enumerate(bad):
        rows += [recipient(1000 + number), line, b"  "]
    status, answer = await gateway.post(lines(*rows))
    assert (status, answer["accepted"], answer["refused_count"]) == (202, len(bad), len(bad))
    assert [entry["index"] for entry in answer["refused"]] == list(range(1, 2 * len(bad), 2))
    assert [name for ids in gateway.stored for name in ids] == [f"u{1000 + n}" for n in range(len(bad))]
    by_id = {entry["id"]: entry["reason"] for entry in answer["refused"]}
    assert by_id["utf8"] == "is not UTF-8"
    assert by_id["u0"] == "extra: is not known; known here: id, provider, registered_at, subscription, token, vars"


async def test_an_overlong_line_is_refused_alone(serve: Serve) -> None:
    """It is thrown away as it comes, and counted."""
    gateway = await serve(line=512)
    long = json.dumps(recipient(1, vars={"a": "x" * 5000})).encode()
    last = json.dumps(recipient(3, vars={"a": "x" * 5000})).encode()
    status, answer = await gateway.post(lines(recipient(0), long, recipient(2)) + last)
    assert (status, answer["accepted"]) == (202, 2)
    assert answer["refused"] == [{"index": n, "id": None, "reason": "is longer than 512 bytes"} for n in (1, 3)]


async def test_a_large_stream_is_stored_while_it_comes_in_bounded_memory(serve: Serve) -> None:
    """100,000 recipients, 20 MB: never more of them in memory than some slices and open batches."""

    class Dropping(MemoryQueue):
        """Stores nothing, so that what is left is ingest's own."""

        count = 0
        peak = 0

        async def put(self, job_id: str, batches: Sequence[NewBatch]) -> None:
            self.puts += 1
            self.count += sum(batch.count for batch in batches)
            self.peak = max(self.peak, tracemalloc.get_traced_memory()[0])

    queue = Dropping()
    gateway = await serve(queue=queue)
    row = json.dumps(recipient(1, vars={"product": "Running shoes", "filler": "x" * 80})).encode() + b"\n"

    async def body() -> AsyncIterator[bytes]:
        yield lines(head={**HEAD, "message": {"title": "{{product}}"}})
        for _ in range(100):
            yield row * 1000

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        async with gateway.session.post("/v1/jobs", data=body(), headers=NDJSON) as response:
            assert response.status == 202
            assert (await response.json())["accepted"] == 100_000
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert queue.count == 100_000
    assert queue.puts >= 5
    assert peak < 8 * 2**20  # the client's side is in it, with its buffers


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_connection_that_breaks_half_way_leaves_nothing(serve: Serve, chunked: bool) -> None:
    """Nothing of it is sent, and a repeat with the same key starts cleanly."""
    queue = Gate()
    gateway = await serve(queue=queue, put=1)
    body = lines(*[recipient(n) for n in range(3000)])
    _, writer = await asyncio.open_connection(*gateway.address)
    part = body[:-10_000]
    framed = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
    writer.write(head_of_request(None if chunked else len(body), **{"Idempotency-Key": "k"}) + framed)
    await writer.drain()
    await queue.begun.wait()
    assert (await gateway.post(body, **{"Idempotency-Key": "k"}))[0] == 409
    writer.transport.abort()
    await queue.abandoned.wait()
    assert not queue.jobs
    status, answer = await gateway.post(body, **{"Idempotency-Key": "k"})
    assert (status, answer["accepted"]) == (202, 3000)


async def test_a_malformed_chunk_is_a_broken_upload(serve: Serve) -> None:
    """What follows could be anything. aiohttp reads nothing more then, so it ends as silence does."""
    queue = Gate()
    gateway = await serve(queue=queue, pause=0.1)
    reader, writer = await asyncio.open_connection(*gateway.address)
    part = lines(*[recipient(n) for n in range(3000)])
    writer.write(head_of_request(None) + b"%x\r\n%b\r\n" % (len(part), part))
    await queue.begun.wait()
    writer.write(b"nonsense\r\n")
    await queue.abandoned.wait()
    assert not queue.jobs
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_silent_sender_loses_its_connection(serve: Serve) -> None:
    """408, the job is abandoned and the connection closed; what it held is free again."""
    queue = Gate()
    gateway = await serve(queue=queue, pause=0.1)
    reader, writer = await asyncio.open_connection(*gateway.address)
    body = lines(*[recipient(n) for n in range(3000)])
    writer.write(head_of_request(2 * len(body)) + body)
    await queue.begun.wait()
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    assert not queue.jobs
    writer.close()


async def test_a_dripping_sender_loses_its_connection(serve: Serve) -> None:
    """It never pauses for long, and yet would hold its share of the memory for ever."""
    gateway = await serve(grace=0.2, pace=10**9)
    reader, writer = await asyncio.open_connection(*gateway.address)
    writer.write(head_of_request(100_000) + lines())
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    for _ in range(1000):
        writer.write(b" ")
        done, _ = await asyncio.wait([answer], timeout=0.01)
        if done:
            break
    assert (await answer).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_full_queue_ends_the_upload(serve: Serve) -> None:
    """503 with Retry-After in the middle of it; what was stored is gone and the key is free."""

    class Filling(Gate):
        async def put(self, job_id: str, batches: Sequence[NewBatch]) -> None:
            if self.puts == 2:
                raise QueueFull("full: try again")
            await super().put(job_id, batches)

    queue = Filling()
    gateway = await serve(queue=queue, put=1)
    body = lines(*[recipient(n) for n in range(5000)])
    async with gateway.session.post("/v1/jobs", data=body, headers={**NDJSON, "Idempotency-Key": "k"}) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) in range(RETRY_AFTER[0], RETRY_AFTER[1] + 1)
    assert not queue.jobs
    assert not queue.keys


async def test_a_cancelled_request_abandons_its_job(serve: Serve) -> None:
    """A worker that is told to stop does not leave a key taken."""
    queue = Gate()
    gateway = await serve(queue=queue)
    _, writer = await asyncio.open_connection(*gateway.address)
    body = lines(*[recipient(n) for n in range(3000)])
    writer.write(head_of_request(10 * len(body), **{"Idempotency-Key": "k"}) + body)
    await queue.begun.wait()
    handlers = [task for task in asyncio.all_tasks() if "_handle_request" in repr(task.get_coro())]
    assert len(handlers) == 1
    handlers[0].cancel()
    await queue.abandoned.wait()
    assert not queue.keys
    writer.close()


async def test_streams_share_what_memory_there_is(serve: Serve) -> None:
    """503 beyond it, 429 beyond an app's own number; small documents are let in all the same."""
    queue = Gate()
    gateway = await serve(queue=queue, memory=10 * 2**20, app_streams=1)
    _, first = await asyncio.open_connection(*gateway.address)
    first.write(head_of_request(10**6) + lines(*[recipient(n) for n in range(3000)]))
    await queue.begun.wait()
    async with gateway.session.post("/v1/jobs", data=lines(recipient(0)), headers=NDJSON) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "5")
    queue.begun.clear()
    _, second = await asyncio.open_connection(*gateway.address)
    bank = lines(*[recipient(n) for n in range(3000)], head={**HEAD, "app": "bank"})
    second.write(head_of_request(10**6) + bank)
    await queue.begun.wait()
    async with gateway.session.post("/v1/jobs", data=lines(recipient(0)), headers=NDJSON) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert (await gateway.post({**HEAD, "recipients": [recipient(0)]}))[0] == 202
    queue.abandoned.clear()
    first.transport.abort()
    await queue.abandoned.wait()
    assert (await gateway.post(lines(recipient(0))))[0] == 202
    second.transport.abort()


async def test_the_number_of_uploads_is_bounded(serve: Serve) -> None:
    """503 with Retry-After."""
    gateway = await serve(uploads=1)
    _, writer = await asyncio.open_connection(*gateway.address)
    queue: MemoryQueue = gateway.queue
    writer.write(head_of_request(10**6) + lines(*[recipient(n) for n in range(3000)]))
    while not queue.jobs:
        await asyncio.sleep(0.001)
    async with gateway.session.post("/v1/jobs", data=lines(recipient(0)), headers=NDJSON) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    writer.transport.abort()
