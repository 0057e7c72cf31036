"""The live keys, as a worker knows them: a look-up is one hash and one dictionary, and never waits for the disk.

A key that was made elsewhere is good at once, because who comes with an unknown one has the file looked at again; that
is done at most every `GAP` seconds, whatever number of wrong keys come. One that was revoked elsewhere is good for
`INTERVAL` seconds at most.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from gateway.access import keys
from gateway.access.keys import ApiKey, digest
from gateway.access.principal import Principal
from gateway.queue.base import QueueError
from gateway.queue.database import Database

INTERVAL = 0.5
GAP = 0.1
NOTED = 60.0
"""Seconds between two times that last uses are stored."""

_LOG = structlog.get_logger()


class Keyring:
    """One worker's."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._live: dict[bytes, tuple[ApiKey, Principal]] = {}
        self._revision = -1
        self._used: dict[str, float] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked = float("-inf")

    async def holder(self, secret: str) -> Principal | None:
        """Who comes with this key; None: it is no good.

        Raises:
            QueueError: the file cannot be looked at.
        """
        hashed = digest(secret)
        found = self._live.get(hashed)
        if found is None:
            await self._look_again()
            found = self._live.get(hashed)
            if found is None:
                return None
        key, principal = found
        now = self._clock()
        if not (hmac.compare_digest(key.hash, hashed) and key.live(now)):
            return None
        self._used[key.id] = now
        return principal

    async def keep_up(self) -> None:
        """Follow what others make and revoke, and store last uses, until cancelled."""
        noted = self._loop.time()
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
                if self._loop.time() - noted >= NOTED:
                    noted = self._loop.time()
                    await self.note_use()
            except QueueError as error:
                # What is known stays good: a file that cannot be read takes no jobs either.
                _LOG.warning("keys.not_followed", reason=str(error))

    async def look(self) -> None:
        """Bring the ring up to what the file says."""
        revision = await self._database.read(keys.revision)
        if revision == self._revision:
            return
        live = await self._database.read(lambda db: keys.live_keys(db, self._clock()))
        self._live = {key.hash: (key, key.principal()) for key in live}
        self._revision = revision

    async def note_use(self) -> None:
        """Store when keys were last used."""
        used, self._used = self._used, {}
        if used:
            await self._database.write(lambda db: keys.note_use(db, used.items()), patient=True)

    async def close(self) -> None:
        """Store the last uses once more, if there is room for them."""
        with suppress(QueueError):
            await self.note_use()

    async def _look_again(self) -> None:
        """`look`, one for all that wait for it, and not before `GAP` seconds after the last."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look_later())
        await asyncio.shield(self._looking)

    async def _look_later(self) -> None:
        await asyncio.sleep(max(0.0, self._looked + GAP - self._loop.time()))
        self._looked = self._loop.time()
        self._looking = None  # who comes from now on may have a key that this look is too early for
        await self.look()
