"""A worker process: the real queue, dispatcher and connections, without what surrounds them in production."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from asyncio import events
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw

from gateway.app import DRAIN_DEADLINE, _maintain
from gateway.credentials.store import CredentialStore
from gateway.dispatch.dispatcher import Dispatcher
from gateway.model import State
from gateway.observe.health import Readiness
from gateway.queue import writer
from gateway.queue.base import DeadTarget, Lease, LeaseLost, Room
from gateway.queue.sqlite import SqliteQueue
from gateway.queue.writer import Writer
from gateway.receipts.store import ReceiptStore
from gateway.settings import Settings
from tests.gateway.dispatch.scripted import Silent
from tests.simulation.machine import Process

SLOTS = 24
CLOSED = -1
"""No descriptor, so that nobody closes what has the same number by now."""


class Disk:
    """The one disk of the machine, and what can be wrong with it."""

    def __init__(self) -> None:
        self.full = False


class SteppedWriter(Writer):
    """The writer thread's work, done by the loop: what waits is committed a little later, and told of later still.

    A process that is killed between the two has committed and will never know.
    """

    disk: Disk
    rng: random.Random

    def __init__(self, connection: apsw.Connection, turnstile: Any) -> None:
        super().__init__(connection, turnstile)
        self._busy = False

    def _hand_in(self) -> None:
        super()._hand_in()
        self._next()

    def _next(self) -> None:
        if not self._busy and not self._waiting.empty():
            self._busy = True
            self._loop.call_later(self.rng.uniform(0.0, 0.01), self._step)

    def _step(self) -> None:
        if self._waiting.empty():
            return  # closed meanwhile
        group, _ = self._take()
        done = self._commit(group)
        self._loop.call_later(self.rng.uniform(0.0, 0.005), self._told, done)

    def _told(self, done: Sequence[Any]) -> None:
        writer._resolve(list(done))
        self._checkpoint()
        self._busy = False
        self._next()

    def _transaction(self, group: Any) -> Any:
        if self.disk.full:
            raise apsw.FullError("database or disk is full")
        return super()._transaction(group)


class LoopsThread:
    """Stands in for the writer's thread: its last round happens where somebody waits for its end."""

    def __init__(self, target: Any, name: str, daemon: bool) -> None:
        self._target = target

    def start(self) -> None:
        return

    def join(self) -> None:
        self._target()


THREADING = SimpleNamespace(Thread=LoopsThread)


class WatchedQueue(SqliteQueue):
    """Says when somebody takes over what another had on the wire, when progress is about to be stored, and when it
    turns out that this process lost a lease while it lived."""

    moment: Callable[[str], None]
    lost: Callable[[], None]

    async def _change(self, *args: Any, **named: Any) -> None:
        try:
            await super()._change(*args, **named)
        except LeaseLost:
            self.lost()
            raise

    async def lease(self, room: Room, now: float) -> list[Lease]:
        leased = await super().lease(room, now)
        if any(State.SENT in bytes(lease.progress.states) for lease in leased):
            self.moment("taken over")
        return leased

    async def checkpoint(self, lease: Lease, dead: Sequence[DeadTarget], now: float) -> None:
        self.moment("checkpoint")
        await super().checkpoint(lease, dead, now)


class Worker:
    """One life of a worker."""

    def __init__(
        self,
        process: Process,
        path: Path,
        settings: Settings,
        jitter: random.Random,
        ended: Callable[[Worker, BaseException | None], None],
        moment: Callable[[str, str], None],
    ) -> None:
        """`ended` is told when it has ended by itself, and of the exception if it was one; `moment` what happens."""
        self.process = process
        self.stopped = False
        """Whether it ended by itself."""
        self.ready = False
        self.queue = WatchedQueue(
            path, owner=process.name, lease_seconds=settings.queue.lease_seconds, slots=SLOTS, high_water=100_000
        )
        self.queue.moment = partial(moment, process=process.name)
        self.queue.lost = process.robbed
        self.receipts = ReceiptStore(self.queue.database)
        self._settings = settings
        self._jitter = jitter
        self._dispatcher: Dispatcher
        self._stop: asyncio.Event
        self._ended = ended
        self.spawn(self._main()).add_done_callback(self._over)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Start something in this process from outside of it."""
        former = events._get_running_loop()
        events._set_running_loop(self.process)
        try:
            return self.process.create_task(work)
        finally:
            events._set_running_loop(former)

    async def _main(self) -> None:
        """What `gateway.app.run_worker` does, in its order."""
        self._stop = asyncio.Event()
        await self.queue.open()
        try:
            await self._run()
        finally:
            await self.queue.close()

    def _over(self, main: asyncio.Task[None]) -> None:
        self.ready = False
        self.stopped = True
        if not main.cancelled():
            self._ended(self, main.exception())

    async def _run(self) -> None:
        readiness = Readiness("gateway", "queue")
        self._dispatcher = Dispatcher(
            self._settings,
            self.queue,
            CredentialStore(self._settings.blocks()),
            Silent(),  # type: ignore[arg-type]
            readiness,
            jitter=self._jitter,
        )
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._dispatcher.run()),
                tasks.create_task(_maintain(self.queue, self.receipts, self._settings, readiness)),
            ]
            self.ready = True
            await self._stop.wait()
            self.ready = False
            await self._dispatcher.drain(DRAIN_DEADLINE)
            if self.queue.database.failing:
                self.process.robbed()
            for task in running:
                task.cancel()

    def wake(self) -> None:
        """There is work."""
        self.process.call_io(self.process.time(), self._dispatcher.wake)

    def drain(self) -> None:
        """SIGTERM."""
        self.ready = False
        self.process.call_io(self.process.time(), self._stop.set)

    def kill(self) -> None:
        """kill -9: nothing of it runs again, and the kernel lets go of its files."""
        self.ready = False
        self.process.kill()
        recorder = self.queue._recorder
        if recorder is not None:
            fcntl.flock(recorder._file, fcntl.LOCK_UN)  # its map has a descriptor of its own
            os.close(recorder._file)
            recorder._file = CLOSED
        database = self.queue.database
        if database._writer is not None:
            database._writer._closed = True
            database._writer._connection.close()
            database._writer._turnstile.close()
            database._writer._turnstile._file = CLOSED
        if database._reader is not None:
            database._reader.close()

    def left_behind(self) -> list[str]:
        """Tasks that are left of one that ended by itself."""
        return [repr(task.get_coro()) for task in asyncio.all_tasks(self.process)] if self.stopped else []
