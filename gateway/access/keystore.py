"""Keys as they are stored, for who makes, lists and revokes them through a running gateway."""

from __future__ import annotations

import time

from gateway.access import keys
from gateway.access.keys import ApiKey, NewKey, Wish
from gateway.audit.log import Actor
from gateway.queue.database import Database


class KeyStore:
    """All methods raise `KeyRefused` where `keys` says so, and `QueueError` when the file cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, actor: Actor, wish: Wish) -> NewKey:
        """Make a key; it is good everywhere when this returns."""
        return await self._database.write(lambda db: keys.create(db, time.time(), actor, wish))

    async def revoke(self, actor: Actor, key_id: str, tenant: str) -> ApiKey:
        """End a key of a tenant; workers notice within `keyring.INTERVAL` seconds."""
        return await self._database.write(lambda db: keys.revoke(db, time.time(), actor, key_id, tenant))

    async def of_tenant(self, tenant: str) -> list[ApiKey]:
        """All keys of a tenant, the oldest first."""
        return await self._database.read(lambda db: keys.all_keys(db, tenant))
