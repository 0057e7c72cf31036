"""The writer groups what waits, and a failure concerns those who caused it."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from gateway.queue import schema, writer
from gateway.queue.base import QueueError, QueueFull
from gateway.queue.database import Database
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.queue.contract import Opener, accept
from tests.gateway.queue.samples import NOW, batch, room, stored


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = Database(path)
    await database.open()
    await database.write(lambda db: db.execute("CREATE TABLE t (x)"))
    yield database
    await database.close()


async def rows(database: Database) -> list[int]:
    return await database.read(lambda db: [x for (x,) in db.execute("SELECT x FROM t ORDER BY rowid")])


def insert(value: int) -> writer.Operation[int]:
    def operation(db: apsw.Connection) -> int:
        db.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    return operation


@contextmanager
def held_up(database: Database) -> Iterator[asyncio.Future[bool]]:
    """Keep the writer busy, so that what is handed in meanwhile is one group."""
    release = threading.Event()
    yield database.write(lambda db: release.wait(10))
    release.set()


async def test_one_commit_for_all_that_wait(database: Database) -> None:
    """Operations that wait together become visible together, in order."""
    commits: list[int] = []
    await database.write(lambda db: db.set_commit_hook(lambda: bool(commits.append(1))))
    commits.clear()
    with held_up(database) as first:
        waiting = [database.write(insert(value)) for value in range(50)]
        assert await rows(database) == []
    assert await asyncio.gather(*waiting) == list(range(50))
    await first
    assert await rows(database) == list(range(50))
    assert len(commits) <= 2


async def test_what_is_patient_shares_a_commit(database: Database) -> None:
    """It waits for another's, before which it runs; and goes alone if none comes."""
    commits: list[int] = []
    await database.write(lambda db: db.set_commit_hook(lambda: bool(commits.append(1))))
    commits.clear()
    patient = [database.write(insert(value), patient=True) for value in range(2)]
    await database.write(insert(2))
    assert all(future.done() for future in patient)
    assert (await rows(database), len(commits)) == ([0, 1, 2], 1)
    assert await database.write(insert(3), patient=True) == 3
    assert await rows(database) == [0, 1, 2, 3]


async def test_what_is_eager_does_not_wait_for_what_is_heavy(database: Database) -> None:
    """A one-time code is stored before the lease of a campaign that was asked for earlier; the rest keeps its order."""
    seen: list[int] = []
    with held_up(database) as busy:
        heavy = database.write(insert(1), heavy=True)
        others = [database.write(insert(2)), database.write(insert(3), first=lambda _: seen.append(heavy.done()))]
    await busy
    assert await asyncio.gather(heavy, *others) == [1, 2, 3]
    assert (await rows(database), seen) == ([2, 3, 1], [False])


async def test_what_is_heavy_shares_a_commit_with_what_can_wait(database: Database) -> None:
    """A campaign that is alone pays for no flush more."""
    commits: list[int] = []
    await database.write(lambda db: db.set_commit_hook(lambda: bool(commits.append(1))))
    commits.clear()
    with held_up(database) as busy:
        waiting = [database.write(insert(1), heavy=True), database.write(insert(2))]
    await busy
    await asyncio.gather(*waiting)
    assert await rows(database) == [1, 2]
    assert len(commits) == 1  # nothing was changed by what held them up


async def test_closing_waits_for_what_is_patient(path: Path, database: Database) -> None:
    """Nothing that was handed in is left out."""
    other = Database(path)
    await other.open()
    last = other.write(insert(1), patient=True)
    await other.close()
    assert await last == 1
    assert await rows(database) == [1]


async def test_a_refusal_undoes_one(database: Database) -> None:
    """An operation that raises is undone alone, and its caller gets the exception."""

    def refuse(db: apsw.Connection) -> None:
        insert(99)(db)
        raise QueueError("no")

    with held_up(database):
        waiting = [database.write(insert(1)), database.write(refuse), database.write(insert(2))]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert (results[0], results[2]) == (1, 2)
    assert isinstance(results[1], QueueError)
    assert await rows(database) == [1, 2]


async def test_a_refusal_before_any_change_costs_the_others_nothing(database: Database) -> None:
    """A full queue refuses many, and who shares their transaction is not begun anew for that."""
    runs: list[int] = []

    def refuse(db: apsw.Connection) -> None:
        raise QueueError("no")

    def count(db: apsw.Connection) -> None:
        runs.append(1)
        insert(1)(db)

    with held_up(database):
        waiting = [database.write(count), database.write(refuse)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[1], QueueError)
    assert (await rows(database), len(runs)) == ([1], 1)


async def test_several_refusals_in_one_transaction(database: Database) -> None:
    """Each is undone alone, and each caller gets its own exception."""

    def refuse(value: int) -> writer.Operation[None]:
        def operation(db: apsw.Connection) -> None:
            insert(value)(db)
            raise QueueError(str(value))

        return operation

    with held_up(database):
        waiting = [database.write(each) for each in (refuse(97), insert(1), refuse(98), insert(2), refuse(99))]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(each) for each in results] == ["97", "1", "98", "2", "99"]
    assert await rows(database) == [1, 2]


async def test_an_sqlite_error_undoes_one(database: Database) -> None:
    """An operation that SQLite refuses does not take its neighbours with it."""
    with held_up(database):
        waiting = [
            database.write(insert(1)),
            database.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)")),
            database.write(insert(2)),
        ]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert (results[0], results[2]) == (1, 2)
    assert isinstance(results[1], QueueError)
    assert await rows(database) == [1, 2]


async def test_a_cancelled_caller_changes_nothing_for_the_others(database: Database) -> None:
    """Cancelling who waits does not take the operation back, nor stop the writer."""
    with held_up(database):
        first, second = database.write(insert(1)), database.write(insert(2))
        first.cancel()
    assert await second == 2
    assert await rows(database) == [1, 2]


async def test_closing_finishes(path: Path) -> None:
    """What was handed in before the close is stored; what comes later is refused."""
    database = Database(path)
    await database.open()
    await database.write(lambda db: db.execute("CREATE TABLE t (x)"))
    waiting = [database.write(insert(value)) for value in range(10)]
    await database.close()
    assert await asyncio.gather(*waiting) == list(range(10))
    with pytest.raises(QueueError, match="closed"):
        database.write(insert(11))
    with pytest.raises(QueueError, match="closed"):
        await rows(database)
    await database.close()


async def test_the_log_is_bounded(database: Database, path: Path) -> None:
    """The write-ahead log is copied into the file as it grows."""
    for _ in range(40):
        await database.write(lambda db: db.execute("INSERT INTO t VALUES (zeroblob(2000000))"))
    assert path.with_name("queue.db-wal").stat().st_size < 2 * writer.CHECKPOINT_PAGES * schema.PAGE_SIZE


async def test_another_process_may_hold_the_file(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for another's transaction is bounded, and then the caller may try again."""
    await database.write(lambda db: (db.set_busy_timeout(20), db.setlk_timeout(20, 0)))
    other = schema.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(QueueFull, match="another process"):
        await database.write(insert(1))
    other.execute("COMMIT")
    other.close()
    assert await database.write(insert(2)) == 2
    assert await rows(database) == [2]


async def test_a_full_disk(queue: SqliteQueue) -> None:
    """Without room nothing is half stored, what needs little goes on, and with room all goes on."""
    await stored(queue, batch(500), batch(500))
    leases = await queue.lease(room(), NOW)
    pages = await queue.database.write(lambda db: db.pragma("page_count"))
    await queue.database.write(lambda db: db.pragma("max_page_count", pages))
    with held_up(queue.database):
        storing = asyncio.ensure_future(stored(queue, batch(1000)))
        ending = asyncio.ensure_future(queue.complete(accept(leases[0]), [], NOW))
        await asyncio.sleep(0)  # both are handed in, and share a transaction that the first one sinks
    with pytest.raises(QueueFull, match="disk is full"):
        await storing
    await ending
    assert (await queue.depth())[:2] == (1, 500)
    await queue.database.write(lambda db: db.pragma("max_page_count", 0xFFFFFFFE))
    await stored(queue, batch(1000))
    assert (await queue.depth())[:2] == (2, 1500)
    assert await queue.database.read(lambda db: db.pragma("integrity_check")) == "ok"


async def test_a_disk_that_refuses(queue: SqliteQueue) -> None:
    """A write that the file system refuses is reported, and the queue goes on when it is possible again."""
    await stored(queue, batch(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        for _ in range(3):
            with pytest.raises(QueueFull, match="disk refused"):
                await stored(queue, batch(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (await queue.depth())[:2] == (1, 1)
    await stored(queue, batch(1))
    assert len(await queue.lease(room(), NOW)) == 2
    assert await queue.database.read(lambda db: db.pragma("integrity_check")) == "ok"


async def test_a_full_disk_at_the_end_and_at_the_start(open_queue: Opener) -> None:
    """A worker can end and another begin without room; what was held comes back when there is some."""
    await open_queue("sibling")
    first = await open_queue("first")
    await stored(first, batch(3))
    (lease,) = await first.lease(room(), NOW)
    lease.progress.states[0] = 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        await first.close()
        second = await open_queue("second")
        assert (
            await second.database.read(lambda db: db.execute("SELECT count(*) FROM batches WHERE state = 2").get) == 1
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    await second.maintain(NOW)
    (again,) = await second.lease(room(), NOW)
    assert list(again.progress.states) == [1, 0, 0]


async def test_what_follows_a_commit_comes_first_and_its_failure_concerns_nobody_else(database: Database) -> None:
    """A lease that is handed over must not keep the others of its transaction from being told."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))

    def fail(future: asyncio.Future[int]) -> None:
        told.append(f"first of {future.result()}")
        raise RuntimeError

    with held_up(database) as busy:
        failing = database.write(insert(1), first=fail)
        failing.add_done_callback(lambda _: told.append("then those who wait"))
        other = database.write(insert(2))
    await busy
    assert [await failing, await other] == [1, 2]
    await asyncio.sleep(0)
    assert told == ["first of 1", "what follows a commit failed", "then those who wait"]


async def test_statements_are_compiled_once(queue: SqliteQueue) -> None:
    """What a batch costs in the writer's thread is running its statements, whatever their parameters are."""
    compiled: list[int] = []

    def look(action: int, *_: str | None) -> int:
        compiled.append(action)
        return apsw.SQLITE_OK

    await queue.database.write(lambda db: setattr(db, "authorizer", look))
    for number in range(4):
        if number == 2:
            compiled.clear()
        await stored(queue, batch(1))
        (lease,) = await queue.lease(room(), NOW)
        await queue.complete(accept(lease), [], NOW)
    assert compiled == []
