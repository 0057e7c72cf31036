"""Rows of credentials and the steps between their states, in a database of the queue's schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gateway.audit.log import GATEWAY, Actor, newest, verify
from gateway.credentials import records, steps
from gateway.credentials.records import Counts, Record, Refused, Source, State
from gateway.queue import schema

NOW = 1_800_000_000.0
ALICE = Actor("default", "alice")
LINE = ("shop", "apns")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = schema.connect(tmp_path / "carillon.db")
    schema.migrate(connection, tmp_path / "carillon.db")
    yield connection
    connection.close()


def record(fingerprint: str, source: Source = Source.UPLOAD, state: State = State.STAGED) -> Record:
    return Record(
        0, *LINE, source, fingerprint, f"key-{fingerprint}", None, state, 0.0, "", None, None, NOW, None, NOW, "alice",
    )  # fmt: skip


def added(db: apsw.Connection, fingerprint: str) -> int:
    return records.insert(db, record(fingerprint), b"sealed", ALICE, NOW).number


def proven(db: apsw.Connection, fingerprint: str) -> int:
    number = added(db, fingerprint)
    return steps.proven(db, number, "BadDeviceToken", ALICE, NOW).number


def states(db: apsw.Connection) -> dict[str, str]:
    return {row.fingerprint: str(row.state) for row in records.find(db)}


@pytest.fixture
def first(db: apsw.Connection) -> int:
    """The settings' one, which signs."""
    steps.adopt(db, record("first", Source.SETTINGS), None, NOW)
    return records.find(db)[0].number


def test_a_rotation_from_end_to_end(db: apsw.Connection, first: int) -> None:
    """Staged, proven, 1 %, 10 %, all; the one before is kept for its time and then forgotten."""
    number = proven(db, "second")
    canary = steps.canary(db, number, ALICE, NOW)
    assert (canary.state, canary.share) == (State.CANARY, 0.01)
    canary = steps.further(db, canary, 60.0, NOW)
    assert canary.share == 0.1
    assert states(db) == {"first": "active", "second": "canary"}
    active = steps.further(db, canary, 60.0, NOW)
    assert (active.state, active.share, active.promoted) == (State.ACTIVE, 0.0, NOW)
    assert states(db) == {"first": "overlap", "second": "active"}
    steps.retire_former(db, NOW + 59)
    assert states(db)["first"] == "overlap"
    steps.retire_former(db, NOW + 60)
    assert states(db)["first"] == "retired"
    assert records.sealed(db, first) is None
    assert [step.step for step in records.history(db, 0, 100, lambda app: True)] == [
        "added", "added", "proven", "canary", "canary", "replaced", "promoted", "retired",
    ]  # fmt: skip
    assert [entry.action for entry in newest(db, 100)][-2:] == ["credential.promoted", "credential.retired"]
    assert not verify(db).fault


def test_nothing_signs_that_is_not_proven(db: apsw.Connection, first: int) -> None:
    number = added(db, "second")
    with pytest.raises(Refused, match="probe it first"):
        steps.canary(db, number, ALICE, NOW)
    with pytest.raises(Refused, match="probe it first"):
        steps.promote(db, number, 60.0, ALICE, NOW)
    steps.refuted(db, number, "InvalidProviderToken", ALICE, NOW)
    with pytest.raises(Refused, match="is broken; this is possible while it is staged"):
        steps.canary(db, number, ALICE, NOW)
    assert steps.proven(db, number, "", ALICE, NOW).trouble == ""


def test_a_refused_canary_is_broken_and_the_other_goes_on(db: apsw.Connection, first: int) -> None:
    number = proven(db, "second")
    steps.canary(db, number, ALICE, NOW)
    broken = steps.refused(db, number, "ExpiredProviderToken", NOW)
    assert broken is not None
    assert (broken.state, broken.trouble) == (State.BROKEN, "ExpiredProviderToken")
    assert states(db)["first"] == "active"
    assert steps.refused(db, number, "again", NOW) is None, "another worker told of it"


def test_a_refused_successor_gives_way_to_the_one_before(db: apsw.Connection, first: int) -> None:
    number = proven(db, "second")
    steps.promote(db, number, 60.0, ALICE, NOW)
    steps.refused(db, number, "InvalidProviderToken", NOW)
    assert states(db) == {"first": "active", "second": "broken"}


def test_a_refused_one_without_another_goes_on_and_is_known_to_be_broken(db: apsw.Connection, first: int) -> None:
    """Its jobs wait; the next that is promoted does not keep it to go back to."""
    refused = steps.refused(db, first, "InvalidProviderToken", NOW)
    assert refused is not None
    assert (refused.state, refused.trouble) == (State.ACTIVE, "InvalidProviderToken")
    recovered = steps.recovered(db, first, NOW)
    assert recovered is not None
    assert recovered.trouble == ""
    steps.refused(db, first, "InvalidProviderToken", NOW)
    steps.promote(db, proven(db, "second"), 60.0, ALICE, NOW)
    assert states(db) == {"first": "broken", "second": "active"}


def test_an_operator_goes_back(db: apsw.Connection, first: int) -> None:
    """What was taken out is staged and can be tried again; there is no way back behind the first."""
    number = proven(db, "second")
    with pytest.raises(Refused, match="no credential to go back to"):
        steps.back(db, first, "", ALICE, NOW)
    steps.promote(db, number, 60.0, ALICE, NOW)
    steps.back(db, number, "", ALICE, NOW)
    assert states(db) == {"first": "active", "second": "staged"}
    steps.canary(db, number, ALICE, NOW)
    steps.back(db, number, "", ALICE, NOW)
    assert states(db) == {"first": "active", "second": "staged"}


def test_two_at_a_time(db: apsw.Connection, first: int) -> None:
    """One canary; and where a former one is still kept, it makes room for the next canary."""
    second, third = proven(db, "second"), proven(db, "third")
    steps.promote(db, second, 60.0, ALICE, NOW)
    steps.canary(db, third, ALICE, NOW)
    assert states(db) == {"first": "retired", "second": "active", "third": "canary"}
    with pytest.raises(Refused, match="is a canary already"):
        steps.canary(db, proven(db, "fourth"), ALICE, NOW)
    with pytest.raises(Refused, match="is at work as active"):
        steps.retire(db, second, ALICE, NOW)


def test_the_same_is_not_added_twice(db: apsw.Connection, first: int) -> None:
    """Unless it is retired or was broken."""
    number = added(db, "second")
    with pytest.raises(Refused, match=f"this is credential {number} already"):
        added(db, "second")
    steps.retire(db, number, ALICE, NOW)
    assert added(db, "second") != number


def test_who_is_slower_changes_nothing(db: apsw.Connection, first: int) -> None:
    """Two workers see that a canary may go further: one carries it out."""
    canary = steps.canary(db, proven(db, "second"), ALICE, NOW)
    steps.further(db, canary, 60.0, NOW)
    with pytest.raises(Refused, match="changed by somebody else"):
        steps.further(db, canary, 60.0, NOW)


class TestSettings:
    """Credentials that the settings name."""

    def test_the_first_is_active_and_a_restart_changes_nothing(self, db: apsw.Connection, first: int) -> None:
        before = records.revision(db)
        steps.adopt(db, record("first", Source.SETTINGS), None, NOW + 1)
        assert states(db) == {"first": "active"}
        assert records.revision(db) == before

    def test_another_file_replaces_it(self, db: apsw.Connection, first: int) -> None:
        """As before there were several: nothing is left of the former one."""
        steps.adopt(db, record("other", Source.SETTINGS), None, NOW + 1)
        assert states(db) == {"first": "retired", "other": "active"}
        steps.adopt(db, record("first", Source.SETTINGS), None, NOW + 2)
        assert [row.fingerprint for row in records.find(db, "state = 'active'")] == ["first"]

    def test_one_that_was_rotated_in_stays(self, db: apsw.Connection, first: int) -> None:
        """A new file is at hand then, and no more."""
        steps.promote(db, proven(db, "second"), 60.0, ALICE, NOW)
        steps.adopt(db, record("first", Source.SETTINGS), None, NOW + 1)
        assert states(db) == {"first": "overlap", "second": "active"}
        steps.adopt(db, record("other", Source.SETTINGS), None, NOW + 2)
        assert states(db) == {"first": "retired", "second": "active", "other": "staged"}


def test_counts_are_of_all_workers_and_of_the_present_share(db: apsw.Connection, first: int) -> None:
    number = proven(db, "second")
    records.count(db, number, "worker-0", NOW, Counts(5, 1, 500, 10))
    records.count(db, number, "worker-1", NOW, Counts(2, 0, 200, 0))
    records.count(db, number, "worker-1", NOW, Counts(3, 0, 300, 5))
    assert records.counted(db, number, NOW) == Counts(8, 1, 800, 15)
    records.count(db, number, "worker-0", NOW + 9, Counts(1, 0, 10, 0))
    assert records.counted(db, number, NOW + 9) == Counts(1, 0, 10, 0)


def test_what_the_machine_does_by_itself_is_in_its_name(db: apsw.Connection, first: int) -> None:
    assert newest(db, 1)[0].actor == GATEWAY.name
