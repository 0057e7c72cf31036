"""Who of a batch still gets it, decided when it is leased and before anything of it is sent. Pure.

Columns come in as they are stored; what comes out are positions. Nothing here walks over a batch that nobody has
touched before and of which no target is dead, which is nearly every batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway.model import Job, Note, State
from gateway.queue.base import DeadTarget

DIED_ON_WIRE = "its process died while it was on the wire; no answer was seen"

_UNTOUCHED = bytes(1)


class Ending(NamedTuple):
    """A delivery that gets its receipt instead of being sent."""

    position: int
    state: State
    reason: str


class Resumption(NamedTuple):
    """How to go on with a batch that somebody else has held."""

    send: Sequence[int]
    """Positions to send now, in order. Others are done, or their notes say when they are to be tried again, even if
    that is in the past: it is the retry budget that lets them go."""
    resend: list[int]
    """Those of `send` that were on the wire when their holder died: this is another try of them."""
    unknown: list[Ending]
    """Those that were on the wire as well, and whose job wants to be told rather than send them twice."""


def resume(states: bytes, notes: Mapping[int, Note], resend_unknown: bool) -> Resumption:
    """Read the columns that a former holder left."""
    if not states.strip(_UNTOUCHED):
        return Resumption(_not_put_off(range(len(states)), states, notes), [], [])
    sent = [index for index, state in enumerate(states) if state == State.SENT]
    open_ = [index for index, state in enumerate(states) if state in (State.PENDING, State.SENT)]
    if resend_unknown:
        return Resumption(_not_put_off(open_, states, notes), sent, [])
    pending = [index for index in open_ if states[index] == State.PENDING]
    unknown = [Ending(index, State.UNKNOWN, DIED_ON_WIRE) for index in sent]
    return Resumption(_not_put_off(pending, states, notes), [], unknown)


def _not_put_off(indexes: Sequence[int], states: bytes, notes: Mapping[int, Note]) -> Sequence[int]:
    put_off = {index for index, note in notes.items() if note.retry_at and states[index] == State.PENDING}
    return [index for index in indexes if index not in put_off] if put_off else indexes


def dead(
    indexes: Iterable[int],
    keys: Sequence[bytes],
    registered: Sequence[bytes],
    verdicts: Mapping[bytes, DeadTarget],
    notes: Mapping[int, Note],
) -> list[Ending]:
    """Deliveries to targets that a service declared dead. A registration after the verdict brings a target back.

    Args:
        indexes: positions that may be sent.
        keys: what identifies each target, a column of the batch.
        registered: UNIX seconds as text, blank where the caller did not say; a column of the batch.
        verdicts: by key; those of this batch's targets that are known to be dead.
        notes: of the batch.
    """
    endings = []
    for index in indexes:
        verdict = verdicts.get(keys[index])
        if verdict is not None and not (registered[index] and float(registered[index]) > verdict.since):
            note = notes.get(index)
            state = given_up(State.INVALID_TOKEN, note.unanswered if note else 0)
            endings.append(Ending(index, state, verdict.reason))
    return endings


def overdue(job: Job, cancelled: bool, now: float) -> tuple[State, str] | None:
    """State and reason of what of a job is not sent yet, if nobody wants it any more; `now` in UNIX seconds."""
    if cancelled:
        return State.CANCELLED, "cancelled before it was sent"
    if job.expires_at is not None and job.expires_at <= now:
        return State.EXPIRED, "expired before it could be sent"
    return None


def given_up(state: State, unanswered: int) -> State:
    """A delivery that may have been sent is not called expired, cancelled or dead-lettered: nobody knows."""
    return State.UNKNOWN if unanswered else state
