"""The nouns of the gateway: jobs, batches, receipts.

A job is what a caller submits; a batch is at most `BATCH_SIZE` of its recipients on one route; a delivery is one
recipient of a batch. Whatever is said of a delivery is a column of its batch.
"""

from __future__ import annotations

import enum
import hashlib
import os
import time
import uuid
from array import array

import msgspec

from providers.base import Message, Terms

BATCH_SIZE = 1000


PAIR_MARK = "#"


class Lane(enum.IntEnum):
    """A class's queue: lower is looked at first."""

    TRANSACTIONAL = 0
    PROMOTIONAL = 1


class State(enum.IntEnum):
    """One byte a delivery in its batch's `states` column. From ACCEPTED on it is terminal: its receipt."""

    PENDING = 0  #: not on the wire
    SENT = 1  #: framed, and no verdict yet: unknown if its process dies now
    ACCEPTED = 2  #: the push service took it; never means delivered
    REJECTED = 3  #: the push service, or a check right before sending, will never take it
    INVALID_TOKEN = 4  #: the target is dead
    EXPIRED = 5  #: its time ran out before it could be sent
    CANCELLED = 6  #: the caller took it back in time
    SUPPRESSED = 7  #: a policy kept it back
    UNKNOWN = 8  #: sent, never answered, and not to be sent again
    DEAD_LETTERED = 9  #: given up after too many tries

    @property
    def word(self) -> str:
        """The name in receipts, counts and metrics."""
        return self.name.lower()


TERMINAL_STATES = tuple(state for state in State if state >= State.ACCEPTED)


class Route(msgspec.Struct, frozen=True, order=True):
    """One (app, provider, origin)'s way out. `origin` is "" for the endpoint of the app's settings.

    Where targets are bound to a credential that is not the app's first one, its fingerprint is in it, behind a `#`.
    """

    app: str
    provider: str
    origin: str = ""

    @property
    def place(self) -> str:
        """The origin alone."""
        return self.origin.partition(PAIR_MARK)[0]

    @property
    def pair(self) -> str:
        """The fingerprint of the credential that its targets are bound to; "" for the app's first."""
        return self.origin.partition(PAIR_MARK)[2]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller submitted, without its recipients."""

    id: str
    """`job_` and 32 hex digits; made by `new_job_id`."""
    app: str
    lane: Lane
    campaign: str = ""
    message: Message
    variables: tuple[str, ...] = ()
    """The order of a batch's variable columns: `template.variables(message)`."""
    collapse_key: str | None = None
    ordering_key: str | None = None
    """Nothing of it is sent before every earlier job of the app with the same key has ended."""
    created_at: float
    """UNIX seconds, as all instants here."""
    deliver_at: float | None = None
    expires_at: float | None = None
    resend_unknown: bool
    """`on_unknown`: whether a delivery that was sent and not answered is sent again."""

    @property
    def terms(self) -> Terms:
        return Terms(
            expires_at=self.expires_at,
            collapse_key=self.collapse_key,
            transactional=self.lane is Lane.TRANSACTIONAL,
        )


class Note(msgspec.Struct, array_like=True, gc=False):
    """What is worth keeping of a delivery beyond its state; most deliveries have none."""

    reason: str = ""
    attempts: int = 1
    provider_id: str = ""
    retry_at: float = 0.0
    """Seconds of the queue's clock (`Queue.time`) before which a PENDING one is not to be tried again."""
    unanswered: int = 0
    """How many of the attempts got no answer: each may have reached the device."""
    cuts: int = 0
    """Connections that broke off with it on the wire while the service answered others."""


def new_job_id() -> str:
    return "job_" + os.urandom(16).hex()


def new_batch_id(now: float | None = None) -> bytes:
    """16 bytes: a version 7 UUID (RFC 9562, section 5.7) whose last 16 bits are zero, the place of the index."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    random = int.from_bytes(os.urandom(8), "big")
    value = milliseconds << 80 | 0x7 << 76 | (random >> 46 & 0xFFF) << 64 | 0b10 << 62
    value |= (random & ((1 << 46) - 1)) << 16
    return value.to_bytes(16, "big")


def derived_batch_id(job_id: str, number: int) -> bytes:
    """A batch's id that follows from its job's, for a job that may be submitted twice by the same record: a version 8
    UUID (RFC 9562, section 5.8) whose last 16 bits are zero."""
    digest = bytearray(hashlib.blake2b(f"{job_id}/{number}".encode(), digest_size=16).digest())
    digest[6] = 0x80 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    digest[14:] = b"\0\0"
    return bytes(digest)


def delivery_prefix(batch_id: bytes) -> str:
    """The 32 characters that all delivery ids of a batch share."""
    digits = batch_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:28]}"


INDEX_DIGITS = tuple(b"%04x" % index for index in range(BATCH_SIZE))
"""The last four characters of a delivery id, by index."""


def split_delivery_id(delivery_id: str) -> tuple[bytes, int]:
    """A delivery id's batch id and index.

    Raises:
        ValueError: it is not the canonical form of a delivery id.
    """
    value = uuid.UUID(delivery_id)
    if str(value) != delivery_id:
        raise ValueError("a delivery id is a lower-case UUID with hyphens")
    index = value.int & 0xFFFF
    if index >= BATCH_SIZE:
        raise ValueError("no batch has so many deliveries")
    return (value.int - index).to_bytes(16, "big"), index


def milliseconds_column(count: int) -> array[int]:
    """A column of unsigned 32-bit milliseconds since the job was created; zero until there is a verdict."""
    return array("I", bytes(4 * count))
