"""The steps of a rotation, each a change of the database that is possible from some states only."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from gateway.audit.log import GATEWAY, Actor
from gateway.credentials import records
from gateway.credentials.records import Record, Refused, State

SHARES = (0.01, 0.1)
"""Of the traffic that a canary signs, one after the other; then it is promoted."""


def proven(db: apsw.Connection, number: int, detail: str, actor: Actor, now: float) -> Record:
    """Its service, or its own check, took it."""
    record = _in(records.get(db, number), State.STAGED, State.BROKEN)
    changed: dict[str, Any] = {"state": State.STAGED, "proven": now, "trouble": "", "since": now}
    return records.change(db, record, "proven", actor, now, detail, **changed)


def refuted(db: apsw.Connection, number: int, reason: str, actor: Actor, now: float) -> Record:
    """Its service refused it before it signed anything."""
    record = _in(records.get(db, number), State.STAGED, State.BROKEN)
    changed: dict[str, Any] = {"state": State.BROKEN, "trouble": reason, "since": now}
    return records.change(db, record, "refuted", actor, now, reason, **changed)


def canary(db: apsw.Connection, number: int, actor: Actor, now: float) -> Record:
    """Let it sign the first share. A former credential that was still kept is retired: there are two at a time."""
    record = _in(records.get(db, number), State.STAGED)
    if record.proven is None:
        raise Refused(f"credential {number} is not proven: probe it first")
    if other := records.one(db, record.line, State.CANARY):
        raise Refused(f"credential {other.number} is a canary already: promote it or roll it back first")
    if former := records.one(db, record.line, State.OVERLAP):
        _retire(db, former, actor, now)
    return records.change(db, record, "canary", actor, now, state=State.CANARY, share=SHARES[0], since=now)


def further(db: apsw.Connection, record: Record, overlap: float | None, now: float) -> Record:
    """The next share, or all of it."""
    for share in SHARES:
        if share > record.share:
            return records.change(db, record, "canary", GATEWAY, now, f"{share:.0%}", share=share, since=now)
    return promote(db, record.number, overlap, GATEWAY, now)


def promote(db: apsw.Connection, number: int, overlap: float | None, actor: Actor, now: float) -> Record:
    """Let it sign everything; the one before is kept for `overlap` seconds, or until it is retired (None)."""
    record = _in(records.get(db, number), State.STAGED, State.CANARY, State.OVERLAP)
    if record.proven is None and record.promoted is None:
        raise Refused(f"credential {number} is not proven: probe it first")
    former, until = records.one(db, record.line, State.ACTIVE), None if overlap is None else now + overlap
    if former is not None:
        # What is refused is no way back.
        state = State.BROKEN if former.trouble else State.OVERLAP
        records.change(db, former, "replaced", actor, now, state=state, until=until, since=now)
    return records.change(db, record, "promoted", actor, now, promoted=now, **_active(now))


def back(db: apsw.Connection, number: int, reason: str, actor: Actor, now: float) -> Record:
    """Take a canary, or an active one, out; the one before signs again. With a reason it is broken by that."""
    record = _in(records.get(db, number), State.CANARY, State.ACTIVE)
    state = State.BROKEN if reason else State.STAGED
    former = records.one(db, record.line, State.OVERLAP) if record.state == State.ACTIVE else None
    if record.state == State.ACTIVE and former is None:
        raise Refused("there is no credential to go back to: add another one, probe it and promote it")
    changed: dict[str, Any] = {"state": state, "share": 0.0, "trouble": reason, "since": now}
    taken = records.change(db, record, "rolled_back", actor, now, reason, **changed)
    if former is not None:
        records.change(db, former, "active_again", actor, now, **_active(now))
    return taken


def refused(db: apsw.Connection, number: int, reason: str, now: float) -> Record | None:
    """Its service refuses it at work: back if there is a way, else it is known to be broken and goes on trying."""
    record = records.get(db, number)
    if record.state not in (State.CANARY, State.ACTIVE) or record.trouble:
        return None
    if record.state == State.CANARY or records.one(db, record.line, State.OVERLAP):
        return back(db, number, reason, GATEWAY, now)
    return records.change(db, record, "refused", GATEWAY, now, reason, trouble=reason)


def recovered(db: apsw.Connection, number: int, now: float) -> Record | None:
    """Its service takes it again."""
    record = records.get(db, number)
    if record.state != State.ACTIVE or not record.trouble:
        return None
    return records.change(db, record, "recovered", GATEWAY, now, trouble="")


def retire(db: apsw.Connection, number: int, actor: Actor, now: float) -> Record:
    """Forget its secret. Not of the one that signs."""
    record = records.get(db, number)
    if record.state in (State.ACTIVE, State.CANARY):
        raise Refused(f"credential {number} is at work as {record.state}: promote another one, or roll back, first")
    return _retire(db, _in(record, *records.KEPT), actor, now)


def retire_former(db: apsw.Connection, now: float) -> None:
    """End the overlaps that are over."""
    for record in records.find(db, "state = ? AND until <= ?", (State.OVERLAP, now)):
        _retire(db, record, GATEWAY, now)


def adopt(db: apsw.Connection, found: Record, secret: bytes | None, now: float) -> None:
    """The settings, or a folder, have a credential: it is the active one where no other was promoted.

    What they had before, and is not stored, has no secret left: it is retired.
    """
    for gone in records.find(db, "app = ? AND provider = ? AND sealed IS NULL AND state != 'retired'", found.line):
        if gone.fingerprint != found.fingerprint:
            _retire(db, gone, GATEWAY, now, "the settings have another")
    active = records.one(db, found.line, State.ACTIVE)
    rows = records.find(db, "app = ? AND provider = ? AND fingerprint = ?", (*found.line, found.fingerprint))
    kept = [row for row in rows if row.state != State.RETIRED]
    if active is not None and kept:
        return
    if kept:
        records.change(db, kept[-1], "adopted", GATEWAY, now, promoted=now, **_active(now))
        return
    state, promoted = (State.ACTIVE, now) if active is None else (State.STAGED, None)
    records.insert(db, msgspec.structs.replace(found, state=state, promoted=promoted), secret, GATEWAY, now)


def _retire(db: apsw.Connection, record: Record, actor: Actor, now: float, why: str = "") -> Record:
    return records.change(db, record, "retired", actor, now, why, state=State.RETIRED, sealed=None, since=now)


def _active(now: float) -> dict[str, Any]:
    return {"state": State.ACTIVE, "share": 0.0, "trouble": "", "until": None, "since": now}


def _in(record: Record, *states: State) -> Record:
    if record.state not in states:
        wanted = " or ".join(states)
        raise Refused(f"credential {record.number} is {record.state}; this is possible while it is {wanted}")
    return record
