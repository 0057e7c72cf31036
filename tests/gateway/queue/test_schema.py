"""Files that are not ours are left alone, and whoever pointed at them is told what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gateway.queue import schema
from gateway.queue.base import QueueError
from gateway.queue.database import Database
from tests.gateway.queue.contract import Opener
from tests.gateway.queue.samples import NOW, batch, room, stored


async def refusal(path: Path) -> str:
    database = Database(path)
    with pytest.raises(QueueError) as refused:
        await database.open()
    await database.close()
    return str(refused.value)


async def test_reopening(open_queue: Opener) -> None:
    """What was stored is there after the file was closed."""
    first = await open_queue("first")
    await stored(first, batch())
    await first.close()
    second = await open_queue("second")
    assert len(await second.lease(room(), NOW)) == 1


async def test_a_newer_schema_is_refused(open_queue: Opener, path: Path) -> None:
    """An older program does not touch a newer one's file."""
    queue = await open_queue("first")
    await queue.close()
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    assert "newer" in await refusal(path)


async def test_an_older_schema_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the migrations is done once, in order, and what is stored stays."""
    older = Database(path)
    await older.open()
    await older.write(lambda db: db.execute("INSERT INTO routes VALUES (7, 'shop', 'apns', '')"))
    await older.close()
    steps = (*schema.MIGRATIONS, "ALTER TABLE routes ADD COLUMN weight INTEGER NOT NULL DEFAULT 5")
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    monkeypatch.setattr(schema, "VERSION", len(steps))
    for _ in range(2):
        newer = Database(path)
        await newer.open()
        assert await newer.read(lambda db: db.execute("SELECT number, weight FROM routes").fetchall()) == [(7, 5)]
        await newer.close()


async def test_a_failed_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations are one transaction."""
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE jobs (x)"))
    await refusal(path)
    monkeypatch.undo()
    database = Database(path)
    await database.open()
    await database.close()


async def test_another_programs_database_is_refused(path: Path) -> None:
    """An SQLite file with other tables is not ours."""
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "another program" in await refusal(path)


@pytest.fixture
def letter(path: Path) -> Iterator[None]:
    content = b"not a database at all, but long enough to look at" * 100
    path.write_bytes(content)
    yield
    assert path.read_bytes() == content


@pytest.mark.usefixtures("letter")
async def test_other_files_are_refused(path: Path) -> None:
    """What is no database is said to be none, and stays as it is."""
    assert "not an SQLite database" in await refusal(path)


async def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    """The sentence names the directory as what to look at."""
    assert "directory must exist" in await refusal(tmp_path / "missing" / "queue.db")


@pytest.mark.parametrize("version", ["3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.2"])
def test_a_faulty_sqlite_is_refused(version: str) -> None:
    """Versions with the WAL-reset bug are refused."""
    with pytest.raises(QueueError, match="apsw"):
        schema.check_library(version)


@pytest.mark.parametrize("version", ["3.44.6", "3.50.7", "3.51.3", "3.53.0", "4.0.0"])
def test_a_sound_sqlite_is_taken(version: str) -> None:
    """Versions with its repair are taken."""
    schema.check_library(version)


async def test_the_promised_settings(path: Path) -> None:
    """Durability is not an option: a commit is on the disk, and nothing is mapped into memory."""
    database = Database(path)
    await database.open()
    for run in (database.read, database.write):
        got = await run(lambda db: [db.pragma(name) for name in ("journal_mode", "synchronous", "mmap_size")])
        assert got == ["wal", 2, 0]
    assert await database.read(lambda db: db.pragma("auto_vacuum")) == 2
    await database.close()


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)


async def test_a_truncated_database_is_refused(open_queue: Opener, path: Path) -> None:
    """A file that lost its end, as by a copy that broke off, is damaged, and its rest is left as it is."""
    queue = await open_queue("first")
    await stored(queue, *(batch(90) for _ in range(20)))
    await queue.close()
    os.truncate(path, 5 * schema.PAGE_SIZE + 100)
    assert "restore it from a backup" in await refusal(path)
    assert os.stat(path).st_size == 5 * schema.PAGE_SIZE + 100


@pytest.mark.parametrize("table", ["jobs", "batches", "work", "receipts", "idempotency", "sqlite_schema"])
async def test_a_damaged_database_is_refused(open_queue: Opener, path: Path, table: str) -> None:
    """Where a table begins is looked at before anything is taken in."""
    queue = await open_queue("first")
    await stored(queue, batch())
    page = await queue.database.read(
        lambda db: db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    )
    await queue.close()
    damage(path, 100 if page is None else (page - 1) * schema.PAGE_SIZE)
    assert "restore it from a backup" in await refusal(path)
