from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gateway.access.gate import OpenGate
from gateway.ingest.cursors import Cursors
from gateway.ingest.door import Door
from gateway.ingest.limits import Limits
from gateway.ingest.server import Ingest, application, runner
from gateway.observe.redaction import Mask
from providers.base import Provider, ProviderSettings
from providers.stub import provider as stub
from tests.gateway.fakes import (
    Counts,
    MemoryAudit,
    MemoryKeys,
    MemoryQueue,
    MemoryReceipts,
    NoCredentials,
    NoWebhooks,
    Unlimited,
)

NDJSON = {"Content-Type": "application/x-ndjson"}
MASK = Mask(bytes(32))
HEAD = {"app": "shop", "class": "promotional", "message": {"title": "Hello"}}
PROVIDERS: dict[str, Provider] = {"stub": stub}
APPS: dict[str, dict[str, ProviderSettings]] = {"shop": {"stub": stub.settings(key="k")}, "bank": {}}


def recipient(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"u{number}", "provider": "stub", "token": f"token{number}", **more}


def document(*recipients: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**HEAD, "recipients": recipients or [recipient(0)], **more}


def lines(*recipients: dict[str, Any] | bytes, head: dict[str, Any] | None = None) -> bytes:
    rows = [HEAD if head is None else head, *recipients]
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


class Gateway:
    """An ingest over real HTTP, with what it was given at hand."""

    def __init__(
        self,
        session: ClientSession,
        address: tuple[str, int],
        queue: Any,
        counts: Counts,
        door: Door,
        audit: MemoryAudit,
    ) -> None:
        self.session = session
        self.address = address
        self.door = door
        self.queue = queue
        self.counts = counts
        self.audit = audit

    async def post(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and document that a job is answered with; bytes are sent as NDJSON."""
        arguments = {"data": body, "headers": NDJSON | headers} if isinstance(body, bytes) else {"json": body}
        arguments.setdefault("headers", headers)
        async with self.session.post("/v1/jobs", **arguments) as response:
            return response.status, await response.json(content_type=None)

    @property
    def stored(self) -> list[tuple[str, ...]]:
        """The recipients' ids of each sealed batch."""
        return [
            tuple(batch.new.recipients.decode().split("\n"))
            for job in self.queue.jobs.values()
            if job.sealed
            for batch in job.batches
        ]


Serve = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts an ingest; all are stopped when the test is over."""
    running: list[tuple[ClientSession, web.AppRunner]] = []

    async def start(
        *,
        queue: Any = None,
        receipts: Any = None,
        providers: dict[str, Provider] = PROVIDERS,
        apps: dict[str, dict[str, ProviderSettings]] = APPS,
        gate: Any = None,
        allowance: Any = None,
        credentials: Any = None,
        **limits: Any,
    ) -> Gateway:
        queue = MemoryQueue() if queue is None else queue
        counts, audit = Counts(), MemoryAudit()
        ingest = Ingest(
            apps=apps,
            providers=providers,
            queue=queue,
            receipts=MemoryReceipts(queue) if receipts is None else receipts,
            meter=counts,
            credentials=credentials or NoCredentials(),
            audit=audit,
            mask=MASK,
            keys=MemoryKeys(),
            cursors=Cursors(bytes(32)),
            allowance=Unlimited() if allowance is None else allowance,
            webhooks=NoWebhooks(),
            limits=Limits(**limits),
        )
        server = runner(application(ingest.routes(), gate or OpenGate(), ingest.door))
        await server.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(server, listener).start()
        address = listener.getsockname()
        session = ClientSession(f"http://127.0.0.1:{address[1]}")
        running.append((session, server))
        return Gateway(session, address, queue, counts, ingest.door, audit)

    yield start
    for session, server in running:
        await session.close()
        await server.cleanup()


@pytest.fixture
async def gateway(serve: Serve) -> Gateway:
    return await serve()
