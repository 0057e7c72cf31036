"""/livez, /readyz, /metrics, and the watch over the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler

from gateway.access.gate import OpenGate
from gateway.observe.health import LAG_INTERVAL, SAMPLES, Readiness, count_requests, routes, watch_loop
from gateway.observe.metrics import Metrics
from gateway.queue.base import Depth, QueueError

Client = TestClient[web.Request, web.Application]


class FakeQueue:
    """Has a depth, or cannot say."""

    def __init__(self) -> None:
        self.broken = False

    async def parked_count(self) -> int:
        return 2

    async def depth(self) -> Depth:
        if self.broken:
            raise QueueError("the disk is gone")
        return Depth(batches=4, deliveries=4000, oldest_due=None)


@pytest.fixture
async def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
async def readiness() -> Readiness:
    return Readiness("gateway", "queue")


@pytest.fixture
async def client(queue: FakeQueue, readiness: Readiness, tmp_path: Path) -> AsyncIterator[Client]:
    metrics = Metrics(tmp_path, "worker-0", [("shop", "apns")])
    app = web.Application(middlewares=[count_requests(metrics)])
    app.add_routes([each.route for each in routes(readiness, metrics, queue.depth, queue.parked_count, OpenGate())])
    app.router.add_get("/v1/jobs/{id}", _job)
    async with TestClient(TestServer(app)) as client:
        yield client
    metrics.close()


async def _job(request: web.Request) -> web.Response:
    match request.match_info["id"]:
        case "missing":
            raise web.HTTPNotFound
        case "broken":
            raise RuntimeError
        case _:
            return web.Response()


async def test_alive_while_not_ready(client: Client) -> None:
    """A worker that drains or starts lives: it must not be restarted for it."""
    assert (await client.get("/livez")).status == 200
    assert (await client.get("/readyz")).status == 503


async def test_ready_when_every_needed_part_says_so(client: Client, readiness: Readiness) -> None:
    """Each needed part has to report; one that fails later makes it unready again, with its sentence."""
    readiness.report("gateway", True)
    assert (await client.get("/readyz")).status == 503
    readiness.report("queue", True)
    assert (await client.get("/readyz")).status == 200
    readiness.report("queue", False, "the disk is full; free some space")
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert (await answer.json())["parts"]["queue"] == {
        "ok": False,
        "needed": True,
        "detail": "the disk is full; free some space",
    }


async def test_a_held_route_is_shown_and_does_not_unready(client: Client, readiness: Readiness) -> None:
    """Other routes go on, so requests are still welcome."""
    readiness.report("gateway", True)
    readiness.report("queue", True)
    readiness.report("route shop/apns", False, "Apple refuses the key: check key_id")
    answer = await client.get("/readyz")
    assert answer.status == 200
    assert (await answer.json())["parts"]["route shop/apns"]["needed"] is False
    readiness.forget("route shop/apns")
    assert "route shop/apns" not in (await (await client.get("/readyz")).json())["parts"]


async def test_metrics_are_scraped_with_the_queues_depth(client: Client) -> None:
    """The queue is asked at the scrape, so its numbers are of that moment."""
    answer = await client.get("/metrics")
    assert answer.content_type == "text/plain"
    text = await answer.text()
    assert "carillon_queue_deliveries 4000.0" in text
    assert "carillon_queue_oldest_due_seconds 0.0" in text


async def test_openmetrics_is_spoken_to_those_who_ask(client: Client) -> None:
    """Prometheus asks for OpenMetrics by Accept."""
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type == "application/openmetrics-text"
    assert (await answer.text()).endswith("# EOF\n")


async def test_metrics_answer_while_the_queue_does_not(client: Client, queue: FakeQueue) -> None:
    """They are what one looks at then."""
    queue.broken = True
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert "carillon_workers 1.0" in await answer.text()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_requests_are_counted_by_pattern(client: Client) -> None:
    """Labels are a route's pattern and the status, whatever the path; what matches nothing is one label."""
    for path in ("/v1/jobs/a", "/v1/jobs/b", "/v1/jobs/missing", "/v1/jobs/broken", "/nowhere"):
        await client.get(path)
    text = await (await client.get("/metrics")).text()
    assert 'carillon_http_requests_total{route="/v1/jobs/{id}",status="200"} 2.0' in text
    assert 'carillon_http_requests_total{route="/v1/jobs/{id}",status="404"} 1.0' in text
    assert 'carillon_http_requests_total{route="/v1/jobs/{id}",status="500"} 1.0' in text
    assert 'carillon_http_requests_total{route="unmatched",status="404"} 1.0' in text
    assert 'carillon_http_request_seconds_count{route="/v1/jobs/{id}"} 4.0' in text


async def test_a_callers_hang_up_is_counted(tmp_path: Path) -> None:
    """A request whose caller is gone has a status too: 499."""
    metrics = Metrics(tmp_path, "worker-0")
    entered = asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    counted = asyncio.Event()

    @web.middleware
    async def outside(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            counted.set()

    app = web.Application(middlewares=[outside, count_requests(metrics)])
    app.router.add_get("/slow", wait)
    async with TestServer(app, handler_cancellation=True) as server:
        async with ClientSession() as session:
            request = asyncio.ensure_future(session.get(server.make_url("/slow")))
            await entered.wait()
            request.cancel()
        await asyncio.wait_for(counted.wait(), 10)
    assert any(sample.labels.get("status") == "499" for metric in metrics.collect() for sample in metric.samples)
    metrics.close()


async def test_a_stalled_loop_is_seen(tmp_path: Path) -> None:
    """What holds the loop shows as lag, and gauges are sampled meanwhile."""
    metrics = Metrics(tmp_path, "worker-0")
    sampled = asyncio.Event()
    watch = asyncio.create_task(watch_loop(metrics, [sampled.set]))
    await asyncio.sleep(0)
    time.sleep(LAG_INTERVAL + 0.1)  # noqa: ASYNC251 - holding the loop is what this is about
    async with asyncio.timeout(10):
        await sampled.wait()
    watch.cancel()
    (lag,) = [m for m in metrics.collect() if m.name == "carillon_loop_lag_seconds"]
    (tasks,) = [m for m in metrics.collect() if m.name == "carillon_tasks"]
    below = {s.labels["le"]: s.value for s in lag.samples if s.name.endswith("_bucket")}
    metrics.close()
    assert tasks.samples[0].value >= 2
    assert below["+Inf"] == SAMPLES
    assert below["0.05"] < SAMPLES
