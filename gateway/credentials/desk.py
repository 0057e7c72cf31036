"""Where an operator's wishes about credentials are carried out: the one place behind the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import apsw

from gateway.audit.log import Actor
from gateway.credentials import records, steps
from gateway.credentials.opener import Opener
from gateway.credentials.proving import prove
from gateway.credentials.records import Record, Refused, Source, State, Step
from gateway.credentials.vault import Vault, VaultError
from gateway.queue.database import Database
from gateway.settings import Credentials
from providers import PROVIDERS
from providers.base import Credential, Material, ProviderSettings, Verdict

KNOWN = 2.0
"""Seconds in which every worker has looked at the database."""


class Desk:
    """Adds, probes, rotates and retires. Every method raises `Refused` with what is possible instead."""

    def __init__(
        self,
        database: Database,
        blocks: Mapping[tuple[str, str], ProviderSettings],
        given: Callable[[str, str], Credential | None],
        vault: Vault,
        settings: Credentials,
        changed: Callable[[], None],
    ) -> None:
        """`given` are the settings' credentials; `changed` is called after a step, so that this worker follows."""
        self._database = database
        self._blocks = blocks
        self._given = given
        self._vault = vault
        self._opener = Opener(database, vault)
        self._settings = settings
        self._changed = changed

    async def credentials(self) -> list[Record]:
        """All that are kept, and the last hundred that are not."""
        newest = "SELECT number FROM credentials ORDER BY added DESC LIMIT 100"
        kept = f"state != 'retired' OR number IN ({newest})"
        return await self._database.read(lambda db: records.find(db, kept))

    async def get(self, number: int) -> Record:
        return await self._database.read(lambda db: records.get(db, number))

    async def history(self, after: int, limit: int, sees: Callable[[str], bool]) -> list[Step]:
        return await self._database.read(lambda db: records.history(db, after, limit, sees))

    async def add(
        self, app: str, provider: str, material: Material, actor: Actor, source: Source = Source.UPLOAD
    ) -> Record:
        """Check material and store it, staged."""
        block = self._blocks.get((app, provider))
        if block is None:
            raise Refused(f"no [apps.{app}.{provider}] is configured")
        try:
            credential = PROVIDERS[provider].credential(block, material)
            # What is in a folder stays there, and has to be stored only to outlive its successor's arrival.
            stored = source is Source.UPLOAD or self._vault.usable
            secret = self._vault.seal(material, f"{app}/{provider}") if stored else None
        except (ValueError, VaultError) as error:
            raise Refused(str(error)) from None
        now = time.time()
        if credential.expires_at is not None and credential.expires_at <= now:
            raise Refused("it has expired: have a new one issued")
        new = Record(
            0, app, provider, source, credential.fingerprint, credential.key_id, credential.expires_at,
            State.STAGED, 0.0, "", None, None, now, None, now, actor.name,
        )  # fmt: skip
        return await self._write(lambda db: records.insert(db, new, secret, actor, now))

    async def known(self, app: str, provider: str, material: Material) -> Record | None:
        """The row of this material, if there is one that is not retired.

        Raises:
            ValueError: the material is no credential of the app.
        """
        fingerprint = PROVIDERS[provider].credential(self._blocks[app, provider], material).fingerprint
        condition = "app = ? AND provider = ? AND fingerprint = ? AND state != 'retired'"
        found = await self._database.read(lambda db: records.find(db, condition, (app, provider, fingerprint)))
        return found[-1] if found else None

    async def probe(self, number: int, actor: Actor) -> Record:
        """Ask its service whether it takes it, without any device noticing."""
        record, now = await self.get(number), time.time()
        block = self._blocks.get(record.line)
        if block is None:
            raise Refused(f"no [apps.{record.app}.{record.provider}] is configured any more")
        credential = await self._credential(record)
        outcome = await prove(PROVIDERS[record.provider], block, credential)
        match outcome.verdict:
            case Verdict.ACCEPTED if record.state in (State.STAGED, State.BROKEN):
                return await self._write(lambda db: steps.proven(db, number, outcome.reason, actor, now))
            case Verdict.ACCEPTED:
                return record
            case Verdict.CREDENTIAL if record.state in (State.STAGED, State.BROKEN):
                return await self._write(lambda db: steps.refuted(db, number, outcome.reason, actor, now))
            case Verdict.CREDENTIAL:
                raise Refused(f"credential {number} is {record.state}, and its service refuses it: {outcome.reason}")
            case _:
                raise Refused(f"its service could not be asked ({outcome.reason}): try again")

    async def _credential(self, record: Record) -> Credential:
        given = self._given(*record.line)
        if given is not None and given.fingerprint == record.fingerprint:
            return given
        try:
            return await self._opener.open(record, self._blocks[record.line])
        except (VaultError, ValueError) as error:
            raise Refused(str(error)) from None

    async def rotate(self, number: int, actor: Actor) -> Record:
        """Probe it, unless that was done, and let it sign a share and then all; where none can be tried, all."""
        record = await self.get(number)
        if record.state == State.BROKEN or (record.state == State.STAGED and record.proven is None):
            record = await self.probe(number, actor)
        if record.state == State.BROKEN:
            return record
        if PROVIDERS[record.provider].single_origin:
            return await self._write(lambda db: steps.canary(db, number, actor, time.time()))
        return await self.promote(number, actor)

    async def promote(self, number: int, actor: Actor) -> Record:
        """Let it sign everything now."""
        record = await self.get(number)
        if PROVIDERS[record.provider].single_origin:
            overlap = self._settings.overlap
            return await self._write(lambda db: steps.promote(db, number, overlap, actor, time.time()))
        promoted = await self._write(lambda db: steps.promote(db, number, None, actor, time.time()))
        await asyncio.sleep(KNOWN)  # a worker that has not looked yet would refuse subscriptions that name the key
        return promoted

    async def rollback(self, number: int, actor: Actor) -> Record:
        """Take a canary, or the active one, out."""
        return await self._write(lambda db: steps.back(db, number, "", actor, time.time()))

    async def retire(self, number: int, actor: Actor) -> Record:
        """Forget its secret."""
        return await self._write(lambda db: steps.retire(db, number, actor, time.time()))

    async def _write(self, step: Callable[[apsw.Connection], Any]) -> Record:
        record: Record = await self._database.write(step)
        self._changed()
        return record
