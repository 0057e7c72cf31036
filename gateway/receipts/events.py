"""Receipts and dead targets as CloudEvents 1.0: the one place that builds them, for every feed that goes out.

An event's id is made of what it tells of, so that whoever is told twice sees it. A delivery is in one event, and after
the loss of a machine in two at most; the first with its id counts.

`carillon.receipts` tells of many deliveries of one batch, as columns: those at the same place of `recipients` and
`milliseconds` are one delivery. Its id is `delivery` plus its index (of `indexes`, or its place where there are none)
as four hex digits, its state is `state` unless `exceptions` says otherwise of its place. `carillon.receipt` tells of
one delivery, `carillon.token.invalid` of a target that is dead, and `carillon.job.accepted` of a job that came from a
topic: what is the answer to a job over HTTP. Webhooks tell of some at once, `carillon.receipt.list` and
`carillon.token.invalid.list`, as they are read over HTTP.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from gateway.model import INDEX_DIGITS, Note, State, delivery_prefix
from gateway.queue.columns import Columns, encode_indexes
from gateway.receipts.states import WORDS, InvalidToken, Receipt

RECEIPTS = "carillon.receipts"
RECEIPT = "carillon.receipt"
INVALID_TOKEN = "carillon.token.invalid"
JOB_ACCEPTED = "carillon.job.accepted"
RECEIPT_LIST = "carillon.receipt.list"
INVALID_TOKEN_LIST = "carillon.token.invalid.list"
TRIAL = "carillon.test"

JSON = "application/json"

_encode = msgspec.json.Encoder().encode
_DIGITS = tuple(digits.decode() for digits in INDEX_DIGITS)
_NO_NOTE = Note()


class Event(NamedTuple):
    """A CloudEvent; `data` is JSON."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    """RFC 3339."""
    data: bytes


class Ended(NamedTuple):
    """Deliveries of a batch that have their receipts."""

    batch_id: bytes
    job: str
    app: str
    provider: str
    created: float
    """UNIX seconds at which the job was accepted."""
    recipients: bytes
    """Of the whole batch, as in `NewBatch`."""
    columns: Columns
    indexes: Sequence[int] | None
    """Which deliveries; None: all of the batch."""


class Exceptional(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is different about a delivery."""

    state: str
    reason: str = ""
    attempts: int = 1
    unanswered: int = 0
    provider_id: str = ""


class Receipts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The data of `carillon.receipts`."""

    job: str
    app: str
    provider: str
    delivery: str
    """What the ids of all its deliveries begin with."""
    created_at: float
    recipients: list[str]
    milliseconds: list[int]
    """From `created_at` to the verdict."""
    state: str
    """Of all that are no exception."""
    exceptions: dict[int, Exceptional] = {}
    indexes: list[int] | None = None


def batch_event(ended: Ended) -> Event:
    """All of it in one event. 0.15 us a delivery."""
    states = ended.columns.states
    recipients = ended.recipients.decode().split("\n")
    milliseconds = ended.columns.milliseconds_array().tolist()
    notes = ended.columns.notes_by_index()
    indexes = ended.indexes
    if indexes is not None:
        recipients = [recipients[index] for index in indexes]
        milliseconds = [milliseconds[index] for index in indexes]
        states = bytes(states[index] for index in indexes)
        notes = {place: notes[index] for place, index in enumerate(indexes) if index in notes}
    usual = Counter(states).most_common(1)[0][0]
    data = Receipts(
        job=ended.job,
        app=ended.app,
        provider=ended.provider,
        delivery=delivery_prefix(ended.batch_id),
        created_at=ended.created,
        recipients=recipients,
        milliseconds=milliseconds,
        state=WORDS[usual],
        exceptions=_exceptions(states, usual, notes),
        indexes=None if indexes is None else list(indexes),
    )
    return Event(
        _batch_name(ended),
        _source(ended.app),
        RECEIPTS,
        ended.job,
        _instant(ended.created + max(milliseconds) / 1000),
        _encode(data),
    )


def _exceptions(states: bytes, usual: int, notes: dict[int, Note]) -> dict[int, Exceptional]:
    places = set(notes)
    if states.count(usual) < len(states):
        places.update(place for place, state in enumerate(states) if state != usual)
    return {place: _exception(states[place], notes.get(place, _NO_NOTE)) for place in sorted(places)}


def _exception(state: int, note: Note) -> Exceptional:
    return Exceptional(WORDS[state], note.reason, note.attempts, note.unanswered, note.provider_id)


def delivery_events(ended: Ended) -> Iterator[Event]:
    """One event for each delivery. 3 us a delivery."""
    prefix, source = delivery_prefix(ended.batch_id), _source(ended.app)
    recipients = ended.recipients.decode().split("\n")
    states, milliseconds = ended.columns.states, ended.columns.milliseconds_array()
    notes = ended.columns.notes_by_index()
    for index in range(len(states)) if ended.indexes is None else ended.indexes:
        note, at = notes.get(index, _NO_NOTE), ended.created + milliseconds[index] / 1000
        receipt = Receipt(
            prefix + _DIGITS[index],
            ended.job,
            recipients[index],
            ended.app,
            ended.provider,
            WORDS[states[index]],
            note.reason,
            note.attempts,
            note.unanswered,
            note.provider_id,
            at if states[index] >= State.ACCEPTED else None,
        )
        yield Event(receipt.id, source, RECEIPT, ended.job, _instant(at), _encode(receipt))


def invalid_token_event(app: str, token: InvalidToken) -> Event:
    """A target that a service declared dead; the id changes with the service's word, not with who tells it."""
    named = f"{app}\n{token.provider}\n{token.key}\n{token.since!r}".encode()
    digest = hashlib.blake2b(named, digest_size=16).hexdigest()
    return Event(digest, _source(app), INVALID_TOKEN, token.provider, _instant(token.since), _encode(token))


def receipt_list_event(app: str, id_: str, receipts: Sequence[Receipt]) -> Event:
    """Some receipts of an app."""
    at = max(receipt.at or 0.0 for receipt in receipts)
    return Event(id_, _source(app), RECEIPT_LIST, app, _instant(at), _encode({"receipts": receipts}))


def invalid_token_list_event(app: str, id_: str, tokens: Sequence[InvalidToken]) -> Event:
    """Some targets of an app that are dead."""
    at = max(token.since for token in tokens)
    return Event(id_, _source(app), INVALID_TOKEN_LIST, app, _instant(at), _encode({"tokens": tokens}))


def trial_event(app: str, id_: str, at: float) -> Event:
    """Tells of nothing."""
    return Event(id_, _source(app), TRIAL, app, _instant(at), b"{}")


def accepted_event(job_id: str, origin: str, at: float, answer: bytes) -> Event:
    """A job that came from a topic was taken: its id, and who of its recipients was refused, as said over HTTP.

    Args:
        origin: `topic/partition/offset` of its record.
        at: UNIX seconds at which that was written.
    """
    return Event(job_id, f"/carillon/topics/{origin}", JOB_ACCEPTED, job_id, _instant(at), answer)


def kafka_headers(event: Event) -> list[tuple[str, bytes]]:
    """The event's attributes in Kafka's binary mode; the record's value is the data."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.id.encode()),
        ("ce_source", event.source.encode()),
        ("ce_type", event.type.encode()),
        ("ce_subject", event.subject.encode()),
        ("ce_time", event.time.encode()),
        ("content-type", JSON.encode()),
    ]


def structured(event: Event) -> bytes:
    """The event as one JSON document (`application/cloudevents+json`)."""
    return _encode(
        {
            "specversion": "1.0",
            "id": event.id,
            "source": event.source,
            "type": event.type,
            "subject": event.subject,
            "time": event.time,
            "datacontenttype": JSON,
            "data": msgspec.Raw(event.data),
        }
    )


def _batch_name(ended: Ended) -> str:
    name = str(uuid.UUID(bytes=ended.batch_id))
    if ended.indexes is None:
        return name
    return f"{name}.{hashlib.blake2b(encode_indexes(list(ended.indexes)), digest_size=8).hexdigest()}"


def _source(app: str) -> str:
    return f"/carillon/apps/{app}"


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
