"""What became of jobs: reports, receipts, dead tokens; and taking a job back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.ingest.answers import DeadTokens, Found, JobReport, Wanted, job_report
from gateway.ingest.body import Body
from gateway.ingest.intake import Apps
from gateway.ingest.limits import Limits
from gateway.ingest.media import JSON, NDJSON, content_type
from gateway.ingest.problem import Refused, suggestion, undecoded
from gateway.queue.base import Queue
from gateway.receipts.states import InvalidTokens, JobStatus, Page, Receipt

NEXT_CURSOR = "Next-Cursor"

_JOB_ID = re.compile(r"job_[0-9a-f]{32}")
_CURSOR = re.compile(r"[0-9]{1,18}")
_LIMIT = re.compile(r"[1-9][0-9]{0,8}")
_NO_JOB = "There is no such job, or it finished longer ago than receipts are kept."
_NO_DELIVERY = "There is no such delivery, or its job finished longer ago than receipts are kept."
_WAIT = "1"
"""Seconds after which an empty page of a job that is not finished is worth another look."""


class Receipts(Protocol):
    """What is read of `receipts.store.ReceiptStore`."""

    async def job(self, job_id: str) -> JobStatus | None: ...

    async def receipts(self, job_id: str, after: int, limit: int) -> Page | None: ...

    async def deliveries(self, delivery_ids: Iterable[str]) -> dict[str, Receipt]: ...

    async def invalid_tokens(self, app: str, after: int, limit: int) -> InvalidTokens: ...


class Lookup:
    """The routes that read, and the one that cancels."""

    def __init__(self, apps: Apps, queue: Queue, receipts: Receipts, limits: Limits) -> None:
        self._apps = apps
        self._queue = queue
        self._receipts = receipts
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/jobs/{id}", self._job),
            web.delete("/v1/jobs/{id}", self._cancel),
            web.get("/v1/jobs/{id}/receipts", self._page),
            web.post("/v1/receipts", self._find),
            web.get("/v1/deliveries/{id}", self._delivery),
            web.get("/v1/tokens/invalid", self._dead_tokens),
        ]

    async def _job(self, request: web.Request) -> web.Response:
        return json_response(await self._report(_job_id(request)))

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id = _job_id(request)
        if not await self._queue.cancel(job_id, time.time()):
            raise Refused(404, _NO_JOB)
        return json_response(await self._report(job_id), status=202)

    async def _report(self, job_id: str) -> JobReport:
        status = await self._receipts.job(job_id)
        if status is None:
            raise Refused(404, _NO_JOB)
        return job_report(status, time.time())

    async def _page(self, request: web.Request) -> web.Response:
        after, limit = page_bounds(request, self._limits)
        page = await self._receipts.receipts(_job_id(request), after, limit)
        if page is None:
            raise Refused(404, _NO_JOB)
        headers = {NEXT_CURSOR: str(page.cursor)}
        if not page.finished:
            following = request.rel_url.update_query({"after": str(page.cursor)})
            headers["Link"] = f'<{following}>; rel="next"'
            if not page.receipts:
                headers["Retry-After"] = _WAIT
        lines = msgspec.json.Encoder().encode_lines(page.receipts)
        return web.Response(body=lines, content_type=NDJSON, headers=headers)

    async def _find(self, request: web.Request) -> web.Response:
        content_type(request, JSON)
        text = await Body(request.content, self._limits, hashed=False).whole(self._limits.free)
        try:
            wanted = msgspec.json.decode(text, type=Wanted).deliveries
        except (ValueError, RecursionError) as error:
            raise undecoded(error, text, Wanted) from None
        found = await self._receipts.deliveries(wanted)
        receipts = [found[delivery_id] for delivery_id in dict.fromkeys(wanted) if delivery_id in found]
        return json_response(Found(receipts, [delivery_id for delivery_id in wanted if delivery_id not in found]))

    async def _delivery(self, request: web.Request) -> web.Response:
        delivery_id = request.match_info["id"]
        receipt = (await self._receipts.deliveries([delivery_id])).get(delivery_id)
        if receipt is None:
            raise Refused(404, _NO_DELIVERY)
        return json_response(receipt)

    async def _dead_tokens(self, request: web.Request) -> web.Response:
        app = request.query.get("app")
        if app is None or app not in self._apps:
            missing = "must be given" if app is None else f"is not configured; {suggestion(app, self._apps)}"
            raise Refused(400, f"The query's app {missing}.")
        after, limit = page_bounds(request, self._limits)
        dead = await self._receipts.invalid_tokens(app, after, limit)
        return json_response(DeadTokens(dead.tokens, str(dead.cursor)))


def page_bounds(request: web.Request, limits: Limits) -> tuple[int, int]:
    """The query's `after` and `limit`."""
    after = request.query.get("after", "0")
    if not _CURSOR.fullmatch(after):
        raise Refused(400, "The query's after must be a cursor that a former page gave.")
    limit = request.query.get("limit", str(limits.page))
    if not _LIMIT.fullmatch(limit) or int(limit) > limits.most:
        raise Refused(400, f"The query's limit must be a number from 1 to {limits.most}.")
    return int(after), int(limit)


def _job_id(request: web.Request) -> str:
    job_id = request.match_info["id"]
    if not _JOB_ID.fullmatch(job_id):
        raise Refused(404, _NO_JOB)
    return job_id


def json_response(document: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=JSON)
