"""Every row that is changed, removed, added in between or moved is found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.log import GATEWAY, Actor, AuditLog, append, verify
from gateway.queue import schema
from gateway.queue.database import Database
from gateway.queue.rows import every

ACME = Actor("acme", "key_1 (campaigns)")
COLUMNS = ("number", "at", "tenant", "actor", "action", "subject", "detail", "hash")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "carillon.db")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def log(database: Database) -> AuditLog:
    instants = iter(range(1000, 2000))
    return AuditLog(database, lambda: float(next(instants)))


async def test_rows_are_read_as_they_were_written(log: AuditLog) -> None:
    """By tenant, oldest first, without as many as were read."""
    await log.record(ACME, "key.create", "key_2", {"scopes": ["send"], "name": "söndag"})
    await log.record(GATEWAY, "settings.load", "carillon.toml")
    await log.record(ACME, "job.cancel", "job_1")
    created, cancelled = await log.entries(0, 10, "acme")
    assert (created.number, created.at, created.actor, created.action) == (1, 1000.0, ACME.name, "key.create")
    assert created.detail == {"scopes": ["send"], "name": "söndag"}
    assert (cancelled.number, cancelled.subject, cancelled.detail) == (3, "job_1", {})
    assert [entry.number for entry in await log.entries(1, 10, "acme")] == [3]
    assert [entry.number for entry in await log.entries(0, 1, "acme")] == [1]
    assert await log.entries(0, 10, "globex") == []


async def test_a_whole_chain_is_whole(log: AuditLog, database: Database) -> None:
    """Also the empty one; a hash that was noted is still on it."""
    empty = await database.read(verify)
    assert (empty.entries, empty.fault) == (0, "")
    heads = []
    for number in range(5):
        await log.record(ACME, "job.cancel", f"job_{number}")
        heads.append((await database.read(verify)).head)
    for head in (empty.head, *heads):
        verdict = await database.read(lambda db, head=head: verify(db, head))
        assert (verdict.entries, verdict.head, verdict.fault) == (5, heads[-1], "")
    assert "not on the chain" in (await database.read(lambda db: verify(db, "00" * 31 + "01"))).fault


async def test_the_file_itself_refuses_changes(log: AuditLog, database: Database) -> None:
    """By accident nothing is lost: only who means it gets past the triggers."""
    await log.record(ACME, "job.cancel", "job_1")
    for statement in ("UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="refused an operation"):
            await database.write(lambda db, statement=statement: db.execute(statement))
    assert (await database.read(verify)).fault == ""


ROWS = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.floats(0, 2e9)), min_size=1, max_size=8)


def chain(rows: list[tuple[str, str, float]]) -> apsw.Connection:
    """A database with these rows and without what protects them."""
    db = apsw.Connection(":memory:")
    for step in schema.MIGRATIONS:
        db.execute(step)
    for actor, subject, at in rows:
        append(db, at, Actor("acme", actor), "job.cancel", subject, {"n": 1})
    db.execute("DROP TRIGGER audit_stays; DROP TRIGGER audit_keeps")
    return db


@given(rows=ROWS, data=st.data())
def test_any_change_is_found(rows: list[tuple[str, str, float]], data: st.DataObject) -> None:
    """Whatever is done to one row, or two, and nothing else."""
    db = chain(rows)
    assert verify(db).fault == ""
    number = data.draw(st.integers(1, len(rows)))
    match data.draw(st.sampled_from(["change", "remove", "cut", "swap", "add"])):
        case "change":
            _change(db, number, data)
        case "remove":
            db.execute("DELETE FROM audit WHERE number = ?", (number,))
        case "cut":
            db.execute("DELETE FROM audit WHERE number >= ?", (number,))
        case "swap" if len(rows) > 1:
            other = number % len(rows) + 1
            db.execute("UPDATE audit SET number = -1 WHERE number = ?", (number,))
            db.execute("UPDATE audit SET number = ? WHERE number = ?", (number, other))
            db.execute("UPDATE audit SET number = ? WHERE number = -1", (other,))
        case _:
            row = every(db, "SELECT * FROM audit WHERE number = ?", (number,))[0]
            db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (len(rows) + 1, *row[1:]))
    assert verify(db).fault != ""


def _change(db: apsw.Connection, number: int, data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(COLUMNS[1:]))
    former: Any = every(db, f"SELECT {column} FROM audit WHERE number = ?", (number,))[0][0]
    match former:
        case bytes():
            changed: Any = data.draw(st.binary(min_size=32, max_size=32).filter(lambda value: value != former))
        case float():
            changed = data.draw(st.floats(0, 2e9).filter(lambda value: value != former))
        case _:
            changed = data.draw(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda v: v != former))
    db.execute(f"UPDATE audit SET {column} = ? WHERE number = ?", (changed, number))


async def test_two_processes_continue_one_chain(tmp_path: Path) -> None:
    """Workers and the command line write to the same file."""
    path = tmp_path / "carillon.db"
    one, two = Database(path), Database(path)
    await one.open()
    await two.open()
    for number in range(6):
        await AuditLog((one, two)[number % 2]).record(ACME, "job.cancel", f"job_{number}")
    verdict = await one.read(verify)
    assert (verdict.entries, verdict.fault) == (6, "")
    await one.close()
    await two.close()
