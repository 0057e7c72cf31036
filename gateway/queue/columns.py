"""A batch's progress as bytes: what may change, what became final, and what a death leaves behind.

Everything here works on whole columns; nothing walks over the deliveries of an ordinary batch.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import NamedTuple

import msgspec

from gateway.model import TERMINAL_STATES, Note, State, milliseconds_column
from gateway.queue.base import Progress, QueueError

_TERMINAL = bytes(TERMINAL_STATES)
_IS_TERMINAL = bytes(0xFF if state in _TERMINAL else 0 for state in range(256))
_KNOWN = bytes(State)

_PENDING_MAY_BE_SENT = bytes([State.SENT, *range(1, 256)])

_encode_notes = msgspec.msgpack.Encoder().encode
_decode_notes = msgspec.msgpack.Decoder(dict[int, Note]).decode

RECOVERED = "recovered after a crash"
"""The reason of a verdict whose own words died with the process that read them."""

CANCELLED_AFTER_SENDING = "cancelled after it was sent; no answer was seen"


class Columns(NamedTuple):
    """Progress as it is stored."""

    states: bytes
    notes: bytes | None
    milliseconds: bytes

    @classmethod
    def of(cls, progress: Progress) -> Columns:
        """A copy as of now: what is written to `progress` afterwards is not in it."""
        notes = _encode_notes(progress.notes) if progress.notes else None
        return cls(stored_states(progress), notes, progress.milliseconds.tobytes())

    @classmethod
    def fresh(cls, count: int) -> Columns:
        return cls(bytes(count), None, bytes(4 * count))

    def notes_by_index(self) -> dict[int, Note]:
        return _decode_notes(self.notes) if self.notes is not None else {}

    def milliseconds_array(self) -> array[int]:
        column = milliseconds_column(0)
        column.frombytes(self.milliseconds)
        return column


def stored_states(progress: Progress) -> bytes:
    """The states of a living holder. Where a note says that it may have been sent, the state need not."""
    states = bytearray(progress.states)
    for index, note in progress.notes.items():
        if note.unanswered and states[index] == State.SENT:
            states[index] = State.PENDING
    return bytes(states)


def is_terminal(states: bytes) -> bool:
    """Whether every delivery is."""
    return not states.translate(None, _TERMINAL)


def has_terminal(states: bytes) -> bool:
    return len(states.translate(None, _TERMINAL)) < len(states)


def check_known(states: bytes) -> None:
    """Refuse bytes that are no `State`."""
    if states.translate(None, _KNOWN):
        raise QueueError("a batch's states hold a byte that is no state")


def check_kept(old: bytes, new: bytes) -> None:
    """Refuse to overwrite a verdict: a delivery's first terminal state is its receipt."""
    final = int.from_bytes(old.translate(_IS_TERMINAL), "little")
    if final & (int.from_bytes(old, "little") ^ int.from_bytes(new, "little")):
        raise QueueError("a delivery that has its receipt cannot get another state")


def newly_terminal(old: bytes, new: bytes) -> list[int]:
    """Positions that are terminal in `new` only."""
    before = int.from_bytes(old.translate(_IS_TERMINAL), "little")
    after = int.from_bytes(new.translate(_IS_TERMINAL), "little")
    return list(compress(range(len(new)), (after & ~before).to_bytes(len(new), "little")))


def pending_may_be_sent(states: bytes) -> bytes:
    """What a holder leaves of whom no reliable trace is left: any of its deliveries may be on its way."""
    return states.translate(_PENDING_MAY_BE_SENT)


def given_up(columns: Columns, state: State, reason: str, reason_if_sent: str, elapsed: int) -> Columns:
    """The columns of a batch that nobody holds and of which no delivery is tried (again).

    One that may have reached its device is unknown, for nobody can take that back. `elapsed`: milliseconds from the
    job's creation to now.
    """
    notes, states, milliseconds = columns.notes_by_index(), bytearray(columns.states), columns.milliseconds_array()
    for index, former in enumerate(columns.states):
        if former in _TERMINAL:
            continue
        note = notes.get(index)
        sent = former == State.SENT or (note is not None and note.unanswered > 0)
        states[index] = State.UNKNOWN if sent else state
        milliseconds[index] = elapsed
        if former == State.SENT:
            notes.setdefault(index, Note()).unanswered += 1
        if why := reason_if_sent if sent else reason:
            _explain(notes, index, why)
    return Columns(bytes(states), _encode_notes(notes) if notes else None, milliseconds.tobytes())


def recovered(stored: Columns, found: bytes, elapsed: int) -> Columns:
    """Stored columns brought up to `found`, the states that a dead holder's flight recorder shows.

    Args:
        elapsed: milliseconds from the job's creation to now: an upper bound of when the verdicts came.
    """
    states = bytearray(stored.states)
    notes, milliseconds = stored.notes_by_index(), stored.milliseconds_array()
    for index, (old, new) in enumerate(zip(stored.states, found, strict=True)):
        if old == new or old in _TERMINAL:
            continue
        states[index] = new if new in _KNOWN else State.SENT
        if states[index] in _TERMINAL:
            milliseconds[index] = elapsed
            if new != State.ACCEPTED:
                _explain(notes, index, RECOVERED)
            if new == State.UNKNOWN:
                notes[index].unanswered = max(1, notes[index].unanswered)
    return Columns(bytes(states), _encode_notes(notes) if notes else None, milliseconds.tobytes())


def _explain(notes: dict[int, Note], index: int, reason: str) -> None:
    note = notes.setdefault(index, Note())
    note.reason, note.retry_at = reason, 0.0


def encode_indexes(indexes: list[int]) -> bytes:
    return array("H", indexes).tobytes()


def decode_indexes(column: bytes) -> array[int]:
    return array("H", column)
