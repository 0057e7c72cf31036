"""What became of jobs: reports, receipts, dead tokens; and taking a job back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.access.guard import Guarded, needs, principal
from gateway.access.principal import Principal, Scope
from gateway.audit.log import NO_DETAIL, Actor, Detail
from gateway.ingest.answers import DeadTokens, Found, JobReport, Wanted, job_report
from gateway.ingest.body import Body
from gateway.ingest.cursors import Cursors
from gateway.ingest.intake import Apps
from gateway.ingest.limits import Limits
from gateway.ingest.media import JSON, NDJSON, content_type
from gateway.ingest.problem import Refused, suggestion, undecoded
from gateway.queue.base import Queue, Sees
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

    async def app_of(self, job_id: str) -> str | None: ...

    async def job(self, job_id: str, sees: Sees) -> JobStatus | None: ...

    async def receipts(self, job_id: str, after: int, limit: int) -> Page | None: ...

    async def deliveries(self, delivery_ids: Iterable[str], sees: Sees) -> dict[str, Receipt]: ...

    async def invalid_tokens(self, app: str, after: int, limit: int) -> InvalidTokens: ...


class Audit(Protocol):
    """What is written of `audit.log.AuditLog`."""

    async def record(self, actor: Actor, action: str, subject: str, detail: Detail = NO_DETAIL) -> None: ...


class Lookup:
    """The routes that read, and the one that cancels.

    What another tenant has is unknown here: the same answer after the same work, whether an id is nobody's or theirs.
    """

    def __init__(
        self, apps: Apps, queue: Queue, receipts: Receipts, audit: Audit, cursors: Cursors, limits: Limits
    ) -> None:
        self._apps = apps
        self._cursors = cursors
        self._queue = queue
        self._receipts = receipts
        self._audit = audit
        self._limits = limits

    def routes(self) -> list[Guarded]:
        return [
            *needs(Scope.SEND, web.delete("/v1/jobs/{id}", self._cancel)),
            *needs(
                Scope.READ,
                web.get("/v1/jobs/{id}", self._job),
                web.get("/v1/jobs/{id}/receipts", self._page),
                web.post("/v1/receipts", self._find),
                web.get("/v1/deliveries/{id}", self._delivery),
                web.get("/v1/tokens/invalid", self._dead_tokens),
            ),
        ]

    async def _job(self, request: web.Request) -> web.Response:
        return json_response(await self._report(request.match_info["id"], principal(request)))

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id, caller = await self._own_job(request), principal(request)
        await self._audit.record(caller.actor, "job.cancel", job_id)
        if not await self._queue.cancel(job_id, time.time()):
            raise Refused(404, _NO_JOB)
        return json_response(await self._report(job_id, caller), status=202)

    async def _own_job(self, request: web.Request) -> str:
        """The id of the job that a request is about, which is one of its caller's."""
        job_id = request.match_info["id"]
        app = await self._receipts.app_of(job_id) if _JOB_ID.fullmatch(job_id) else None
        if app is None or not principal(request).sees(app):
            raise Refused(404, _NO_JOB)
        return job_id

    async def _report(self, job_id: str, caller: Principal) -> JobReport:
        status = await self._receipts.job(job_id, caller.sees) if _JOB_ID.fullmatch(job_id) else None
        if status is None:
            raise Refused(404, _NO_JOB)
        return job_report(status, caller.shown(status.app), time.time())

    async def _page(self, request: web.Request) -> web.Response:
        (after, limit), tenant = page_bounds(request, self._limits, self._cursors), principal(request).tenant
        page = await self._receipts.receipts(await self._own_job(request), after, limit)
        if page is None:
            raise Refused(404, _NO_JOB)
        cursor = self._cursors.write(tenant, page.cursor)
        headers = {NEXT_CURSOR: cursor}
        if not page.finished:
            following = request.rel_url.update_query({"after": cursor})
            headers["Link"] = f'<{following}>; rel="next"'
            if not page.receipts:
                headers["Retry-After"] = _WAIT
        lines = msgspec.json.Encoder().encode_lines(_shown(page.receipts, principal(request)))
        return web.Response(body=lines, content_type=NDJSON, headers=headers)

    async def _find(self, request: web.Request) -> web.Response:
        content_type(request, JSON)
        text = await Body(request.content, self._limits, hashed=False).whole(self._limits.free)
        try:
            wanted = msgspec.json.decode(text, type=Wanted).deliveries
        except (ValueError, RecursionError) as error:
            raise undecoded(error, text, Wanted) from None
        caller = principal(request)
        found = await self._receipts.deliveries(wanted, caller.sees)
        receipts = _shown([found[delivery_id] for delivery_id in dict.fromkeys(wanted) if delivery_id in found], caller)
        return json_response(Found(receipts, [delivery_id for delivery_id in wanted if delivery_id not in found]))

    async def _delivery(self, request: web.Request) -> web.Response:
        delivery_id, caller = request.match_info["id"], principal(request)
        receipt = (await self._receipts.deliveries([delivery_id], caller.sees)).get(delivery_id)
        if receipt is None:
            raise Refused(404, _NO_DELIVERY)
        return json_response(_shown([receipt], caller)[0])

    async def _dead_tokens(self, request: web.Request) -> web.Response:
        app, caller = request.query.get("app"), principal(request)
        name = "" if app is None else caller.full(app)
        if app is None or name not in self._apps:
            known = [caller.shown(each) for each in self._apps if caller.sees(each)]
            missing = "must be given" if app is None else f"is not configured; {suggestion(app, known)}"
            raise Refused(400, f"The query's app {missing}.")
        after, limit = page_bounds(request, self._limits, self._cursors)
        dead = await self._receipts.invalid_tokens(name, after, limit)
        return json_response(DeadTokens(dead.tokens, self._cursors.write(caller.tenant, dead.cursor)))


def page_bounds(request: web.Request, limits: Limits, cursors: Cursors | None = None) -> tuple[int, int]:
    """The query's `after` and `limit`; `cursors` if it is a list that all tenants share."""
    after = request.query.get("after", "0")
    if not _CURSOR.fullmatch(after):
        raise Refused(400, "The query's after must be a cursor that a former page gave.")
    limit = request.query.get("limit", str(limits.page))
    if not _LIMIT.fullmatch(limit) or int(limit) > limits.most:
        raise Refused(400, f"The query's limit must be a number from 1 to {limits.most}.")
    position = int(after) if cursors is None else cursors.read(principal(request).tenant, int(after))
    return position, int(limit)


def _shown(receipts: list[Receipt], caller: Principal) -> list[Receipt]:
    """Receipts with their apps as the caller calls them."""
    if all(caller.shown(app) == app for app in {receipt.app for receipt in receipts}):
        return receipts
    return [msgspec.structs.replace(receipt, app=caller.shown(receipt.app)) for receipt in receipts]


def json_response(document: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=JSON)
