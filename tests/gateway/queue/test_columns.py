"""Progress as whole columns does what a walk over the deliveries would do."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Note, State
from gateway.queue import columns as column
from gateway.queue.base import Progress, QueueError
from gateway.queue.columns import Columns

states = st.binary(min_size=1, max_size=40).map(lambda raw: bytes(byte % len(State) for byte in raw))
pairs = st.lists(st.tuples(st.sampled_from(State), st.sampled_from(State)), min_size=1, max_size=40)


def terminal(state: int) -> bool:
    return state >= State.ACCEPTED


@given(states)
def test_terminal(column_: bytes) -> None:
    """All and any, over a column."""
    assert column.is_terminal(column_) == all(map(terminal, column_))
    assert column.has_terminal(column_) == any(map(terminal, column_))


@given(pairs)
def test_changes(changes: list[tuple[State, State]]) -> None:
    """What became terminal is what was not; a terminal state may only become itself."""
    old, new = bytes(a for a, _ in changes), bytes(b for _, b in changes)
    expected = [index for index, (a, b) in enumerate(changes) if terminal(b) and not terminal(a)]
    assert column.newly_terminal(old, new) == expected
    assert list(column.decode_indexes(column.encode_indexes(expected))) == expected
    if any(terminal(a) and a != b for a, b in changes):
        with pytest.raises(QueueError, match="receipt"):
            column.check_kept(old, new)
    else:
        column.check_kept(old, new)


def test_unknown_bytes_are_refused() -> None:
    """A state is one that the model names."""
    column.check_known(bytes(State))
    with pytest.raises(QueueError, match="no state"):
        column.check_known(bytes([len(State)]))


def test_a_copy_is_a_copy() -> None:
    """What is handed to the writer does not change with the holder's columns."""
    progress = Progress(bytearray(2), array("I", [1, 2]), {1: Note("r", 3, "p", 4.0, 1)})
    copy = Columns.of(progress)
    progress.states[0], progress.milliseconds[0] = State.SENT, 9
    progress.notes[1].reason = "other"
    assert copy.states == bytes(2)
    assert list(copy.milliseconds_array()) == [1, 2]
    assert copy.notes_by_index() == {1: Note("r", 3, "p", 4.0, 1)}


def test_giving_up() -> None:
    """What never left ends as it is told; what may have reached its device is unknown; receipts stay as they are."""
    notes = {0: Note("busy", 2, unanswered=1), 3: Note("gone")}
    before = Columns.of(
        Progress(
            bytearray([State.PENDING, State.PENDING, State.SENT, State.INVALID_TOKEN]), array("I", bytes(16)), notes
        )
    )
    after = column.given_up(before, State.CANCELLED, "", "sent", 7)
    assert list(after.milliseconds_array()) == [7, 7, 7, 0]
    assert list(after.states) == [State.UNKNOWN, State.CANCELLED, State.UNKNOWN, State.INVALID_TOKEN]
    reasons = {index: note.reason for index, note in after.notes_by_index().items()}
    assert reasons == {0: "sent", 2: "sent", 3: "gone"}
    unanswered = {index: note.unanswered for index, note in after.notes_by_index().items()}
    assert unanswered == {0: 1, 2: 1, 3: 0}, "a receipt tells how many tries may have reached the device"


def test_recovering() -> None:
    """Verdicts that a dead holder had seen are kept, with a reason where theirs is lost; stored ones are left alone."""
    stored = Columns.of(
        Progress(bytearray([State.REJECTED, 0, 0, 0, 0]), array("I", [7, 0, 0, 0, 0]), {0: Note("bad")})
    )
    found = bytes([State.ACCEPTED, State.ACCEPTED, State.REJECTED, State.SENT, 0xEE])
    after = column.recovered(stored, found, 500)
    assert list(after.states) == [State.REJECTED, State.ACCEPTED, State.REJECTED, State.SENT, State.SENT]
    assert list(after.milliseconds_array()) == [7, 500, 500, 0, 0]
    assert after.notes_by_index() == {0: Note("bad"), 2: Note(column.RECOVERED)}


def test_recovering_what_got_no_answer() -> None:
    """Its receipt says that a try may have reached the device, whether or not the note of it was stored."""
    noted = {1: Note("busy", 3, unanswered=2)}
    stored = Columns.of(Progress(bytearray(2), array("I", bytes(8)), noted))
    after = column.recovered(stored, bytes([State.UNKNOWN, State.UNKNOWN]), 500)
    assert [note.unanswered for _, note in sorted(after.notes_by_index().items())] == [1, 2]
