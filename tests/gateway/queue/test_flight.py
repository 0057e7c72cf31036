"""The flight recorder tells after a death what its owner was doing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.queue import flight
from gateway.queue.flight import Entry, FlightRecorder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flight"


def test_what_is_armed_is_seen(file: Path) -> None:
    """A store into a view is in the file at once; disarmed batches are not."""
    recorder = FlightRecorder(file, 4)
    first, second = recorder.reserve(2)
    view, _ = recorder.arm(first, Entry(7, 1), bytes(3))
    recorder.arm(second, Entry(8, 2), b"\x02" * 1000)
    view[1] = 1
    recorder.disarm(Entry(8, 2))
    assert flight.read(file, dead=True) == (True, {Entry(7, 1): b"\0\x01\0"}, frozenset())
    recorder.close(remove=True)
    assert not file.exists()


def test_a_living_owners_file_is_not_trusted(file: Path) -> None:
    """Its owner may write the next moment."""
    recorder = FlightRecorder(file, 1)
    recorder.arm(recorder.reserve(1)[0], Entry(7, 1), bytes(3))
    with flight.locked_if_dead(file) as dead:
        assert not dead
    trace = flight.read(file, dead=False)
    assert (trace.trusted, list(trace.states)) == (False, [Entry(7, 1)])
    recorder.close(remove=True)


def test_another_boot_is_not_trusted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot the page cache is gone, and the file is what happened to be written back."""
    recorder = FlightRecorder(file, 1)
    recorder.arm(recorder.reserve(1)[0], Entry(7, 1), bytes(3))
    monkeypatch.setattr(flight, "boot_id", lambda: b"another")
    assert flight.read(file, dead=True) == (False, {}, frozenset())
    monkeypatch.setattr(flight, "boot_id", lambda: b"")
    assert flight.read(file, dead=True) == (False, {}, frozenset())
    recorder.close(remove=True)


@pytest.mark.parametrize("content", [b"", b"short", bytes(5000), b"carillon-flight1" + b"\xff" * 6000])
def test_damaged_files_tell_nothing(file: Path, content: bytes) -> None:
    """Whatever is in the file, reading it yields no states."""
    file.write_bytes(content)
    assert flight.read(file, dead=True) == (False, {}, frozenset())
    assert flight.read(file.with_name("missing"), dead=True) == (False, {}, frozenset())


def test_a_slot_is_used_again_when_nobody_can_write_to_it(file: Path) -> None:
    """A holder that keeps its view after the end cannot write into another batch's slot."""
    recorder = FlightRecorder(file, 1)
    view, _ = recorder.arm(recorder.reserve(1)[0], Entry(7, 1), bytes(3))
    recorder.disarm(Entry(7, 1))
    assert recorder.room == 0
    view[0] = 1
    del view
    assert recorder.room == 1
    recorder.disarm(Entry(7, 1))
    assert recorder.room == 1
    recorder.close(remove=True)


def test_no_more_than_there_are(file: Path) -> None:
    """Reserving yields at most the free slots, and gives unused ones back."""
    recorder = FlightRecorder(file, 3)
    slots = recorder.reserve(5)
    assert (len(slots), recorder.room, recorder.reserve(1)) == (3, 0, [])
    recorder.unreserve(slots)
    assert recorder.room == 3
    recorder.close(remove=True)


def test_a_file_removed_at_birth_is_made_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's recovery may remove a new file before it is locked."""
    lock, removals = flight.fcntl.flock, iter([True, False])

    def remove_then_lock(descriptor: int, operation: int) -> None:
        if next(removals, False):
            file.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(flight.fcntl, "flock", remove_then_lock)
    recorder = FlightRecorder(file, 1)
    assert file.exists()
    recorder.close(remove=True)
