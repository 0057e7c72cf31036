"""What the database knows of credentials: rows, their states, and the steps between them.

    staged ──probe──> staged (proven) ──rotate──> canary ──> active ──> overlap ──> retired
       │                                             │          │          │
       └────────────> broken <───────────────────────┴──────────┘ <────────┘ (back to active)

Every step is one transaction that names the state it starts from, so that of several workers which see the same
trouble one carries it out, and it is in the audit log with it. Workers notice by the newest step's number.
"""

from __future__ import annotations

from enum import StrEnum
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


_COLUMNS = ", ".join(Record.__struct_fields__)


def revision(db: apsw.Connection) -> int:
    """The newest step."""
    (number,) = only(db, "SELECT coalesce(max(revision), 0) FROM credential_steps")
    return int(number)


def find(db: apsw.Connection, condition: str = "TRUE", bindings: tuple[Any, ...] = ()) -> list[Record]:
    """Rows by age."""
    sql = f"SELECT {_COLUMNS} FROM credentials WHERE {condition} ORDER BY number"
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


def history(db: apsw.Connection, after: int, limit: int) -> list[Step]:
    """Steps, oldest first."""
    fields = ", ".join(Step.__struct_fields__)
    sql = f"SELECT {fields} FROM credential_steps WHERE revision > ? ORDER BY revision LIMIT ?"
    return [Step(*row) for row in every(db, sql, (after, limit))]


def insert(db: apsw.Connection, new: Record, secret: bytes | None, actor: Actor, now: float) -> Record:
    """Store a credential.

    Raises:
        Refused: the same is there already.
    """
    twins = find(db, "app = ? AND provider = ? AND fingerprint = ?", (*new.line, new.fingerprint))
    for twin in twins:
        if twin.state in KEPT and twin.state != State.BROKEN:
            raise Refused(f"this is credential {twin.number} already, which is {twin.state}")
    fields = [name for name in Record.__struct_fields__ if name != "number"]
    values = [getattr(new, name) for name in fields]
    marks = ", ".join("?" * (len(fields) + 1))
    db.execute(f"INSERT INTO credentials ({', '.join(fields)}, sealed) VALUES ({marks})", (*values, secret))
    stored = get(db, db.last_insert_rowid())
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
