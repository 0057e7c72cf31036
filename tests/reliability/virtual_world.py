"""A gateway without its HTTP side, on a clock that jumps: the real queue on a real file, the real dispatch and client.

The queue's thread is left out: its operations run on the loop, those that wait together in one transaction. Commits
take their time, and what a notification costs the processor is time that passes, so that whoever is in another's way is
seen to be.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.ledger import Balance, Ledger
from gateway.credentials.store import CredentialStore
from gateway.dispatch.dispatcher import Dispatcher
from gateway.model import Job, Lane, Route, new_batch_id, new_job_id
from gateway.observe.health import Readiness
from gateway.queue import database
from gateway.queue.base import NewBatch
from gateway.queue.rows import every
from gateway.queue.sqlite import SqliteQueue
from gateway.queue.writer import Operation, T, Writer, _Done, _resolve, _Waiting
from gateway.receipts.store import ReceiptStore
from gateway.settings import Settings
from providers.base import Message, Rendered, Rows
from providers.stub.request import StubPlan
from tests.gateway.dispatch.scripted import Silent
from tests.gateway.virtual import EPOCH, Answer, Behaviour, Fault, Service, virtual_loop, wall

COMMIT = 0.002
OPERATION = 0.00005
"""Seconds of the queue's thread."""


class LoopWriter(Writer):
    """A writer without its thread: a commit takes `COMMIT` and what its operations take, and the next waits for it."""

    def __init__(self, connection: Any, turnstile: Any) -> None:
        connection.execute(
            "PRAGMA synchronous = OFF"
        )  # nobody pulls a plug here, and each commit would wait for a disk
        super().__init__(connection, turnstile)
        self._group: list[_Waiting] = []
        self._busy = False

    def _run(self) -> None:
        """The thread has nothing to do."""

    def submit(
        self,
        operation: Operation[T],
        *,
        patient: bool = False,
        heavy: bool = False,
        first: Callable[[asyncio.Future[T]], None] | None = None,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = virtual_loop().create_future()
        self._group.append(_Waiting(operation, future, first, heavy))
        if not self._busy:
            self._busy = True
            virtual_loop().call_soon(self._round)
        return future

    def _round(self) -> None:
        group, self._group = self._group, []
        self._busy = bool(group)
        if group:
            virtual_loop().call_later(COMMIT + OPERATION * len(group), self._told, self._commit(group))

    def _told(self, done: list[_Done]) -> None:
        _resolve(done)
        self._round()

    async def close(self) -> None:
        while self._busy:
            await asyncio.sleep(COMMIT)
        self._connection.close()
        self._turnstile.close()


def install(monkeypatch: pytest.MonkeyPatch, *, processor: float = 6e-6) -> None:
    """Put the queue and the wall clock on the virtual loop, on which a notification takes `processor` seconds."""
    wall(monkeypatch)
    monkeypatch.setattr(database, "Writer", LoopWriter)
    render = StubPlan.render

    def rendering(plan: StubPlan, rows: Rows, now: float) -> Rendered:
        virtual_loop().now += processor * len(rows.ids)
        return render(plan, rows, now)

    monkeypatch.setattr(StubPlan, "render", rendering)


def _at_once(executor: Any, function: Any, *arguments: Any) -> asyncio.Future[Any]:
    """`run_in_executor` without a thread, whose time would pass beside the loop's."""
    future = virtual_loop().create_future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


class VirtualWorld:
    """Apps with a service each at `https://APP.example`; jobs go straight into the queue."""

    def __init__(
        self, path: Path, apps: Mapping[str, Service], *, weights: Mapping[str, float] | None = None, **dispatch: Any
    ) -> None:
        loop = virtual_loop()
        loop.run_in_executor = _at_once  # type: ignore[method-assign, assignment]
        blocks = {
            app: {"stub": {"key": "k", "endpoint": f"https://{app}.example"}, "weight": (weights or {}).get(app, 1)}
            for app in apps
        }
        self.settings = Settings(apps=blocks, dispatch=dispatch)  # type: ignore[arg-type]
        self.services = {app: loop.serve(f"{app}.example", service) for app, service in apps.items()}
        self.queue = SqliteQueue(path, owner="virtual", uptime=loop.time)
        self.dispatcher = Dispatcher(
            self.settings,
            self.queue,
            CredentialStore(self.settings.blocks()),
            Silent(),  # type: ignore[arg-type]
            Readiness("queue"),
            jitter=random.Random(1),
        )
        self.ledger = Ledger()
        self._recipients = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        await self.queue.open()
        running = asyncio.create_task(self.dispatcher.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
            await self.dispatcher.drain(1.0)
            await self.queue.close()

    async def submit(
        self, app: str, count: int, *, lane: Lane = Lane.PROMOTIONAL, key: str | None = None, tokens: str = ""
    ) -> str:
        """A job of so many recipients, durable when its id is returned; `tokens` begins the targets."""
        now = time.time()
        job = Job(
            id=new_job_id(),
            app=app,
            lane=lane,
            message=Message(title="hello"),
            ordering_key=key,
            created_at=now,
            resend_unknown=True,
        )
        batches = [
            self._batch(Route(app, "stub"), start, min(1000, count - start), tokens) for start in range(0, count, 1000)
        ]
        await self.queue.submit(job, None, batches, b"{}")
        self.dispatcher.wake()
        return job.id

    def _batch(self, route: Route, start: int, count: int, tokens: str) -> NewBatch:
        batch_id = new_batch_id(EPOCH)
        numbers = range(self._recipients, self._recipients + count)
        self._recipients += count
        names = [f"{tokens}{number}" for number in numbers]
        self.ledger.accepted(dict(zip(names, names, strict=True)))
        targets = "\n".join(names).encode()
        return NewBatch(batch_id, route, count, targets, (targets, b"\n" * (count - 1)))

    async def settled(self, seconds: float) -> None:
        """Wait until every job has ended.

        Raises:
            TimeoutError: they have not, after so many seconds.
        """
        async with asyncio.timeout(seconds):
            while (await self.queue.depth()).deliveries:
                await asyncio.sleep(0.1)

    async def balance(self) -> Balance:
        """Of what was submitted, what the services accepted, and what the receipts say."""
        for service in self.services.values():
            assert isinstance(service, Recording)
            self.ledger.taken(service.accepted)
        store, after, more = ReceiptStore(self.queue.database), 0, True
        while more:
            page = await store.feed(after, 10_000)
            for receipt in page.receipts:
                self.ledger.receipt({"recipient": receipt.recipient, "id": receipt.id, "state": receipt.state})
            more, after = page.cursor != after, page.cursor
        return self.ledger.balance()

    async def waits(self, app: str, *, seconds: float) -> list[float]:
        """From each of an app's jobs' acceptance to its last receipt, in order of length, when all have ended.

        Raises:
            TimeoutError: they have not, after so many seconds.
        """
        sql = "SELECT finished - created FROM jobs WHERE app = ? ORDER BY 1"
        async with asyncio.timeout(seconds):
            while True:
                rows = await self.queue.database.read(lambda db: every(db, sql, (app,)))
                if all(wait is not None for (wait,) in rows):
                    return [wait for (wait,) in rows]
                await asyncio.sleep(0.1)


class Recording(Service):
    """Remembers which targets it was asked for, in order, and which of them it accepted how often."""

    def __init__(self, behave: Behaviour | None = None, *, streams: int = 100, latency: float = 0.01) -> None:
        super().__init__(self._record, streams=streams, latency=latency)
        self._inner = behave or (lambda target: Answer())
        self.asked: list[str] = []
        self.accepted: Counter[str] = Counter()

    def _record(self, path: str) -> Answer | Fault:
        target = path.removeprefix("/push/")
        behaviour = self._inner(target)
        self.asked.append(target)
        self.accepted[target] += isinstance(behaviour, Answer) and behaviour.status == 200
        return behaviour
