"""Rotates in what appears in the folders of credentials. Every worker looks; the first one carries it out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from gateway.audit.log import GATEWAY
from gateway.credentials import directory
from gateway.credentials.desk import Desk
from gateway.credentials.records import Refused, Source, State
from gateway.observe.health import Readiness
from gateway.queue.base import QueueError
from providers import PROVIDERS
from providers.base import Material, ProviderSettings

log = structlog.get_logger()

PATIENCE = 30.0
"""Seconds until a credential whose service could not be asked is tried again."""


class Watch:
    """Looks at the folders that blocks name."""

    def __init__(self, blocks: Mapping[tuple[str, str], ProviderSettings], desk: Desk, readiness: Readiness) -> None:
        self._folders = {
            key: Path(block.credential_directory)
            for key, block in blocks.items()
            if block.credential_directory is not None
        }
        self._desk = desk
        self._readiness = readiness
        self._seen: dict[tuple[str, str], tuple[object, ...]] = {}
        self._again: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while self._folders:
            for (app, provider), folder in self._folders.items():
                await self._look(app, provider, folder)
            await asyncio.sleep(directory.POLL)

    async def _look(self, app: str, provider: str, folder: Path) -> None:
        key, now = (app, provider), time.monotonic()
        seen = await asyncio.to_thread(directory.signature, folder)
        if seen == self._seen.get(key) and now < self._again.get(key, float("inf")):
            return
        self._seen[key] = seen
        self._again.pop(key, None)
        part = f"credential folder {app}/{provider}"
        try:
            material = await asyncio.to_thread(directory.material, folder, PROVIDERS[provider].parts)
            trouble = await self._take(app, provider, material)
        except (ValueError, Refused, QueueError) as error:
            trouble = str(error)
            self._again[key] = now + PATIENCE
        if trouble:
            log.warning("credential.not_rotated", app=app, provider=provider, reason=trouble)
            self._readiness.report(part, False, f"what is in {folder} was not rotated in: {trouble}")
        else:
            self._readiness.forget(part)

    async def _take(self, app: str, provider: str, material: Material) -> str:
        """Rotate it in, unless that was done; what is wrong with it."""
        found = await self._desk.known(app, provider, material)
        if found is None:
            found = await self._desk.add(app, provider, material, GATEWAY, Source.DIRECTORY)
        if found.state == State.STAGED and found.source == Source.DIRECTORY:
            found = await self._desk.rotate(found.number, GATEWAY)
        return found.trouble if found.state == State.BROKEN else ""
