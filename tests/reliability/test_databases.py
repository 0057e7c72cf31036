"""The gateway is started on a file that it cannot use: it says what that is and what to do, and leaves it as it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.queue import schema
from tests.reliability.conftest import Evidence

ROW = "R25"


def ours(path: Path) -> None:
    schema.prepare(path)


def newer(path: Path) -> None:
    ours(path)
    with closing(apsw.Connection(str(path))) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")


def foreign(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE TABLE theirs (x)")


def truncated(path: Path) -> None:
    ours(path)
    os.truncate(path, path.stat().st_size // 2)


def damaged(path: Path) -> None:
    ours(path)
    with closing(apsw.Connection(str(path))) as db:
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs'").get
    with path.open("r+b") as file:
        file.seek((page - 1) * schema.PAGE_SIZE)
        file.write(b"\xff" * 64)


def letter(path: Path) -> None:
    path.write_text("Dear reader, this is no database at all. " * 200)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "what", "remedy"),
    [
        (newer, "was written by a newer one", "Run that one"),
        (foreign, "another program's database", "a file of its own"),
        (truncated, "damaged", "restore it from a backup"),
        (damaged, "damaged", "restore it from a backup"),
        (letter, "is not an SQLite database", "point the queue to another file"),
        (folder, "cannot be opened", "must exist and be writable"),
    ],
    ids=["newer", "foreign", "truncated", "damaged", "letter", "folder"],
)
def test_a_file_that_cannot_be_used_is_refused(
    make: Callable[[Path], None],
    what: str,
    remedy: str,
    tmp_path: Path,
    evidence: Evidence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once and once, however many workers were to share it, with the path and without a traceback."""
    path = tmp_path / "carillon.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    monkeypatch.setenv("CARILLON_QUEUE__PATH", str(path))
    began = time.monotonic()
    done = CliRunner().invoke(app, ["serve", "--workers", "2"])
    seconds = time.monotonic() - began
    assert done.exit_code == 2
    assert what in done.stderr
    assert remedy in done.stderr
    assert done.stderr.count(str(path)) == 1
    assert "Traceback" not in done.stderr
    assert (path.read_bytes() if path.is_file() else b"") == before
    done_to_it = f"a gateway of two workers is started on a file that is {make.__name__}"
    evidence.record(done_to_it, {"refused_after_seconds": round(seconds, 3)})
