"""The same over the embedded queue and the store of receipts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.model import State
from gateway.queue.base import Room
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from tests.gateway.ingest.conftest import HEAD, Gateway, Serve, document, lines, recipient
from tests.gateway.ingest.test_stream import head_of_request

KEY = {"Idempotency-Key": "k"}


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "carillon.db", owner="w1", high_water=10_000)
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
async def durable(serve: Serve, sqlite: SqliteQueue) -> Gateway:
    return await serve(queue=sqlite, receipts=ReceiptStore(sqlite.database), put=1)


@pytest.mark.parametrize("streamed", [False, True])
async def test_from_upload_to_receipts(durable: Gateway, streamed: bool) -> None:
    """What was accepted is leased as it was sent, and its receipts are found by the caller's ids."""
    recipients = [recipient(n, vars={"name": f"n{n}"}, registered_at="2026-01-01T00:00:00Z") for n in range(2500)]
    head = {**HEAD, "message": {"title": "{{name}}"}}
    status, answer = await durable.post(
        lines(*recipients, head=head) if streamed else {**head, "recipients": recipients}
    )
    assert (status, answer["accepted"]) == (202, 2500)
    leases = await durable.queue.lease(Room(10, 10_000, (), {}), time.time())
    assert sum(lease.count for lease in leases) == 2500
    for lease in leases:
        tokens, names, registered = [column.split(b"\n") for column in lease.columns]
        assert [token[5:] for token in tokens] == [name[1:] for name in names]
        assert {float(value) for value in registered} == {1767225600.0}
        lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
        await durable.queue.complete(lease, [], time.time())
    path, found = f"/v1/jobs/{answer['job']}/receipts?limit=700", []
    for _ in range(10):
        async with durable.session.get(path) as response:
            found += [json.loads(line)["recipient"] for line in (await response.text()).splitlines()]
            if "next" not in response.links:
                break
            path = str(response.links["next"]["url"].relative())
    assert sorted(found) == sorted(f"u{n}" for n in range(2500))
    async with durable.session.get(f"/v1/jobs/{answer['job']}") as response:
        assert (await response.json())["counts"]["accepted"] == 2500


@pytest.mark.parametrize("body", [document(), lines(recipient(0))])
async def test_the_idempotency_matrix(durable: Gateway, body: Any) -> None:
    """Replay, other body, refused and free again, concurrent twins."""
    assert (await durable.post(document(app="nix"), **KEY))[0] == 422
    first = await durable.post(body, **KEY)
    assert first[0] == 202
    assert await durable.post(body, **KEY) == first
    assert (await durable.post(document(recipient(1)), **KEY))[0] == 422
    assert (await durable.post(lines(recipient(1)), **KEY))[0] == 422
    answers = await asyncio.gather(*[durable.post(body, **{"Idempotency-Key": "twins"}) for _ in range(8)])
    assert {status for status, _ in answers} <= {202, 409}
    assert len({answer["job"] for status, answer in answers if status == 202}) == 1


async def test_a_broken_upload_frees_its_key(durable: Gateway) -> None:
    """What it had stored is not counted as work either."""
    body = lines(*[recipient(n) for n in range(3000)])
    for _ in range(3):
        _, writer = await asyncio.open_connection(*durable.address)
        writer.write(head_of_request(len(body) + 1, **KEY) + body)
        while not (await durable.queue.depth()).batches:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        while (await durable.queue.depth()).batches:
            await asyncio.sleep(0.001)
    assert await durable.queue.lease(Room(10, 10_000, (), {}), time.time()) == []
    status, answer = await durable.post(body, **KEY)
    assert (status, answer["accepted"]) == (202, 3000)


async def test_beyond_the_high_water_mark(durable: Gateway) -> None:
    """503 for documents and streams, and nothing of them stays."""
    many = [recipient(n) for n in range(10_001)]
    for body in (lines(*many), {**HEAD, "recipients": many}):
        assert (await durable.post(body, **KEY))[0] == 503
        assert (await durable.queue.depth()).deliveries == 0
    assert (await durable.post(document(), **KEY))[0] == 202


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_message_that_cannot_be_stored_is_refused(durable: Gateway, streamed: bool) -> None:
    """A job is stored to find its key's former answer even if it is wrong; a number of more than 64 bits or a nesting
    too deep does not even get that far. The key stays free."""
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    for value, pointer in ((2**70, "/message/apns/x"), (-(2**64), "/message/apns/x"), (deep, "/message/apns/x/0")):
        head = {**HEAD, "message": {"apns": {"x": value}}}
        body = lines(recipient(0), head=head) if streamed else {**head, "recipients": [recipient(0)]}
        status, answer = await durable.post(body, **KEY)
        assert status == 422
        assert answer["errors"][0]["pointer"].startswith(pointer)
    assert (await durable.post(document(), **KEY))[0] == 202
