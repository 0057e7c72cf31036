"""What callers are told, as documents. Instants in them are UNIX seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.model import Lane
from gateway.receipts.states import InvalidToken, JobStatus, Receipt


class Refusal(msgspec.Struct, frozen=True):
    """A recipient that gets nothing; the others are not concerned."""

    index: Annotated[int, Meta(description="Position among the job's recipients, from 0.")]
    id: Annotated[str | None, Meta(description="As sent, if it could be read.")]
    reason: str


class Accepted(msgspec.Struct, frozen=True):
    """The job is on stable storage. A recipient's delivery is found by the recipient's id in the job's receipts."""

    job: Annotated[str, Meta(description="The job's id.")]
    accepted: Annotated[int, Meta(description="Recipients that became deliveries.")]
    refused: Annotated[list[Refusal], Meta(description="Recipients that did not, the first 1,000 of them.")]
    refused_count: Annotated[int, Meta(description="All that did not.")]


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request."""

    pointer: Annotated[str, Meta(description="Where in the job: a JSON pointer (RFC 6901).")]
    detail: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not done (RFC 9457), and what to do about it."""

    title: str
    status: int
    detail: str
    errors: list[Fault] = []
    refused: Annotated[list[Refusal], Meta(description="If no recipient is left: the first 1,000 and why.")] = []
    refused_count: int = 0


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job has come."""

    job: str
    app: str
    class_: Literal["transactional", "promotional"] = msgspec.field(name="class")
    created_at: float
    cancelled: bool
    finished: Annotated[bool, Meta(description="Whether every delivery has its receipt.")]
    finished_at: float | None
    total: int
    parked: Annotated[
        int,
        Meta(description="Of those pending, how many are in parked batches (see `/v1/parked`) and wait for a person."),
    ]
    counts: Annotated[dict[str, int], Meta(description="Deliveries by state; `accepted` never means delivered.")]
    rate: Annotated[float | None, Meta(description="Deliveries a second that ended; null before any did.")]
    eta: Annotated[float | None, Meta(description="Seconds until all have ended, at this rate.")]


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which receipts are wanted."""

    deliveries: Annotated[list[str], Meta(min_length=1, max_length=1000, description="Ids of deliveries.")]


class Found(msgspec.Struct, frozen=True):
    """What is known of deliveries."""

    receipts: Annotated[list[Receipt], Meta(description="Those without a verdict have the state `pending`.")]
    unknown: Annotated[list[str], Meta(description="Ids that are no delivery's, or whose job is forgotten.")]


class ParkedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that nobody sends any more, because process after process died with it in its hands."""

    id: Annotated[str, Meta(description="That of its first delivery; the id of any other leads to it as well.")]
    job: str
    app: str
    provider: str
    origin: Annotated[str, Meta(description="Web Push: the push service. Otherwise empty.")]
    class_: Literal["transactional", "promotional"] = msgspec.field(name="class")
    size: Annotated[int, Meta(description="Its deliveries, those included that have their receipts.")]
    crashes: Annotated[int, Meta(description="Processes that died, or fell silent, and this batch is blamed for it.")]
    parked_at: float
    reason: str


class ParkedPage(msgspec.Struct, frozen=True):
    """Parked batches, oldest first."""

    parked: list[ParkedReport]
    cursor: Annotated[str, Meta(description="Pass it as `after` for the next page.")]


class ParkedDelivery(msgspec.Struct, frozen=True):
    """A delivery of a parked batch that has no receipt."""

    id: str
    recipient: Annotated[str, Meta(description="The caller's id.")]
    target: Annotated[
        str, Meta(description="The beginning of its token or endpoint, and a hash that only this gateway can compute.")
    ]
    sent: Annotated[bool, Meta(description="It was on the wire when its process died: it may have reached its device.")]


class ParkedContents(msgspec.Struct, frozen=True):
    """What a parked batch holds. No token, endpoint or text is shown whole."""

    batch: ParkedReport
    campaign: str
    created_at: float
    expires_at: float | None
    message: Annotated[dict[str, int], Meta(description="Which parts the message has, and their sizes as JSON.")]
    variables: Annotated[list[str], Meta(description="Names of its placeholders.")]
    left: Annotated[int, Meta(description="Deliveries without a receipt.")]
    deliveries: Annotated[list[ParkedDelivery], Meta(description="The first of these.")]


class DeadTokens(msgspec.Struct, frozen=True):
    """Targets that a push service declared dead. Delete them, unless they were registered again after `since`."""

    tokens: list[InvalidToken]
    cursor: Annotated[str, Meta(description="Pass it as `after`, now if the page was full, otherwise some time later.")]


class KeyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an API key; what opens the gateway is not."""

    id: str
    name: str
    scopes: list[str]
    apps: Annotated[list[str] | None, Meta(description="Apps that it is limited to; null: all of the tenant's.")]
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    last_used_at: Annotated[float | None, Meta(description="To the minute or so.")]


class KeyList(msgspec.Struct, frozen=True):
    """Keys, the oldest first, with those that are no longer good."""

    keys: list[KeyReport]


class CreatedKey(msgspec.Struct, frozen=True):
    """A key that was just made."""

    key: KeyReport
    secret: Annotated[str, Meta(description="What to send as `Authorization: Bearer …`. Nobody can show it again.")]


class AuditEntry(msgspec.Struct, frozen=True):
    """Something that was done."""

    at: float
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditPage(msgspec.Struct, frozen=True):
    """What the tenant's people did, oldest first."""

    entries: list[AuditEntry]
    cursor: Annotated[str, Meta(description="Pass it as `after` for the next page.")]


RATE_SPAN = 1.0
"""Seconds since the first receipts from when on the rate is theirs; before, it is that since the job was created."""


def job_report(status: JobStatus, app: str, now: float) -> JobReport:
    """`app` is what the caller calls it."""
    pending = status.counts["pending"]
    until = status.finished_at or now
    since = status.first_finished_at
    if since is None or until - since < RATE_SPAN:
        since = status.created_at
    ended = status.total - pending
    rate = ended / (until - since) if ended and until > since else None
    return JobReport(
        job=status.id,
        app=app,
        class_="transactional" if status.lane == Lane.TRANSACTIONAL else "promotional",
        created_at=status.created_at,
        cancelled=status.cancelled,
        finished=status.finished,
        finished_at=status.finished_at,
        total=status.total,
        parked=status.parked,
        counts=status.counts,
        rate=rate,
        eta=pending / rate if rate else None,
    )
