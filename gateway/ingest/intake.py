"""From a request's body to a job in the queue: answered once it is durable, gone without a trace otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import NamedTuple, Protocol

import msgspec

from gateway.access.principal import Principal
from gateway.credentials.store import Line
from gateway.ingest import submission
from gateway.ingest.answers import Accepted
from gateway.ingest.batching import Splitter
from gateway.ingest.body import OVERLONG, Body
from gateway.ingest.limits import Limits
from gateway.ingest.memory import Memory, Share
from gateway.ingest.problem import Refused, invalid, suggestion
from gateway.ingest.recipients import Refusals, decode_array, decode_lines, too_long
from gateway.ingest.submission import JobDocument, JobLine
from gateway.model import Job, Lane, derived_batch_id
from gateway.queue.base import Idempotency, NewBatch, Queue, Replay, Twin
from providers.base import Problem, Provider, ProviderSettings

Apps = Mapping[str, Mapping[str, ProviderSettings]]
"""App -> provider -> settings."""

_NOBODY = "None of the recipients can be reached, so there is no job."
_TWIN = "A request with this Idempotency-Key is being answered. Send it again after `Retry-After` seconds."
_OTHER_BODY = "This Idempotency-Key came with another body before. Use a new key for a new job."
_NO_RECIPIENTS = Problem("/recipients", "must hold at least one recipient")


class LaneMeter(Protocol):
    """Counts for one app, provider and class."""

    def recipients(self, accepted: int, refused: int) -> None:
        """A job was answered."""


class Meter(Protocol):
    """Where counts go."""

    def lane(self, app: str, provider: str, lane: Lane) -> LaneMeter:
        """The counts for one app, provider and class."""


class Answer(NamedTuple):
    """What to say with status 202."""

    job_id: str
    body: bytes
    replayed: bool
    accepted: int = 0
    """Recipients that became deliveries by this request."""


class Origin(NamedTuple):
    """A place that a job comes from, and would come from again if what became of it were lost."""

    job_id: str
    """The same each time: what is stored twice has the same ids."""
    at: float
    """UNIX seconds at which it was put there."""


class Intake:
    """Takes jobs in."""

    def __init__(
        self,
        apps: Apps,
        providers: Mapping[str, Provider],
        queue: Queue,
        meter: Meter,
        limits: Limits,
        line: Callable[[str, str], Line | None] = lambda app, provider: None,
    ) -> None:
        """`line` says who signs for an (app, provider)."""
        self._line = line
        self._apps = apps
        self._providers = providers
        self._queue = queue
        self._meter = meter
        self._limits = limits
        self._memory = Memory(limits)
        self._abandoning: set[asyncio.Task[None]] = set()

    def upload(self) -> AbstractContextManager[Share]:
        """Room for one more upload, see `Memory.upload`."""
        return self._memory.upload()

    async def document(
        self, body: Body, share: Share, key: str | None, caller: Principal, origin: Origin | None = None
    ) -> Answer:
        """A job as one JSON document; `origin` if it may come once more from the same place.

        Raises:
            Refused: whatever is wrong with it.
            QueueError: it is not stored.
        """
        text = await body.whole(self._limits.body, share)
        document = submission.read(text, JobDocument)
        if len(text) - len(memoryview(document.recipients)) > self._limits.line:
            raise Refused(413, f"A job without its recipients has at most {self._limits.line:,} bytes.")
        job, problems = self._job(document, caller, origin)
        idempotency = _idempotency(job.app, key, body.fingerprint)
        try:
            splitter = self._splitter(job, problems)
            batches = await self._split(_array(document.recipients), splitter)
            if origin is not None:
                batches = [_derived(batch, job.id, number) for number, batch in enumerate(batches)]
            answer = self._answer(job, splitter)
        except Refused:
            if idempotency is None:
                raise
            # Time and configuration go on, and a repeat gets its first answer all the same.
            async with self._begun(job, idempotency) as former:
                if former is not None:
                    return _replay(former, body.fingerprint)
                raise
        replay = _unless_twin(await self._queue.submit(job, idempotency, batches, answer))
        if replay is not None:
            return _replay(replay, body.fingerprint)
        return self._taken(job, splitter, answer)

    async def stream(self, body: Body, share: Share, key: str | None, caller: Principal) -> Answer:
        """A job's line, then its recipients' lines, stored as they come.

        Raises:
            Refused: whatever is wrong with it.
            QueueError: it is not stored.
        """
        share.hold(self._limits.stream_memory)
        async with aclosing(body.texts()) as texts:
            return await self._receive(body, texts, key, caller)

    async def _receive(self, body: Body, texts: AsyncIterator[bytes], key: str | None, caller: Principal) -> Answer:
        head, first = await _head(texts, self._limits)
        job, problems = self._job(submission.read(head, JobLine), caller)
        with self._memory.stream(job.app):
            async with self._begun(job, _idempotency(job.app, key, b"")) as former:
                if former is not None:
                    await body.drain()
                    return _replay(former, body.fingerprint)
                splitter = self._splitter(job, problems)
                last = await self._store(job, splitter, first, texts)
                answer = self._answer(job, splitter)
                await self._queue.seal(job.id, last, body.fingerprint, answer)
        return self._taken(job, splitter, answer)

    @asynccontextmanager
    async def _begun(self, job: Job, idempotency: Idempotency | None) -> AsyncIterator[Replay | None]:
        """A job open for upload, or the former answer to its key. An error in the block abandons the job."""
        former: Replay | Twin | None = None
        try:
            former = await self._queue.begin(job, idempotency)
            yield _unless_twin(former)
        except BaseException:
            if former is None:
                await self._abandon(job.id)
            raise

    async def _abandon(self, job_id: str) -> None:
        """Also while the request is being cancelled: otherwise its key would stay taken."""
        task = asyncio.ensure_future(self._queue.abandon(job_id))
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)
        await asyncio.shield(task)

    def _job(self, line: JobLine, caller: Principal, origin: Origin | None = None) -> tuple[Job, list[Problem]]:
        """The job, of an app of its caller's, and what is wrong with it by itself.

        Raises:
            Refused: 422, the app cannot be one of its caller's.
        """
        app = caller.full(line.app)
        job, problems = submission.job(line, app, time.time() if origin is None else origin.at)
        if origin is not None:
            job = msgspec.structs.replace(job, id=origin.job_id)
        if app not in self._apps:
            known = [caller.shown(each) for each in self._apps if caller.sees(each)]
            problems.append(Problem("/app", f"is not configured; {suggestion(line.app, known)}"))
        if not app:
            raise invalid(problems)
        return job, problems

    def _splitter(self, job: Job, problems: list[Problem]) -> Splitter:
        settings = self._apps.get(job.app)
        if settings is None or problems:
            raise invalid(problems)
        return Splitter(job, self._providers, settings, Refusals(self._limits.refused), self._limits, self._line)

    async def _split(self, array: bytes, splitter: Splitter) -> list[NewBatch]:
        batches: list[NewBatch] = []
        for number, slice_ in enumerate(decode_array(array, self._limits.line, splitter.refusals)):
            if number:
                await asyncio.sleep(0)
            batches += splitter.add(slice_)
        return batches + splitter.rest()

    async def _store(self, job: Job, splitter: Splitter, first: bytes, texts: AsyncIterator[bytes]) -> list[NewBatch]:
        """Put what the texts hold, but for the last batches, which are for the seal."""
        waiting: list[NewBatch] = []
        index = 0
        async for text in _chain(first, texts):
            if text == OVERLONG:
                splitter.refusals.add(index, None, too_long(self._limits.line))
                index += 1
                continue
            for slice_ in decode_lines(text, index, self._limits.line, splitter.refusals):
                waiting += splitter.add(slice_)
                index += slice_.total
                await asyncio.sleep(0)  # reading from a full buffer does not let anybody else have a turn
            if sum(map(_size, waiting)) >= self._limits.put:
                await self._queue.put(job.id, waiting)
                waiting = []
        return waiting + splitter.rest()

    def _answer(self, job: Job, splitter: Splitter) -> bytes:
        """The answer to a job whose recipients have all been looked at.

        Raises:
            Refused: none of them is left.
        """
        refusals = splitter.refusals
        accepted = splitter.accepted.total()
        if not accepted and not refusals.count:
            raise invalid([_NO_RECIPIENTS])
        if not accepted:
            raise Refused(422, _NOBODY, refused=refusals.listed(), refused_count=refusals.count)
        return msgspec.json.encode(Accepted(job.id, accepted, refusals.listed(), refusals.count))

    def _taken(self, job: Job, splitter: Splitter, answer: bytes) -> Answer:
        """The job is durable."""
        for provider in splitter.accepted.keys() | splitter.refused.keys():
            meter = self._meter.lane(job.app, provider, job.lane)
            meter.recipients(splitter.accepted[provider], splitter.refused[provider])
        return Answer(job.id, answer, replayed=False, accepted=splitter.accepted.total())


def _idempotency(app: str, key: str | None, fingerprint: bytes) -> Idempotency | None:
    return None if key is None else Idempotency(f"{app} {key}", fingerprint)


def _unless_twin(former: Replay | Twin | None) -> Replay | None:
    if isinstance(former, Twin):
        raise Refused(409, _TWIN, retry_after=1)
    return former


def _replay(former: Replay, fingerprint: bytes) -> Answer:
    if former.fingerprint != fingerprint:
        raise Refused(422, _OTHER_BODY)
    return Answer(former.job_id, former.answer, replayed=True)


def _derived(batch: NewBatch, job_id: str, number: int) -> NewBatch:
    return msgspec.structs.replace(batch, id=derived_batch_id(job_id, number))


def _array(text: msgspec.Raw) -> bytes:
    array = bytes(text)
    if not array.startswith(b"["):
        raise invalid([Problem("/recipients", "must be an array")])
    return array


async def _head(texts: AsyncIterator[bytes], limits: Limits) -> tuple[bytes, bytes]:
    """The first line that is not blank, and what came with it."""
    async for text in texts:
        if text == OVERLONG:
            raise Refused(413, f"The job's line {too_long(limits.line)}.")
        if text := text.lstrip(b" \t\r\n"):
            head, _, rest = text.partition(b"\n")
            return head, rest
    raise Refused(400, "The body is empty. Its first line is the job, and each line after it a recipient.")


async def _chain(first: bytes, texts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for text in texts:
        yield text


def _size(batch: NewBatch) -> int:
    return len(batch.recipients) + sum(map(len, batch.columns))
