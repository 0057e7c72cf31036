"""What became of jobs, over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.ingest.answers import job_report
from gateway.model import State
from gateway.queue.base import DeadTarget, Room
from gateway.receipts.states import JobStatus
from tests.gateway.fakes import MemoryQueue
from tests.gateway.ingest.conftest import Gateway, document, recipient

NO_JOB = "job_" + "0" * 32


async def submit(gateway: Gateway, count: int) -> str:
    _, answer = await gateway.post(document(*[recipient(n) for n in range(count)]))
    return str(answer["job"])


async def deliver(queue: MemoryQueue, state: State = State.ACCEPTED) -> None:
    for lease in await queue.lease(Room(100, 10_000, (), {}), time.time()):
        lease.progress.states[:] = bytes([state]) * lease.count
        await queue.complete(lease, [], time.time())


async def get(gateway: Gateway, path: str, status: int = 200) -> Any:
    async with gateway.session.get(path) as response:
        assert response.status == status
        return await response.json(content_type=None)


async def test_a_report_counts_by_state(gateway: Gateway) -> None:
    """All states are named, and everything is pending at first."""
    job = await submit(gateway, 3)
    report = await get(gateway, f"/v1/jobs/{job}")
    assert (report["job"], report["app"], report["class"], report["total"]) == (job, "shop", "promotional", 3)
    assert (report["finished"], report["rate"], report["eta"]) == (False, None, None)
    assert report["counts"]["pending"] == 3
    assert set(report["counts"]) == {"pending"} | {state.word for state in State if state >= State.ACCEPTED}
    await deliver(gateway.queue)
    report = await get(gateway, f"/v1/jobs/{job}")
    assert (report["finished"], report["counts"]["accepted"], report["eta"]) == (True, 3, 0)
    assert report["rate"] > 0


@pytest.mark.parametrize(
    ("first", "now", "rate"),
    [(None, 110.0, 5.0), (109.9, 110.0, 5.0), (105.0, 110.0, 10.0)],
)
def test_the_rate_is_that_of_sending(first: float | None, now: float, rate: float) -> None:
    """Since the first receipts, once they are a while ago: a scheduled job's waiting is not slowness."""
    status = JobStatus(
        id="j",
        app="a",
        lane=0,
        created_at=100.0,
        cancelled=False,
        finished=False,
        total=150,
        parked=0,
        counts={"pending": 100, "accepted": 50},
        first_finished_at=first,
        finished_at=None,
    )
    report = job_report(status, "a", now)
    assert (report.rate, report.eta, report.class_) == (rate, 100 / rate, "transactional")


@pytest.mark.parametrize("path", [f"/v1/jobs/{NO_JOB}", f"/v1/jobs/{NO_JOB}/receipts", "/v1/jobs/1", "/v1/jobs/%00"])
async def test_an_unknown_job_is_404(gateway: Gateway, path: str) -> None:
    """Also where the id cannot be one."""
    assert (await get(gateway, path, 404))["status"] == 404


async def test_cancelling_is_accepted_with_counts(gateway: Gateway) -> None:
    """202: what is not yet sent will be `cancelled`. Twice does no harm."""
    job = await submit(gateway, 2)
    for _ in range(2):
        async with gateway.session.delete(f"/v1/jobs/{job}") as response:
            assert response.status == 202
            report = await response.json()
        assert (report["cancelled"], report["total"], report["counts"]["pending"]) == (True, 2, 2)
    assert (await gateway.queue.cancelled(0))[1] == [job]
    async with gateway.session.delete(f"/v1/jobs/{NO_JOB}") as response:
        assert response.status == 404


async def test_receipts_come_in_pages(gateway: Gateway) -> None:
    """Following `Link` gives each receipt once; without a `Link` it is over."""
    job = await submit(gateway, 5)
    async with gateway.session.get(f"/v1/jobs/{job}/receipts") as response:
        assert (response.status, await response.text()) == (200, "")
        assert response.headers["Retry-After"] == "1"
        assert "next" in response.links
    await deliver(gateway.queue)
    path = f"/v1/jobs/{job}/receipts?limit=2"
    rows: list[dict[str, Any]] = []
    cursors: list[str] = []
    pages = 0
    while path:
        pages += 1
        async with gateway.session.get(path) as response:
            assert response.content_type == "application/x-ndjson"
            rows += [json.loads(line) for line in (await response.text()).splitlines()]
            cursors.append(response.headers["Next-Cursor"])
            path = str(response.links["next"]["url"].relative()) if "next" in response.links else ""
            assert not path or path.endswith(f"after={cursors[-1]}")
    assert pages == 3
    assert [row["recipient"] for row in rows] == [f"u{n}" for n in range(5)]
    assert {row["state"] for row in rows} == {"accepted"}
    async with gateway.session.head(f"/v1/jobs/{job}/receipts") as response:
        assert (response.status, response.headers["Next-Cursor"]) == (200, cursors[-1])


@pytest.mark.parametrize("query", ["after=x", "after=-1", "after=" + "9" * 40, "limit=0", "limit=x", "limit=10001"])
async def test_cursors_and_limits_are_checked(gateway: Gateway, query: str) -> None:
    """400, with what would be right."""
    job = await submit(gateway, 1)
    problem = await get(gateway, f"/v1/jobs/{job}/receipts?{query}", 400)
    assert query.partition("=")[0] in problem["detail"]


async def test_receipts_are_found_by_delivery_ids(gateway: Gateway) -> None:
    """In the order asked for, with those that are no delivery's apart; one by one as well."""
    job = await submit(gateway, 3)
    await deliver(gateway.queue)
    async with gateway.session.get(f"/v1/jobs/{job}/receipts") as response:
        ids = [json.loads(line)["id"] for line in (await response.text()).splitlines()]
    wanted = [ids[2], "nonsense", ids[0], ids[0]]
    async with gateway.session.post("/v1/receipts", json={"deliveries": wanted}) as response:
        found = await response.json()
    assert [receipt["id"] for receipt in found["receipts"]] == [ids[2], ids[0]]
    assert found["unknown"] == ["nonsense"]
    receipt = await get(gateway, f"/v1/deliveries/{ids[1]}")
    assert (receipt["recipient"], receipt["job"], receipt["state"]) == ("u1", job, "accepted")
    await get(gateway, "/v1/deliveries/nonsense", 404)


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"{", 400, ""),
        (b'{"deliveries": []}', 422, "/deliveries"),
        (b'{"deliveries": ["a", 1]}', 422, "/deliveries/1"),
        (b'{"delivery": []}', 422, "/delivery"),
        (json.dumps({"deliveries": ["a"] * 1001}).encode(), 422, "/deliveries"),
        (json.dumps({"deliveries": ["a" * 70_000]}).encode(), 413, None),
    ],
)
async def test_a_question_for_receipts_is_checked(
    gateway: Gateway, body: bytes, status: int, where: str | None
) -> None:
    """As strictly as a job."""
    headers = {"Content-Type": "application/json"}
    async with gateway.session.post("/v1/receipts", data=body, headers=headers) as response:
        assert response.status == status
        problem = await response.json(content_type=None)
    assert [error["pointer"] for error in problem.get("errors", [])] == ([] if where is None else [where])


async def test_dead_tokens_are_read_with_a_cursor(gateway: Gateway) -> None:
    """Of one app; the cursor of the last page finds what comes later."""
    await submit(gateway, 2)
    [lease] = await gateway.queue.lease(Room(1, 10_000, (), {}), time.time())
    dead = [DeadTarget(b"token0", 5.0, "Unregistered"), DeadTarget(b"token1", 6.0, "Unregistered")]
    await gateway.queue.complete(lease, dead, time.time())
    first = await get(gateway, "/v1/tokens/invalid?app=shop&limit=1")
    assert first["tokens"] == [{"provider": "stub", "key": "token0", "since": 5.0, "reason": "Unregistered"}]
    second = await get(gateway, f"/v1/tokens/invalid?app=shop&after={first['cursor']}")
    assert [token["key"] for token in second["tokens"]] == ["token1"]
    third = await get(gateway, f"/v1/tokens/invalid?app=shop&after={second['cursor']}")
    assert third == {"tokens": [], "cursor": second["cursor"]}
    assert (await get(gateway, "/v1/tokens/invalid?app=bank"))["tokens"] == []
    assert "must be given" in (await get(gateway, "/v1/tokens/invalid", 400))["detail"]
    assert "did you mean `shop`" in (await get(gateway, "/v1/tokens/invalid?app=shp", 400))["detail"]
