"""The live keys, as a worker knows them: a look-up never waits for the disk.

What a caller with a good key sent is remembered as it came, until any key is made or revoked: a dictionary knows it
again in a microsecond, where a hash by way of OpenSSL takes fifteen in a request, a twentieth of what taking a one-time
code costs. So secrets of good keys are in this process's memory, as they are in every request.

A key that was made elsewhere is good at once, because who comes with an unknown one has the file looked at again; that
is done at most every `GAP` seconds, whatever number of wrong keys come. One that was revoked elsewhere is good for
`INTERVAL` seconds at most.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from gateway.access import keys
from gateway.access.keys import ApiKey, digest
from gateway.access.principal import Principal
from gateway.beat import beat
from gateway.queue.base import QueueError
from gateway.queue.database import Database

INTERVAL = 0.5
GAP = 0.1
REMEMBERED = 4096
"""Fields; one of a good key may be spelt in several ways."""
NOTED = 60.0
"""Seconds between two times that last uses are stored."""

_LOG = structlog.get_logger()


class Keyring:
    """One worker's. `declared` are good whatever the file says."""

    def __init__(
        self, database: Database, clock: Callable[[], float] = time.time, declared: Iterable[ApiKey] = ()
    ) -> None:
        self._database = database
        self._declared = tuple(declared)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._live: dict[bytes, tuple[ApiKey, Principal]] = {}
        self._remembered: dict[str, tuple[ApiKey, Principal]] = {}
        self._revision = -1
        self._used: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._looked = float("-inf")

    def remembered(self, field: str) -> Principal | None:
        """Whose key was good in an `Authorization` field like this; None: nobody knows."""
        found = self._remembered.get(field)
        if found is None:
            return None
        key, principal = found
        if key.expires is not None and not key.live(self._clock()):
            return None
        self._used.add(key.id)
        return principal

    async def holder(self, secret: str, field: str | None = None) -> Principal | None:
        """Who comes with this key; None: it is no good. `field` is what it came in, to be `remembered`.

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
        if not (hmac.compare_digest(key.hash, hashed) and key.live(self._clock())):
            return None
        self._used.add(key.id)
        if field is not None and len(self._remembered) < REMEMBERED:
            self._remembered[field] = key, principal
        return principal

    async def keep_up(self) -> None:
        """Follow what others make and revoke, and store last uses, until cancelled."""
        noted = self._loop.time()
        while True:
            await beat(INTERVAL)
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
        self._live = {key.hash: (key, key.principal()) for key in (*live, *self._declared)}
        self._remembered = {}
        self._revision = revision

    async def note_use(self) -> None:
        """Store when keys were last used."""
        used, self._used, now = self._used, set(), self._clock()
        if used:
            await self._database.write(lambda db: keys.note_use(db, used, now), patient=True)

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
