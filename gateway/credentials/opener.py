"""Where a row's secret is found again."""

from __future__ import annotations

from gateway.credentials import directory, records
from gateway.credentials.records import Record, Source
from gateway.credentials.vault import Vault, VaultError
from gateway.queue.database import Database
from providers import PROVIDERS
from providers.base import Credential, ProviderSettings


class Opener:
    """Makes credentials of rows."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def open(self, record: Record, block: ProviderSettings) -> Credential:
        """Load a credential from the database, or from its folder if that still holds it.

        Raises:
            VaultError, ValueError: it is nowhere, or cannot be used.
        """
        provider = PROVIDERS[record.provider]
        secret = await self._database.read(lambda db: records.sealed(db, record.number))
        if secret is not None:
            return provider.credential(block, self._vault.open(secret, record.owner))
        if record.source == Source.DIRECTORY:
            credential = provider.credential(block, directory.of(block, provider.parts))
            if credential.fingerprint == record.fingerprint:
                return credential
        raise VaultError(f"credential {record.number} of {record.owner} has no secret any more: add it again")
