"""A worker's part in rotating credentials: it follows what the database says, and says what it sees.

All workers are equal. Each looks once a second at the number of the newest step, and at once when a service refuses a
credential here; each adds its answers to a canary's counts; whoever sees first that a canary has to go back, or may go
further, carries the step out, and the others follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from functools import partial

import apsw
import structlog

from gateway.audit.log import GATEWAY
from gateway.credentials import records, steps
from gateway.credentials.canary import Judgement, judge
from gateway.credentials.health import Health
from gateway.credentials.opener import Opener
from gateway.credentials.records import Counts, Record, Source, State
from gateway.credentials.store import CredentialStore, Line, Signing
from gateway.credentials.vault import Vault, VaultError
from gateway.queue.base import QueueError
from gateway.queue.database import Database
from gateway.settings import Credentials
from providers import PROVIDERS
from providers.base import ProviderSettings

POLL = 1.0
"""Seconds between looks."""

log = structlog.get_logger()


class Rotation:
    """One worker's."""

    def __init__(
        self,
        database: Database,
        store: CredentialStore,
        blocks: Mapping[tuple[str, str], ProviderSettings],
        vault: Vault,
        health: Health,
        settings: Credentials,
        worker: str,
        follow: Callable[[], None],
    ) -> None:
        """`follow` is called when others sign."""
        self._database = database
        self._store = store
        self._blocks = blocks
        self._opener = Opener(database, vault)
        self._vault = vault
        self._health = health
        self._settings = settings
        self._worker = worker
        self._follow = follow
        self._revision = -1
        self._records: list[Record] = []
        self._signings: dict[int, Signing] = {}
        self._given = {key: line.first for key in blocks if (line := store.line(*key)) is not None}
        self._alarm = asyncio.Event()
        store.alarm = self.hasten

    def hasten(self) -> None:
        """Look at once."""
        self._alarm.set()

    async def start(self) -> None:
        """Let the database know of the settings' credentials, and follow it.

        Raises:
            QueueError: the file cannot be used.
        """
        now = time.time()
        for (app, provider), signing in self._given.items():
            credential, material = signing.credential, self._store.folders.get((app, provider))
            secret = self._vault.seal(material, f"{app}/{provider}") if material and self._vault.usable else None
            source = Source.SETTINGS if material is None else Source.DIRECTORY
            found = Record(
                0, app, provider, source, credential.fingerprint, credential.key_id, credential.expires_at,
                State.ACTIVE, 0.0, "", None, None, now, None, now, GATEWAY.name,
            )  # fmt: skip
            await self._database.write(partial(steps.adopt, found=found, secret=secret, now=now))
        await self._look()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._alarm.wait()
            self._alarm.clear()
            try:
                await self._tell()
                await self._look()
            except QueueError as error:
                log.warning("credentials.not_followed", reason=str(error))

    # What the database says

    async def _look(self) -> None:
        newest = await self._database.read(records.revision)
        if newest != self._revision:
            kept = ", ".join(f"'{state}'" for state in (State.CANARY, State.ACTIVE, State.OVERLAP))
            before, self._records = (
                self._records,
                await self._database.read(lambda db: records.find(db, f"state IN ({kept})")),
            )
            await self._load()
            self._begin_counting({record.line for record in {*before}.symmetric_difference(self._records)})
            self._revision = newest
            for key in self._blocks:
                self._line(key)
            self._follow()
        self._health.look(self._records, time.time())

    async def _load(self) -> None:
        """Signings of what is at work, each made once, so that what it minted stays."""
        at_work = {}
        for record in self._records:
            signing = self._signings.get(record.number) or await self._open(record)
            if signing is not None:
                signing.share = record.share
                signing.promoted = record.promoted or 0.0
                at_work[record.number] = signing
        self._signings = at_work

    def _begin_counting(self, changed: Container[tuple[str, str]]) -> None:
        """What counts of an (app, provider) is since the last step of any of its credentials."""
        for record in self._records:
            if record.line in changed and record.number in self._signings:
                self._signings[record.number].tally.begin()

    async def _open(self, record: Record) -> Signing | None:
        given, block = self._given.get(record.line), self._blocks.get(record.line)
        if given is None or block is None:
            return None
        if given.credential.fingerprint == record.fingerprint:
            given.number = record.number
            return given
        try:
            credential = await self._opener.open(record, block)
        except (VaultError, ValueError) as error:
            self._health.unusable(record, str(error))
            log.error("credential.unusable", credential=record.number, app=record.app, provider=record.provider)
            return None
        name = f"{record.owner} {record.fingerprint}"
        return Signing(name, credential, block.ca_file, number=record.number, alarm=self.hasten)

    def _line(self, key: tuple[str, str]) -> None:
        """Who signs for an (app, provider); what was there stays where the database has nothing usable."""
        usable = [record for record in self._records if record.line == key and record.number in self._signings]
        by_state = {record.state: self._signings[record.number] for record in usable}
        first = by_state.get(State.ACTIVE)
        if first is None:
            return
        if PROVIDERS[key[1]].single_origin:
            self._store.follow(*key, Line(first, by_state.get(State.CANARY) or by_state.get(State.OVERLAP)))
            return
        # Targets are bound to the credential that they were made with: those that say nothing, to the oldest.
        pairs = sorted(usable, key=lambda record: record.promoted or 0.0)
        signings = [self._signings[record.number] for record in pairs]
        self._store.follow(*key, Line(signings[0], None, {each.credential.fingerprint: each for each in signings}))

    # What this worker sees

    async def _tell(self) -> None:
        now = time.time()
        for record in self._records:
            signing = self._signings.get(record.number)
            if signing is None:
                continue
            if signing.tally.refused:
                await self._refused(record, signing, now)
            elif record.state == State.CANARY:
                await self._judge(record, signing, now)
            elif record.state == State.ACTIVE and record.trouble and signing.tally.accepted:
                await self._step(partial(steps.recovered, number=record.number, now=now))
        if any(record.until is not None and record.until <= now for record in self._records):
            await self._step(lambda db: steps.retire_former(db, now))

    async def _refused(self, record: Record, signing: Signing, now: float) -> None:
        reason = signing.tally.reason
        # Where each origin judges for itself, its route is held and says so; others may take the same key.
        if record.state != State.OVERLAP and PROVIDERS[record.provider].single_origin:
            log.error("credential.refused", credential=record.number, app=record.app, provider=record.provider)
            await self._step(lambda db: steps.refused(db, record.number, reason, now))
        signing.tally.heard()

    async def _judge(self, record: Record, signing: Signing, now: float) -> None:
        line, own = self._store.line(*record.line), signing.tally
        if line is None:
            return
        of = line.first.tally
        mine = Counts(own.accepted, own.failed, of.accepted, of.failed)
        overlap, window = self._settings.overlap, self._settings.canary_window
        active = next((each for each in self._records if each.number == line.first.number), None)

        def decide(db: apsw.Connection) -> None:
            records.count(db, record.number, self._worker, record.since, mine)
            counts = records.counted(db, record.number, record.since)
            if active is not None and active.trouble:
                steps.promote(db, record.number, overlap, GATEWAY, now)
                return
            match judge(record, counts, now - record.since, window):
                case Judgement.FURTHER:
                    steps.further(db, record, overlap, now)
                case Judgement.BACK:
                    reason = f"{counts.failed} of its {counts.accepted + counts.failed} answers were failures"
                    steps.back(db, record.number, reason, GATEWAY, now)
                case Judgement.STAY:
                    pass

        await self._step(decide)

    async def _step(self, step: Callable[[apsw.Connection], object]) -> None:
        with suppress(records.Refused):  # another worker was faster
            await self._database.write(step)
