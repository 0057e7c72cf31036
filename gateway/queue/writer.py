"""One thread that writes: whatever waits while a commit is under way shares the next one.

An operation is a function of the connection. Its failure undoes it alone, and its caller learns of the result only
after the transaction that holds it is on the disk. It may run several times: when one of its transaction fails that has
changed something, the others are begun anew without it; and when a whole transaction is lost (a full disk), its
operations are tried once more, each in a transaction of its own, so that one that needs much room does not sink those
that need little or free some.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import apsw

from gateway.queue import schema
from gateway.queue.base import QueueError, QueueFull
from gateway.queue.turn import Turnstile

T = TypeVar("T")
Operation = Callable[[apsw.Connection], T]

CHECKPOINT_PAGES = 2048
"""16 MiB of log: long enough that most pages of work that comes and goes are copied into the file once."""

CRAMPED_PAGES = 8 * CHECKPOINT_PAGES
"""From here on the other processes are made to wait, because they never left a gap to start the log anew."""

GAP_MILLISECONDS = 50
"""How long that gap is waited for: a reader that takes longer, such as a backup, is not worth more of a pause."""


COMPANY = 0.005
"""Seconds for which what nobody waits for looks for a commit to share; a flush to the disk costs more than its work."""


class _Waiting(NamedTuple):
    operation: Operation[Any]
    future: asyncio.Future[Any]
    first: Callable[[asyncio.Future[Any]], None] | None
    heavy: bool


class _Done(NamedTuple):
    of: _Waiting
    result: Any
    error: Exception | None


def sentence(error: apsw.Error) -> QueueError:
    """An SQLite error as one that says what to do, without the values of the statement."""
    match error:
        case apsw.FullError():
            return QueueFull("the disk is full: nothing was stored. Free some room; the queue goes on by itself")
        case apsw.IOError():
            return QueueFull("the disk refused a write or read: nothing was stored. Check its room and its health")
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            return QueueFull("the queue's file is read-only: nothing was stored. Check its file system's mount")
        case apsw.BusyError() | apsw.LockedError():
            return QueueFull("another process has held the queue's file for too long: nothing was stored. Try again")
        case apsw.CorruptError() | apsw.NotADBError():
            return QueueError("the queue's file is damaged: stop the gateway and restore the file from a backup")
        case _:
            return QueueError(f"the queue's file refused an operation ({type(error).__name__})")


class Writer:
    """Runs operations on one connection, in order, in a thread of its own."""

    def __init__(self, connection: apsw.Connection, turnstile: Turnstile) -> None:
        self._connection = connection
        self._turnstile = turnstile
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._gathered: list[_Waiting] = []
        self._handing_in: asyncio.TimerHandle | None = None
        self._closed = False
        self.failing = False
        """Whether the last transaction that had something to store was refused by the disk."""
        self._log_pages = 0
        self._cramped_pages = CRAMPED_PAGES
        connection.set_wal_hook(self._note_log)
        self._thread = threading.Thread(target=self._run, name="queue-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        operation: Operation[T],
        *,
        patient: bool = False,
        heavy: bool = False,
        first: Callable[[asyncio.Future[T]], None] | None = None,
    ) -> asyncio.Future[T]:
        """Hand an operation in; the future is done when it is durable. Cancelling it does not stop the operation.

        A `patient` one goes with the next that is not, and at the latest after `COMPANY`. `first` is called as soon as
        the future is done, a round of the loop before whoever waits for it; what has it does not wait for what is
        `heavy`, unless that is under way.
        """
        if self._closed:
            raise QueueError("the queue is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._gathered.append(_Waiting(operation, future, first, heavy))
        if not patient:
            self._hand_in()
        elif self._handing_in is None:
            self._handing_in = self._loop.call_later(COMPANY, self._hand_in)
        return future

    def _hand_in(self) -> None:
        if self._handing_in is not None:
            self._handing_in.cancel()
            self._handing_in = None
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._waiting.put(gathered)

    async def close(self) -> None:
        """Finish what was handed in before, then close the connection."""
        self._closed = True
        self._hand_in()
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._take()
            for part in _transactions(group):
                done = self._commit(part)
                self._loop.call_soon_threadsafe(_resolve, done)
                self._checkpoint()
        self._connection.close()
        self._turnstile.close()

    def _take(self) -> tuple[list[_Waiting], bool]:
        group: list[_Waiting] = []
        handed_in = self._waiting.get()
        while handed_in is not None:
            group += handed_in
            try:
                handed_in = self._waiting.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Waiting]) -> list[_Done]:
        try:
            return self._transaction(group)
        except apsw.Error as error:
            self.failing = True
            self._log_pages = CHECKPOINT_PAGES  # copied into the file, the log's room can be used again
            if len(group) == 1:
                return [_Done(group[0], None, sentence(error))]
        return [done for item in group for done in self._commit([item])]

    def _transaction(self, group: list[_Waiting]) -> list[_Done]:
        """Run operations and commit them together.

        Raises:
            apsw.Error: none of them is stored.
        """
        refused: dict[int, _Done] = {}
        while (done := self._attempt(group, refused)) is None:
            pass
        return done

    def _attempt(self, group: list[_Waiting], refused: dict[int, _Done]) -> list[_Done] | None:
        """As `_transaction`, without those that were `refused`; None if there is one more of these to be left out.

        A savepoint for each operation would cost two statements, and this costs nothing where nobody is refused. Who
        is refused was so before anything was changed, as a rule, so that there is nothing to undo.
        """
        connection = self._connection
        try:
            with self._turnstile:
                connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes()
            done = []
            for position, item in enumerate(group):
                changes = connection.total_changes()
                done.append(refused.get(position) or _carry_out(item, connection))
                if done[-1].error is not None and connection.total_changes() != changes:
                    refused[position] = done[-1]
                    connection.execute("ROLLBACK")
                    return None
            connection.execute("COMMIT")
            self.failing = self.failing and connection.total_changes() == before
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return done

    def _note_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return 0

    def _checkpoint(self) -> None:
        """Copy the log into the file when it has grown, after those who waited for the commit were told."""
        if self._log_pages < CHECKPOINT_PAGES:
            return
        pages, self._log_pages = self._log_pages, 0
        try:
            if pages < self._cramped_pages:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            else:
                self._cramped_pages = pages + CRAMPED_PAGES
                self._restart_log()
                self._cramped_pages = CRAMPED_PAGES
        except apsw.Error:
            return  # the log keeps everything; the next commit tries again

    def _restart_log(self) -> None:
        connection = self._connection
        schema.be_patient(connection, GAP_MILLISECONDS)
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        finally:
            schema.be_patient(connection, schema.BUSY_MILLISECONDS)


def _transactions(group: list[_Waiting]) -> list[list[_Waiting]]:
    """What waits, by who shares a commit: all of it, but that a one-time code waits for nothing that takes long.

    To lease a campaign's batches takes 2 to 7 ms beside a busy loop. A flush more is less than that, and seldom.
    """
    if not any(item.first for item in group):
        return [group] if group else []
    parts = [[item for item in group if not item.heavy], [item for item in group if item.heavy]]
    return [part for part in parts if part]


def _carry_out(item: _Waiting, connection: apsw.Connection) -> _Done:
    try:
        return _Done(item, item.operation(connection), None)
    except apsw.Error:
        raise  # the transaction may be gone with it (SQLite rolls back by itself when the disk is full)
    except Exception as refused:  # the caller's, who is waiting for it
        return _Done(item, None, refused)


def _resolve(done: list[_Done]) -> None:
    for (_, future, first, _), result, error in done:
        if future.done():
            pass  # its caller was cancelled
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
        if first is not None:
            try:
                first(future)
            except Exception as error:  # the others of the transaction must hear all the same
                told = {"message": "what follows a commit failed", "exception": error, "future": future}
                future.get_loop().call_exception_handler(told)
