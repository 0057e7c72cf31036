"""Who of a batch still gets it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Job, Lane, Note, State
from gateway.policy import screening
from gateway.policy.screening import Ending
from gateway.queue.base import DeadTarget
from providers.base import Message

NOW = 1_000.0
OPEN = (State.PENDING, State.SENT)


def columns(*states: State) -> bytes:
    return bytes(states)


def test_an_untouched_batch_is_sent_whole_without_a_list() -> None:
    assert screening.resume(bytes(1000), {}, True) == (range(1000), [], [])


def test_what_was_on_the_wire_is_sent_again_if_the_job_says_so() -> None:
    states = columns(State.ACCEPTED, State.SENT, State.PENDING)
    assert screening.resume(states, {}, True) == ([1, 2], [1], [])


def test_what_was_on_the_wire_is_unknown_otherwise() -> None:
    states = columns(State.ACCEPTED, State.SENT, State.PENDING)
    unknown = [Ending(1, State.UNKNOWN, screening.DIED_ON_WIRE)]
    assert screening.resume(states, {}, False) == ([2], [], unknown)


def test_a_retry_is_not_for_the_screening_to_send() -> None:
    """Whether its time has come or not: it waits for its time and for the retry budget."""
    notes = {0: Note(attempts=2, retry_at=NOW + 1), 1: Note(attempts=2, retry_at=1.0), 3: Note(retry_at=1.0)}
    assert screening.resume(columns(*[State.PENDING] * 3, State.SENT), notes, True).send == [2, 3]


@given(st.lists(st.sampled_from(list(State)), min_size=1, max_size=50), st.booleans())
def test_every_open_delivery_is_sent_or_ends_and_no_other(states: list[State], resend: bool) -> None:
    """A verdict that is there stays: such a delivery is neither sent nor ended again."""
    found = screening.resume(bytes(states), {}, resend)
    ended = [ending.position for ending in found.unknown]
    assert sorted([*found.send, *ended]) == [index for index, state in enumerate(states) if state in OPEN]
    assert set(found.resend) <= set(found.send)
    assert all(states[index] == State.SENT for index in [*found.resend, *ended])


@pytest.mark.parametrize(
    ("registered", "dead"),
    [(b"", True), (b"99.5", True), (b"100", True), (b"100.5", False), (b"1000", False)],
)
def test_a_registration_after_the_verdict_brings_a_target_back(registered: bytes, dead: bool) -> None:
    verdicts = {b"key": DeadTarget(b"key", 100.0, "Unregistered")}
    endings = screening.dead([0], [b"key"], [registered], verdicts, {})
    assert endings == ([Ending(0, State.INVALID_TOKEN, "Unregistered")] if dead else [])


def test_only_positions_that_may_be_sent_are_judged() -> None:
    verdicts = {b"key": DeadTarget(b"key", 100.0, "Unregistered")}
    endings = screening.dead([1], [b"key", b"key", b"other"], [b""] * 3, verdicts, {})
    assert [ending.position for ending in endings] == [1]


def test_a_delivery_that_may_have_been_sent_is_called_unknown() -> None:
    """Its target died meanwhile, but an earlier try may have reached the device."""
    verdicts = {b"key": DeadTarget(b"key", 100.0, "Unregistered")}
    (ending,) = screening.dead([0], [b"key"], [b""], verdicts, {0: Note(unanswered=1)})
    assert ending.state is State.UNKNOWN


@pytest.mark.parametrize(
    ("cancelled", "expires_at", "state"),
    [
        (False, None, None),
        (False, NOW + 1, None),
        (False, NOW, State.EXPIRED),
        (True, None, State.CANCELLED),
        (True, NOW - 1, State.CANCELLED),
    ],
)
def test_nobody_wants_what_is_cancelled_or_expired(
    cancelled: bool, expires_at: float | None, state: State | None
) -> None:
    job = Job(
        id="job_1", app="shop", lane=Lane.PROMOTIONAL, message=Message(), created_at=0.0, expires_at=expires_at,
        resend_unknown=False,
    )  # fmt: skip
    end = screening.overdue(job, cancelled, NOW)
    assert (end[0] if end else None) is state
