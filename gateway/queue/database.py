"""The embedded queue's file as a process sees it: one writer, one reader, one schema."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import apsw

from gateway.queue import schema
from gateway.queue.base import QueueError
from gateway.queue.turn import Turnstile
from gateway.queue.writer import Operation, Writer, sentence

T = TypeVar("T")


class Database:
    """Operations in, durable results out. Reads have a connection of their own and never wait for a commit."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Without `durable` a commit outlives the process and not a power cut."""
        self.path = path
        self._durable = durable
        self._writer: Writer | None = None
        self._reader: apsw.Connection | None = None
        self._watch: apsw.Connection | None = None
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="queue-reader")

    async def open(self) -> None:
        """Open or create the file.

        Raises:
            QueueError: the file is not ours, from a newer program, damaged, or out of reach.
        """
        writing, self._reader, self._watch, turnstile = await asyncio.to_thread(self._connect)
        self._writer = Writer(writing, turnstile)

    def _connect(self) -> tuple[apsw.Connection, apsw.Connection, apsw.Connection, Turnstile]:
        with ExitStack() as undo:
            writing = schema.connect(self.path)
            undo.callback(writing.close)
            if not self._durable:
                writing.execute("PRAGMA synchronous = OFF")
            reading = schema.connect(self.path)
            undo.callback(reading.close)
            try:
                schema.migrate(writing, self.path)
                reading.execute("PRAGMA query_only = ON")
                reading.execute("PRAGMA cache_size = -4096")
                watching = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)  # never waits for a lock
                undo.callback(watching.close)
                turnstile = Turnstile(self.path.with_name(f"{self.path.name}-turn"), schema.BUSY_MILLISECONDS / 1000)
            except apsw.Error as error:
                raise sentence(error) from error
            except OSError as error:
                raise QueueError(f"{error.filename} cannot be created ({error.strerror})") from error
            undo.pop_all()
        return writing, reading, watching, turnstile

    async def close(self) -> None:
        """Finish what was handed in, then let go of the file."""
        if self._writer is None or self._reader is None or self._watch is None:
            self._reading.shutdown()
            return
        writer, reader = self._writer, self._reader
        self._watch.close()
        self._reader = self._watch = None
        await asyncio.get_running_loop().run_in_executor(self._reading, reader.close)
        await writer.close()
        self._reading.shutdown()

    def write(
        self,
        operation: Operation[T],
        *,
        patient: bool = False,
        heavy: bool = False,
        first: Callable[[asyncio.Future[T]], None] | None = None,
    ) -> asyncio.Future[T]:
        """Run an operation in the next transaction; it is durable when the future is done.

        Cancelling the future does not take the operation back. Operations run in the order of the calls, but that one
        with `first` may overtake those that are `heavy`. A `patient` one waits some milliseconds for others to share
        their transaction. `first` is called as soon as the future is done, before whoever waits for it.
        """
        if self._writer is None:
            raise QueueError("the queue is closed")
        return self._writer.submit(operation, patient=patient, heavy=heavy, first=first)

    @property
    def failing(self) -> bool:
        """Whether the disk refused what was last to be stored. Only another attempt shows that it is well again."""
        return self._writer is not None and self._writer.failing

    @property
    def revision(self) -> int | None:
        """A number that changes with each commit of any process, 10 us from the shared memory; None where that cannot
        be read now."""
        if self._watch is None:
            raise QueueError("the queue is closed")
        try:
            return int(self._watch.pragma("data_version"))
        except apsw.Error:
            return None

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run a query in one snapshot of what is committed."""
        if self._reader is None:
            raise QueueError("the queue is closed")
        return await asyncio.get_running_loop().run_in_executor(self._reading, _in_snapshot, self._reader, query)


def _in_snapshot(connection: apsw.Connection, query: Callable[[apsw.Connection], T]) -> T:
    try:
        connection.execute("BEGIN")
        try:
            return query(connection)
        finally:
            connection.execute("COMMIT")
    except apsw.Error as error:
        raise sentence(error) from error
