"""Batches that holder after holder died with: what an operator sees of them, and can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from uuid import UUID

import msgspec
from aiohttp import web

from gateway.access.guard import Guarded, needs, principal
from gateway.access.principal import Principal, Scope
from gateway.ingest.answers import ParkedContents, ParkedDelivery, ParkedPage, ParkedReport
from gateway.ingest.cursors import Cursors
from gateway.ingest.limits import Limits
from gateway.ingest.lookup import Audit, json_response, page_bounds
from gateway.ingest.problem import Refused
from gateway.model import INDEX_DIGITS, Lane, State, delivery_prefix, split_delivery_id
from gateway.queue.base import Parked, ParkedBatch, Queue

SHOWN = 20
"""Deliveries of a batch that are looked into."""

Mask = Callable[[str], str]
"""Shows a target so that it can be told from others, and not be used."""

_NOT_PARKED = (
    "No such batch is parked. Batches are named by the id of any of their deliveries. What has a receipt keeps it: "
    "submit dead-lettered recipients as a new job."
)


class Parking:
    """The routes under `/v1/parked`."""

    def __init__(self, queue: Queue, audit: Audit, mask: Mask, cursors: Cursors, limits: Limits) -> None:
        self._queue = queue
        self._audit = audit
        self._cursors = cursors
        self._mask = mask
        self._limits = limits

    def routes(self) -> list[Guarded]:
        return needs(
            Scope.OPERATE,
            web.get("/v1/parked", self._list),
            web.get("/v1/parked/{id}", self._show),
            web.post("/v1/parked/{id}/replay", self._replay),
            web.delete("/v1/parked/{id}", self._purge),
        )

    async def _list(self, request: web.Request) -> web.Response:
        (after, limit), caller = page_bounds(request, self._limits, self._cursors), principal(request)
        parked = await self._queue.parked(after, limit, caller.sees)
        cursor = parked[-1].sequence if parked else after
        shown = [_report(each, caller) for each in parked]
        return json_response(ParkedPage(shown, self._cursors.write(caller.tenant, cursor)))

    async def _show(self, request: web.Request) -> web.Response:
        return json_response(_contents(await self._find(request), principal(request), self._mask))

    async def _replay(self, request: web.Request) -> web.Response:
        report = await self._decided(request, "parked.replay")
        if not await self._queue.replay(UUID(report.id).bytes):
            raise Refused(404, _NOT_PARKED)
        return json_response(report, status=202)

    async def _purge(self, request: web.Request) -> web.Response:
        report = await self._decided(request, "parked.purge")
        if not await self._queue.purge(UUID(report.id).bytes, time.time()):
            raise Refused(404, _NOT_PARKED)
        return json_response(report)

    async def _decided(self, request: web.Request, action: str) -> ParkedReport:
        """The batch that something is about to be done to, after it is kept who does it."""
        found, caller = await self._find(request), principal(request)
        report = _report(found.parked, caller)
        await self._audit.record(caller.actor, action, report.id, {"job": report.job, "app": report.app})
        return report

    async def _find(self, request: web.Request) -> ParkedBatch:
        try:
            batch_id, _ = split_delivery_id(request.match_info["id"])
        except ValueError:
            raise Refused(404, _NOT_PARKED) from None
        found = await self._queue.parked_batch(batch_id, principal(request).sees)
        if found is None:
            raise Refused(404, _NOT_PARKED)
        return found


def _report(parked: Parked, caller: Principal) -> ParkedReport:
    return ParkedReport(
        id=str(UUID(bytes=parked.batch_id)),
        job=parked.job_id,
        app=caller.shown(parked.route.app),
        provider=parked.route.provider,
        origin=parked.route.place,
        class_="transactional" if parked.lane is Lane.TRANSACTIONAL else "promotional",
        size=parked.size,
        crashes=parked.crashes,
        parked_at=parked.parked_at,
        reason=f"{parked.crashes} processes died, or fell silent, with it in their hands",
    )


def _contents(found: ParkedBatch, caller: Principal, mask: Mask) -> ParkedContents:
    job, targets = found.job, found.columns[0].split(b"\n")
    prefix = delivery_prefix(found.parked.batch_id)
    left = [index for index, state in enumerate(found.states) if state in (State.PENDING, State.SENT)]
    return ParkedContents(
        batch=_report(found.parked, caller),
        campaign=job.campaign,
        created_at=job.created_at,
        expires_at=job.expires_at,
        message={
            name: len(msgspec.json.encode(value))
            for name, value in msgspec.structs.asdict(job.message).items()
            if value
        },
        variables=list(job.variables),
        left=len(left),
        deliveries=[
            ParkedDelivery(
                id=prefix + INDEX_DIGITS[index].decode(),
                recipient=found.recipients[index],
                target=mask(targets[index].decode("utf-8", "replace")),
                sent=found.states[index] == State.SENT,
            )
            for index in islice(left, SHOWN)
        ],
    )
