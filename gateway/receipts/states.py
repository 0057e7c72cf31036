"""What callers are told: of a delivery, of a job, of a dead target."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.model import TERMINAL_STATES, State

PENDING = State.PENDING.word
"""What callers see of a delivery that has no receipt yet, on the wire or not."""

WORDS = tuple(state.word if state in TERMINAL_STATES else PENDING for state in State)
"""By state."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The one record of a delivery. With the state `pending` it is not terminal, and no receipt yet."""

    id: str
    """The delivery's."""
    job: str
    recipient: str
    """The caller's id of the recipient."""
    app: str
    provider: str
    state: str
    reason: str = ""
    attempts: int = 1
    unanswered: int = 0
    """How many of the attempts got no answer: each of them may have reached the device."""
    provider_id: str = ""
    """The service's own id of the notification where it differs from the delivery's."""
    at: float | None = None
    """UNIX seconds of the verdict."""


class JobStatus(msgspec.Struct, frozen=True):
    """How far a job has come."""

    id: str
    app: str
    lane: int
    created_at: float
    cancelled: bool
    finished: bool
    """Whether every delivery has its receipt and the work is gone."""
    total: int
    parked: int
    """Deliveries of parked batches that have no receipt; they are among those pending."""
    counts: dict[str, int]
    """Deliveries by state, each state named; those without a receipt are `pending`."""
    first_finished_at: float | None
    """When the first batch was complete."""
    finished_at: float | None
    """When the last batch was complete."""


class InvalidToken(msgspec.Struct, frozen=True, gc=False):
    """A target that a service declared dead."""

    provider: str
    key: str
    """The token, or the subscription's endpoint."""
    since: float
    """UNIX seconds: registrations up to then are dead."""
    reason: str


class Page(NamedTuple):
    """Receipts in the order in which they were stored."""

    receipts: list[Receipt]
    cursor: int
    """Where the next page starts. Each receipt is on exactly one page."""
    finished: bool
    """Whether the job is finished and this page is its last."""


class InvalidTokens(NamedTuple):
    tokens: list[InvalidToken]
    cursor: int
