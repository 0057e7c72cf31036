"""`Idempotency-Key`: one job a key, whatever the caller repeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.fakes import MemoryQueue
from tests.gateway.ingest.conftest import HEAD, NDJSON, Gateway, Serve, document, lines, recipient

KEY = {"Idempotency-Key": "order-4711"}
LONG = [recipient(n) for n in range(3000)]
BODIES = [document(recipient(0), recipient(1)), lines(recipient(0), recipient(1)), lines(*LONG)]


@pytest.mark.parametrize("body", BODIES)
async def test_a_repeat_gets_the_first_answer(gateway: Gateway, body: Any) -> None:
    """The same status, place and document, marked as a replay; there is one job."""
    first = await gateway.post(body, **KEY)
    arguments = {"data": body, "headers": NDJSON | KEY} if isinstance(body, bytes) else {"json": body, "headers": KEY}
    async with gateway.session.post("/v1/jobs", **arguments) as response:
        assert (response.status, await response.json()) == first
        assert response.headers["Idempotent-Replayed"] == "true"
        assert response.headers["Location"] == f"/v1/jobs/{first[1]['job']}"
    assert len(gateway.queue.jobs) == 1


@pytest.mark.parametrize("first", BODIES)
@pytest.mark.parametrize("second", [document(recipient(2)), lines(recipient(2)), lines(*LONG, recipient(3000))])
async def test_another_body_is_refused(gateway: Gateway, first: Any, second: Any) -> None:
    """422: a key stands for one request."""
    assert (await gateway.post(first, **KEY))[0] == 202
    status, problem = await gateway.post(second, **KEY)
    assert (status, "another body" in problem["detail"]) == (422, True)
    assert len(gateway.queue.jobs) == 1


async def test_keys_of_apps_do_not_meet(gateway: Gateway) -> None:
    """Teams number their orders alike; without a key every request is a job of its own."""
    gateway_apps = [document(), document()]
    gateway_apps[1]["app"] = "bank"
    await gateway.post(gateway_apps[0], **KEY)
    status, problem = await gateway.post(gateway_apps[1], **KEY)
    assert (status, "another body" in problem["detail"]) == (422, False)  # `bank` has no provider for the recipient
    await gateway.post(document())
    await gateway.post(document())
    assert len(gateway.queue.jobs) == 3


async def test_a_repeat_is_answered_even_if_it_would_be_refused_by_now(serve: Serve) -> None:
    """Time goes on and configurations change; what was accepted stays accepted."""
    queue = MemoryQueue()
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    for body in (document(expires_at=expiry), lines(recipient(0), head={**HEAD, "expires_at": expiry})):
        key = {"Idempotency-Key": type(body).__name__}
        first = await (await serve(queue=queue)).post(body, **key)
        assert first[0] == 202
        later = await serve(queue=queue, apps={"bank": {}})
        assert await later.post(body, **key) == first
    assert len(queue.jobs) == 2


@pytest.mark.parametrize("body", [document(app="nix"), lines(recipient(0), head={**HEAD, "app": "nix"})])
async def test_a_refused_request_leaves_its_key_free(gateway: Gateway, body: Any) -> None:
    """The caller corrects it and sends it again."""
    assert (await gateway.post(body, **KEY))[0] == 422
    assert not gateway.queue.keys
    assert (await gateway.post(body, **KEY))[0] == 422


async def test_of_concurrent_twins_one_is_taken(serve: Serve) -> None:
    """The others get 409 and when to come back, or the answer if they come later."""

    class Slow(MemoryQueue):
        async def put(self, *arguments: Any) -> None:
            await asyncio.sleep(0.01)
            await super().put(*arguments)

    gateway = await serve(queue=Slow())
    for body in BODIES:
        key = {"Idempotency-Key": str(len(body))}
        answers = await asyncio.gather(*[gateway.post(body, **key) for _ in range(8)])
        jobs = {answer["job"] for status, answer in answers if status == 202}
        assert {status for status, _ in answers} <= {202, 409}
        assert len(jobs) == 1
    assert len(gateway.queue.jobs) == 3


async def test_a_twin_in_flight_is_409(serve: Serve) -> None:
    """Also for a document while a stream with the key is coming in; its other body is told afterwards."""
    gateway = await serve()
    begun, go = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield lines(*[recipient(n) for n in range(2000)])
        begun.set()
        await go.wait()
        yield lines(head=recipient(2000))

    upload = asyncio.create_task(_post(gateway, body()))
    await begun.wait()
    while not gateway.queue.keys:
        await asyncio.sleep(0.001)
    async with gateway.session.post("/v1/jobs", json=document(), headers=KEY) as response:
        assert response.status == 409
        assert int(response.headers["Retry-After"]) > 0
    go.set()
    assert await upload == 202
    assert (await gateway.post(document(), **KEY))[0] == 422


async def _post(gateway: Gateway, body: AsyncIterator[bytes]) -> int:
    async with gateway.session.post("/v1/jobs", data=body, headers=NDJSON | KEY) as response:
        return response.status


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "a"]])
async def test_one_key_a_request(gateway: Gateway, keys: list[str]) -> None:
    """Two of them mean a broken client or proxy."""
    headers = [("Idempotency-Key", key) for key in keys]
    async with gateway.session.post("/v1/jobs", json=document(), headers=headers) as response:
        assert response.status == 400
