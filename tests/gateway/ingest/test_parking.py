"""What an operator sees of parked batches over HTTP, and can do about them."""

from __future__ import annotations

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
from tests.gateway.ingest.conftest import HEAD, MASK, Gateway, Serve, recipient
from tests.gateway.queue.contract import Hands
from tests.gateway.queue.test_machine import die

SECRET = "a-device-token-that-nobody-may-read-0123456789"
ROOM = Room(100, 100, (), {})


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "carillon.db", owner="api")
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
async def gateway(serve: Serve, queue: SqliteQueue) -> Gateway:
    return await serve(queue=queue, receipts=ReceiptStore(queue.database))


async def parked(gateway: Gateway, queue: SqliteQueue, *recipients: dict[str, Any]) -> str:
    """A job whose batch three holders died with; the last one had its first delivery on the wire."""
    head = {**HEAD, "message": {"title": "private words", "data": {"k": "v"}}}
    _, answer = await gateway.post({**head, "recipients": recipients or [recipient(0)]})
    for death in range(3):
        holder = SqliteQueue(queue.database.path, owner="holder")
        await holder.open()
        for lease in await holder.lease(ROOM, time.time()):
            lease.progress.states[0] = State.SENT if death == 2 else State.PENDING
        await die(holder)
        await queue.recover(time.time())
    return str(answer["job"])


async def ask(gateway: Gateway, method: str, path: str, status: int = 200) -> dict[str, Any]:
    async with gateway.session.request(method, path) as response:
        assert response.status == status, await response.text()
        answer: dict[str, Any] = await response.json(content_type=None)
        return answer


async def the_one(gateway: Gateway) -> dict[str, Any]:
    ((entry,), _) = (await ask(gateway, "GET", "/v1/parked")).values()
    return dict(entry)


async def test_they_are_listed_page_by_page(gateway: Gateway, queue: SqliteQueue) -> None:
    jobs = [await parked(gateway, queue) for _ in range(3)]
    assert await queue.parked_count() == 3
    cursor, seen = "0", []
    for _ in range(4):
        page = await ask(gateway, "GET", f"/v1/parked?limit=1&after={cursor}")
        cursor = page["cursor"]
        seen += [entry["job"] for entry in page["parked"]]
    assert seen == jobs
    entry = (await ask(gateway, "GET", "/v1/parked"))["parked"][0]
    assert (entry["app"], entry["provider"], entry["class"], entry["size"], entry["crashes"]) == (
        "shop", "stub", "promotional", 1, 3,
    )  # fmt: skip
    assert entry["parked_at"] == pytest.approx(time.time(), abs=60)
    assert "3 processes died" in entry["reason"]
    await ask(gateway, "GET", "/v1/parked?after=x", 400)


async def test_a_look_into_one_shows_nothing_whole(gateway: Gateway, queue: SqliteQueue) -> None:
    """Enough to find out what is wrong with it, and no token or text of it."""
    await parked(gateway, queue, recipient(0, token=SECRET), recipient(1, token="short"))
    entry = await the_one(gateway)
    contents = await ask(gateway, "GET", f"/v1/parked/{entry['id']}")
    assert contents["batch"] == entry
    assert contents["left"] == 2
    first, second = contents["deliveries"]
    assert (first["id"], first["recipient"], first["sent"]) == (entry["id"], "u0", True)
    assert (first["target"], second["target"]) == (MASK(SECRET), MASK("short"))
    assert contents["message"] == {"title": len('"private words"'), "data": len('{"k":"v"}')}
    assert SECRET not in json.dumps(contents)
    assert "private" not in json.dumps(contents)
    assert await ask(gateway, "GET", f"/v1/parked/{second['id']}") == contents, "each delivery leads to it"


async def test_a_jobs_report_counts_them(gateway: Gateway, queue: SqliteQueue) -> None:
    job = await parked(gateway, queue, recipient(0), recipient(1))
    report = await ask(gateway, "GET", f"/v1/jobs/{job}")
    assert (report["parked"], report["counts"]["pending"], report["finished"]) == (2, 2, False)


async def test_replaying(gateway: Gateway, queue: SqliteQueue) -> None:
    """Dispatch is woken and gets it; a second time there is nothing to replay."""
    job = await parked(gateway, queue)
    entry, hands = await the_one(gateway), Hands()
    queue.hand_to(hands)
    assert await ask(gateway, "POST", f"/v1/parked/{entry['id']}/replay", 202) == entry
    await ask(gateway, "POST", f"/v1/parked/{entry['id']}/replay", 404)
    assert hands.woken == 1
    (lease,) = await queue.lease(ROOM, time.time())
    assert lease.job.id == job
    assert (await ask(gateway, "GET", f"/v1/jobs/{job}"))["parked"] == 0


async def test_purging(gateway: Gateway, queue: SqliteQueue) -> None:
    """Each delivery gets its one receipt, and the job is finished."""
    job = await parked(gateway, queue, recipient(0), recipient(1))
    entry = await the_one(gateway)
    assert await ask(gateway, "DELETE", f"/v1/parked/{entry['id']}") == entry
    report = await ask(gateway, "GET", f"/v1/jobs/{job}")
    assert report["finished"]
    assert (report["counts"]["unknown"], report["counts"]["dead_lettered"]) == (1, 1)
    answer = await ask(gateway, "DELETE", f"/v1/parked/{entry['id']}", 404)
    assert "new job" in answer["detail"]


@pytest.mark.parametrize("batch", ["1", "job_00", "%00", "0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000"])
async def test_what_is_not_parked_is_404(gateway: Gateway, batch: str) -> None:
    await ask(gateway, "GET", f"/v1/parked/{batch}", 404)
    await ask(gateway, "POST", f"/v1/parked/{batch}/replay", 404)
    await ask(gateway, "DELETE", f"/v1/parked/{batch}", 404)
