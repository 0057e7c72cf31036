"""What the database knows of credentials: rows, their states, and the steps between them.

    staged ──probe──> staged (proven) ──rotate──> canary ──> active ──> overlap ──> retired
       │                                             │          │          │
       └────────────> broken <───────────────────────┴──────────┘ <────────┘ (back to active)

Every step is one transaction that names the state it starts from, so that of several workers which see the same
trouble one carries it out, and it is in the audit log with it. Workers notice by the newest step's number.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import apsw
import msgspec

from gateway.audit.log import Actor, Detail, append
from gateway.queue.rows import every, first, only


class State(StrEnum):
    """What a credential is there for."""

    STAGED = "staged"  #: stored and checked; signs nothing
    CANARY = "canary"  #: signs a share
    ACTIVE = "active"  #: signs
    OVERLAP = "overlap"  #: signed before the active one, and is kept to go back to
    RETIRED = "retired"  #: its secret is forgotten
    BROKEN = "broken"  #: its service, or a check, refused it


class Source(StrEnum):
    """Where its secret is."""

    SETTINGS = "settings"
    UPLOAD = "upload"
    DIRECTORY = "directory"


KEPT = (State.STAGED, State.CANARY, State.ACTIVE, State.OVERLAP, State.BROKEN)


class Record(msgspec.Struct, frozen=True):
    """A row. Its secret is not in it."""

    number: int
    app: str
    provider: str
    source: str
    fingerprint: str
    key_id: str
    expires: float | None
    state: str
    share: float
    """Of the app's traffic; a canary's."""
    trouble: str
    """What the service, or a check, has against it; of an active one: it signs and is refused."""
    proven: float | None
    """UNIX seconds of the probe that it passed."""
    promoted: float | None
    since: float
    """Of its state, or of its share."""
    until: float | None
    """When an overlap ends; None for never."""
    added: float
    actor: str

    @property
    def line(self) -> tuple[str, str]:
        return self.app, self.provider

    @property
    def owner(self) -> str:
        return f"{self.app}/{self.provider}"


class Step(msgspec.Struct, frozen=True):
    """What happened to a credential."""

    revision: int
    credential: int
    app: str
    provider: str
    at: float
    actor: str
    step: str
    state: str
    """After it."""
    detail: str


class Refused(Exception):
    """A step that is not possible from where the credential is; says what is."""


SMALLEST = 100_000
"""Of the numbers that credentials get."""

_COLUMNS = ", ".join(Record.__struct_fields__)


def look(path: Path) -> list[Record]:
    """The rows at work in a database that others may be using; nothing is changed. Empty where there is none."""
    if not path.exists():
        return []
    try:
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            return find(db, "state IN ('active', 'canary', 'overlap')")
    except apsw.Error:
        return []  # what is wrong with the file is for others to say


def revision(db: apsw.Connection) -> int:
    """The newest step."""
    (number,) = only(db, "SELECT coalesce(max(revision), 0) FROM credential_steps")
    return int(number)


def find(db: apsw.Connection, condition: str = "TRUE", bindings: tuple[Any, ...] = ()) -> list[Record]:
    """Rows by age."""
    sql = f"SELECT {_COLUMNS} FROM credentials WHERE {condition} ORDER BY added, number"
    return [Record(*row) for row in every(db, sql, bindings)]


def get(db: apsw.Connection, number: int) -> Record:
    """One row.

    Raises:
        Refused: there is none.
    """
    found = find(db, "number = ?", (number,))
    if not found:
        raise Refused(f"there is no credential {number}")
    return found[0]


def one(db: apsw.Connection, line: tuple[str, str], state: State) -> Record | None:
    """The newest of an (app, provider) in a state."""
    found = find(db, "app = ? AND provider = ? AND state = ?", (*line, state))
    return found[-1] if found else None


def sealed(db: apsw.Connection, number: int) -> bytes | None:
    """The secret, as the vault sealed it."""
    row = first(db, "SELECT sealed FROM credentials WHERE number = ?", (number,))
    return None if row is None else row[0]


def history(db: apsw.Connection, after: int, limit: int, sees: Callable[[str], bool]) -> list[Step]:
    """Steps of the apps that are seen, oldest first, without the first `after` of them."""
    apps = [app for (app,) in every(db, "SELECT DISTINCT app FROM credential_steps") if sees(app)]
    fields, marks = ", ".join(Step.__struct_fields__), ", ".join("?" * len(apps))
    sql = f"SELECT {fields} FROM credential_steps WHERE app IN ({marks}) ORDER BY revision LIMIT ? OFFSET ?"
    return [Step(*row) for row in every(db, sql, (*apps, limit, after))]


def insert(db: apsw.Connection, new: Record, secret: bytes | None, actor: Actor, now: float) -> Record:
    """Store a credential.

    Raises:
        Refused: the same is there already.
    """
    twins = find(db, "app = ? AND provider = ? AND fingerprint = ?", (*new.line, new.fingerprint))
    for twin in twins:
        if twin.state in KEPT and twin.state != State.BROKEN:
            raise Refused(f"this is credential {twin.number} already, which is {twin.state}")
    # Not counted up: a number says nothing of how many others there are.
    number = SMALLEST + secrets.randbelow(9 * SMALLEST)
    while find(db, "number = ?", (number,)):
        number = SMALLEST + secrets.randbelow(9 * SMALLEST)
    stored = msgspec.structs.replace(new, number=number)
    marks = ", ".join("?" * (len(Record.__struct_fields__) + 1))
    db.execute(
        f"INSERT INTO credentials ({_COLUMNS}, sealed) VALUES ({marks})", (*msgspec.structs.astuple(stored), secret)
    )
    note(db, stored, "added", actor, now)
    return stored


def change(
    db: apsw.Connection, record: Record, step: str, actor: Actor, now: float, detail: str = "", **values: Any
) -> Record:
    """Move a row on, if it is still as it was seen.

    Raises:
        Refused: somebody else was faster.
    """
    assigned = ", ".join(f"{name} = ?" for name in values)
    db.execute(
        f"UPDATE credentials SET {assigned} WHERE number = ? AND state = ? AND share = ? AND trouble = ?",
        (*values.values(), record.number, record.state, record.share, record.trouble),
    )
    if not db.changes():
        raise Refused(f"credential {record.number} was changed by somebody else meanwhile: look again")
    changed = get(db, record.number)
    note(db, changed, step, actor, now, detail)
    return changed


def note(db: apsw.Connection, record: Record, step: str, actor: Actor, now: float, detail: str = "") -> None:
    """Write a step down, here and in the audit log."""
    db.execute(
        "INSERT INTO credential_steps (credential, app, provider, at, actor, step, state, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.number, *record.line, now, actor.name, step, record.state, detail),
    )
    about: Detail = {
        "credential": record.number,
        "fingerprint": record.fingerprint,
        "state": record.state,
        "why": detail,
    }
    append(db, now, actor, f"credential.{step}", record.owner, about)


class Counts(msgspec.Struct, frozen=True):
    """Answers over all workers since a canary has its share."""

    accepted: int
    failed: int
    all_accepted: int
    """By both credentials."""
    all_failed: int


def count(db: apsw.Connection, number: int, worker: str, since: float, counts: Counts) -> None:
    """A worker's part of them."""
    db.execute(
        "INSERT OR REPLACE INTO credential_counts VALUES (?, ?, ?, ?, ?, ?, ?)",
        (number, worker, since, *msgspec.structs.astuple(counts)),
    )


def counted(db: apsw.Connection, number: int, since: float) -> Counts:
    """All workers' parts."""
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in Counts.__struct_fields__)
    return Counts(
        *only(db, f"SELECT {sums} FROM credential_counts WHERE credential = ? AND since = ?", (number, since))
    )
