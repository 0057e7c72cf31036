"""Whether this worker lives, whether it should get work, and the page that Prometheus reads.

`/livez` answers as long as the event loop turns: restart what does not. `/readyz` says whether to send requests here:
503 while a needed part is not up (starting, draining, queue not writable). A held route or a refused credential is
shown there and makes nobody unready, because the other routes go on. `/metrics` speaks for all workers. Both are for
probes that show no credential, and so say only to who may know it what concerns an app.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.exposition import choose_encoder

from gateway.access.guard import Forbidden, Guarded, Unauthenticated, for_anybody
from gateway.access.principal import Principal, Scope
from gateway.beat import following
from gateway.observe.metrics import Metrics
from gateway.queue.base import Depth, QueueError

_LOG = structlog.get_logger()

LAG_INTERVAL = 0.05
"""Seconds between two looks at the loop: what holds it for 100 ms is seen with 50 at least. 20 us a look."""
SAMPLES = 20
"""Looks between two samplings of gauges: once a second."""
STALL = 0.25
"""Seconds of lag that are worth a line: a transactional notification notices."""


_NO_METRICS = "Metrics need a credential: send `Authorization: Bearer KEY`, or see access.probes in the configuration."


class ProbeGate(Protocol):
    """Tells who reads a probe, see `access.gate`."""

    async def admit_probe(self, request: web.BaseRequest) -> Principal | None: ...


class Readiness:
    """What the parts of a worker say of themselves. Not ready until each `needed` part has said so."""

    def __init__(self, *needed: str) -> None:
        self._parts = dict.fromkeys(needed, (False, "has not started yet"))
        self._needed = frozenset(needed)

    def report(self, part: str, ok: bool, sentence: str = "") -> None:
        """A part's state, and a sentence for the operator: what is wrong and what to do."""
        self._parts[part] = (ok, sentence)

    def forget(self, part: str) -> None:
        """A part that is not needed is no more, such as a route that nobody uses."""
        self._parts.pop(part, None)

    @property
    def ready(self) -> bool:
        return all(self._parts[name][0] for name in self._needed)

    def describe(self) -> dict[str, object]:
        """The body of `/readyz`."""
        return {
            "ready": self.ready,
            "parts": {
                name: {"ok": ok, "needed": name in self._needed, "detail": sentence}
                for name, (ok, sentence) in self._parts.items()
            },
        }


def routes(
    readiness: Readiness,
    metrics: Metrics,
    depth: Callable[[], Awaitable[Depth]],
    parked: Callable[[], Awaitable[int]],
    gate: ProbeGate,
) -> list[Guarded]:
    """`/livez`, `/readyz` and `/metrics`. `depth` and `parked`, the number of parked batches, are the queue's."""

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(request: web.Request) -> web.Response:
        who = await gate.admit_probe(request)
        told = readiness.describe() if who is not None and who.runs_the_machine else {"ready": readiness.ready}
        return web.Response(
            status=200 if readiness.ready else 503,
            body=orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def exposition(request: web.Request) -> web.Response:
        who = await gate.admit_probe(request)
        if who is None:
            raise Unauthenticated(_NO_METRICS, presented=False)
        if not who.scopes & {Scope.READ, Scope.OPERATE}:
            raise Forbidden(Scope.READ)
        sees = None if who.runs_the_machine else who.sees
        try:
            metrics.queue_depth(await depth(), time.time())
            metrics.parked(await parked())
        except QueueError:
            _LOG.debug("queue.failed", exc_info=True)  # the other numbers matter all the more now
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # Reading and formatting takes milliseconds per hundred series of histograms: not on the loop.
        body = await asyncio.to_thread(lambda: encode(metrics.registry(sees)))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return for_anybody(web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", exposition))


def count_requests(metrics: Metrics) -> Middleware:
    """A middleware that counts each answer under its route's pattern."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = 499  # the caller hung up; nginx's word for it
            raise
        finally:
            resource = request.match_info.route.resource
            pattern = resource.canonical if resource is not None else "unmatched"
            metrics.http_request(pattern, status, time.perf_counter() - began)

    return middleware


async def watch_loop(metrics: Metrics, samplers: Sequence[Callable[[], None]] = ()) -> None:
    """Measure how late the loop is, and have gauges set once a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        for _ in range(SAMPLES):
            due = following(loop.time(), LAG_INTERVAL)
            await asyncio.sleep(due - loop.time())
            lag = max(0.0, loop.time() - due)
            metrics.loop_lag(lag)
            if lag >= STALL:
                _LOG.warning("loop.stalled", seconds=round(lag, 3))
        metrics.tasks(len(asyncio.all_tasks(loop)))
        for sample in samplers:
            sample()
