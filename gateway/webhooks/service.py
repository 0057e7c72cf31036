"""All endpoints of a machine. One worker tells them; any of them does what operators ask for."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from gateway.egress.guard import Guard
from gateway.egress.web import Web
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.queue.database import Database
from gateway.queue.lock import try_lock
from gateway.receipts.events import structured, trial_event
from gateway.receipts.store import ReceiptStore
from gateway.webhooks.courier import Answer, Courier
from gateway.webhooks.settings import Webhook
from gateway.webhooks.store import Backlog, Endpoint, WebhookStore

TAKE_OVER = 2.0
"""Seconds between a worker's looks whether it is its turn."""


class Standing(NamedTuple):
    """How an endpoint stands."""

    endpoint: Endpoint
    backlog: Backlog


class Webhooks:
    """`endpoints` is app -> name -> settings; `turn` is the file whose lock says which worker tells them."""

    def __init__(
        self,
        endpoints: Mapping[str, Mapping[str, Webhook]],
        database: Database,
        receipts: ReceiptStore,
        metrics: Metrics,
        readiness: Readiness,
        turn: Path,
    ) -> None:
        self._endpoints = endpoints
        self._store = WebhookStore(database)
        self._receipts = receipts
        self._metrics = metrics
        self._readiness = readiness
        self._turn = turn
        self._couriers: dict[tuple[str, str], Courier] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        """Note from where on endpoints are told; before the first job of this run ends."""
        for app, named in self._endpoints.items():
            for name, settings in named.items():
                guard = None if settings.private else Guard()
                web = await stack.enter_async_context(Web(guard, timeout=settings.timeout))
                self._couriers[app, name] = Courier(
                    await self._store.register(app, name),
                    settings,
                    self._store,
                    self._receipts,
                    web,
                    self._metrics.webhook(app, name),
                    self._reporter(app, name),
                    random.Random(),
                )

    def _reporter(self, app: str, name: str) -> Callable[[str], None]:
        part = f"webhook {app}/{name}"

        def report(disabled: str) -> None:
            if disabled:
                self._readiness.report(part, False, f"disabled: {disabled}; enable it with `carillon webhooks enable`")
            else:
                self._readiness.forget(part)

        return report

    async def run(self) -> None:
        """Tell them, when it is this worker's turn; until cancelled."""
        if not self._couriers:
            return
        lock = os.open(self._turn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not try_lock(lock):
                await asyncio.sleep(TAKE_OVER)
            async with asyncio.TaskGroup() as group:
                for courier in self._couriers.values():
                    group.create_task(courier.run())
        finally:
            os.close(lock)

    # What operators ask for. All raise KeyError for what is not configured.

    async def list(self, sees: Callable[[str], bool]) -> Iterable[Standing]:
        """How those endpoints stand whose apps are seen."""
        return [await self.standing(app, name) for app, name in sorted(self._couriers) if sees(app)]

    async def standing(self, app: str, name: str) -> Standing:
        number = self._couriers[app, name].number
        return Standing(await self._store.endpoint(number), await self._store.backlog(number))

    async def enable(self, app: str, name: str) -> None:
        """Send again to an endpoint that was disabled, from where it was."""
        await self._store.enable(self._couriers[app, name].number, time.time())

    async def replay(self, app: str, name: str, since: float | None) -> int:
        """As `WebhookStore.replay`."""
        return await self._store.replay(self._couriers[app, name].number, since, time.time())

    async def test(self, app: str, name: str) -> Answer:
        """Send a message that tells of nothing, now, also to one that is disabled."""
        message_id = f"msg_{uuid.uuid4().hex}"
        body = structured(trial_event(app, message_id, time.time()))
        return await self._couriers[app, name].post(message_id, body)
