"""Jobs that upstream puts into Kafka itself: the same documents as over HTTP, one in a record. See docs/kafka.md.

A record that no try can make a job of is a dead letter with its reason; what only has to wait, waits, and with it the
partition. A job's id follows from the record's place, so a record that is read twice is one job.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from typing import Any, Protocol

import structlog

from gateway.access.names import DEFAULT
from gateway.access.principal import Principal, Scope
from gateway.ingest.body import Body
from gateway.ingest.intake import Answer, Intake, Origin
from gateway.ingest.limits import Limits
from gateway.ingest.media import JSON
from gateway.ingest.problem import Refused
from gateway.queue.base import QueueError

PAUSE = (0.5, 2.0)
"""Seconds until what could not be stored is tried again."""

_KEY = re.compile(r"[!-~]{1,255}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

log = structlog.get_logger()


class Record(Protocol):
    """What is needed of aiokafka's `ConsumerRecord`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds."""
    value: bytes | None
    headers: Any


class Exits(Protocol):
    """Where is told what became of records. Both raise `QueueError` while that cannot be stored."""

    async def accepted(self, record: Record, job_id: str, answer: bytes) -> None:
        """It is a job; `answer` is what is said over HTTP."""

    async def dead_letter(self, record: Record, reason: str) -> None:
        """It is none and will not be one."""


class _Bad(Exception):
    """A record that is no job, and why."""


class JobRecords:
    """Takes records one by one."""

    def __init__(self, intake: Intake, limits: Limits, exits: Exits) -> None:
        self._intake = intake
        self._limits = limits
        self._exits = exits

    async def take(self, record: Record) -> None:
        """Return when the record is a stored job, or a stored dead letter."""
        while True:
            try:
                answer = await self._submit(record)
                await self._exits.accepted(record, answer.job_id, answer.body)
            except _Bad as bad:
                await self._bury(record, str(bad))
            except Refused as refused:
                if refused.status in (409, 429, 503):
                    await asyncio.sleep(random.uniform(*PAUSE))
                    continue
                await self._bury(record, refused.sentence)
            except QueueError as error:
                log.warning("kafka.job_waits", reason=str(error))
                await asyncio.sleep(random.uniform(*PAUSE))
                continue
            except Exception as error:  # a poisonous one must not stop those behind it
                log.exception("kafka.job_failed", partition=record.partition, offset=record.offset)
                await self._bury(record, f"the gateway failed at it: {type(error).__name__}")
            return

    async def _submit(self, record: Record) -> Answer:
        headers = {name: value for name, value in record.headers if value is not None}
        kind = headers.get("content-type", JSON.encode()).decode("latin-1").partition(";")[0].strip().lower()
        if kind != JSON:
            raise _Bad(f"the header content-type says {kind!r}, and a record holds a job as {JSON}")
        if not record.value:
            raise _Bad("the record is empty")
        if len(record.value) > self._limits.body:
            raise _Bad(f"a job has at most {self._limits.body:,} bytes, and this one {len(record.value):,}")
        key = _word(headers, "idempotency-key", _KEY, "1 to 255 visible ASCII characters")
        tenant = _word(headers, "tenant", _TENANT, "the name of a tenant") or DEFAULT
        caller = Principal(tenant, f"kafka:{record.topic}", frozenset([Scope.SEND]))
        body = Body(_Whole(record.value), self._limits, hashed=key is not None)
        with self._intake.upload() as share:
            return await self._intake.document(body, share, key, caller, _origin(record))

    async def _bury(self, record: Record, reason: str) -> None:
        log.warning("kafka.dead_letter", partition=record.partition, offset=record.offset)
        while True:
            try:
                await self._exits.dead_letter(record, reason)
            except QueueError:
                await asyncio.sleep(random.uniform(*PAUSE))
            else:
                return


class _Whole:
    """A body that is here already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_nowait(self) -> bytes:
        content, self._content = self._content, b""
        return content

    def at_eof(self) -> bool:
        return not self._content

    async def readany(self) -> bytes:
        return self.read_nowait()


def _word(headers: dict[str, bytes], name: str, rule: re.Pattern[str], wanted: str) -> str | None:
    if name not in headers:
        return None
    value = headers[name].decode("latin-1")
    if not rule.fullmatch(value):
        raise _Bad(f"the header {name} is not {wanted}")
    return value


def _origin(record: Record) -> Origin:
    place = f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp}"
    return Origin("job_" + hashlib.blake2b(place.encode(), digest_size=16).hexdigest(), record.timestamp / 1000)
