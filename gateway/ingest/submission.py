"""What a caller submits, without its recipients: read strictly, and made into a `Job`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.ingest.problem import pointer, undecoded
from gateway.model import Job, Lane, new_job_id
from providers import template
from providers.base import Message, Problem

YEAR = 365 * 86400
TTL = "a number of seconds, or a number with s, m, h or d, such as 6h"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TTL = re.compile(r"([0-9]{1,9})([smhd])")
_CALLERS_KEY = re.compile(r"[!-~]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Instant = Annotated[datetime, Meta(tz=True)]


class JobLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of an NDJSON upload."""

    app: Annotated[str, Meta(min_length=1, max_length=64, description="A name under `[apps]` in the configuration.")]
    class_: Annotated[
        Literal["transactional", "promotional"],
        Meta(description="Transactional ones, such as one-time codes, overtake promotional ones."),
    ] = msgspec.field(name="class")
    campaign: Annotated[str, Meta(max_length=128, description="The caller's own label.")] = ""
    ttl: Annotated[
        int | str | None,
        Meta(
            description=f"How long the notification is worth sending: {TTL}. It counts from `deliver_at`, or from the"
            " moment the job is accepted. Not together with `expires_at`.",
            examples=["6h", 1800],
        ),
    ] = None
    expires_at: Annotated[Instant | None, Meta(description="After this nothing is sent any more.")] = None
    deliver_at: Annotated[Instant | None, Meta(description="Before this nothing is sent.")] = None
    collapse_key: Annotated[
        str | None,
        Meta(
            description="Replaces an earlier notification with the same key on the device. Visible ASCII.",
            extra_json_schema={"pattern": "^[!-~]{1,64}$"},
        ),
    ] = None
    ordering_key: Annotated[
        str | None,
        Meta(
            description="Nothing of this job is sent before every earlier job of the app with the same key has a"
            " receipt for each of its deliveries: newer never overtakes older, and a retry holds back its key alone."
            " Earlier is what was answered earlier, whatever its class; a job with `deliver_at` holds back the later"
            " ones until it is done. Without a key nothing waits. Visible ASCII.",
            extra_json_schema={"pattern": "^[!-~]{1,64}$"},
        ),
    ] = None
    on_unknown: Annotated[
        Literal["resend", "report"] | None,
        Meta(
            description="What to do about a delivery that was sent and never answered: send it again (it may arrive"
            " twice), or report it as `unknown`. Transactional jobs resend unless told otherwise, promotional ones"
            " report."
        ),
    ] = None
    message: Message


class JobDocument(JobLine, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON body: the job and its recipients, which are decoded apart, a slice at a time."""

    recipients: msgspec.Raw


_Kind = TypeVar("_Kind", bound=JobLine)


def read(text: bytes, kind: type[_Kind]) -> _Kind:
    """Decode a job.

    Raises:
        Refused: 400 where it is not JSON, 422 where it is not a job.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise undecoded(error, text, kind) from None


def job(line: JobLine, app: str, now: float) -> tuple[Job, list[Problem]]:
    """The job that was submitted for the app of this full name, and what is wrong with it by itself."""
    overrides = list(_overrides(line.message))
    # Even a job that is refused is stored for a moment, to find its key's former answer; such a message cannot be.
    message = Message() if overrides else line.message
    problems = [*_words(line), *overrides]
    lane = Lane.TRANSACTIONAL if line.class_ == "transactional" else Lane.PROMOTIONAL
    on_unknown = line.on_unknown or ("resend" if lane is Lane.TRANSACTIONAL else "report")
    made = Job(
        id=new_job_id(),
        app=app,
        lane=lane,
        campaign=line.campaign,
        message=message,
        variables=template.variables(message),
        collapse_key=line.collapse_key,
        ordering_key=line.ordering_key,
        created_at=now,
        deliver_at=_instant(line.deliver_at),
        expires_at=_expiry(line, now, problems),
        resend_unknown=on_unknown == "resend",
    )
    return made, problems + list(_times(made))


def _words(line: JobLine) -> Iterator[Problem]:
    if _CONTROL.search(line.campaign):
        yield Problem("/campaign", "must not hold control characters")
    for name, key in (("collapse_key", line.collapse_key), ("ordering_key", line.ordering_key)):
        if key is not None and not _CALLERS_KEY.fullmatch(key):
            yield Problem(f"/{name}", "must be 1 to 64 visible ASCII characters")


def _overrides(message: Message) -> Iterator[Problem]:
    """What JSON allows in the raw provider blocks and no service takes. A stack: they may be nested 1,000 deep."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [
        (("message", name), block) for name in ("apns", "fcm", "webpush", "stub") if (block := getattr(message, name))
    ]
    while waiting:
        path, value = waiting.pop()
        if len(path) > template.DEEPEST:
            yield Problem(pointer(path), f"is nested deeper than {template.DEEPEST} levels")
        elif isinstance(value, dict):
            waiting += [((*path, key), child) for key, child in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, index), child) for index, child in enumerate(value)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            yield Problem(pointer(path), "does not fit into 64 bits")


def _instant(value: datetime | None) -> float | None:
    return None if value is None else value.timestamp()


def _expiry(line: JobLine, now: float, problems: list[Problem]) -> float | None:
    if line.ttl is None:
        return _instant(line.expires_at)
    if line.expires_at is not None:
        problems.append(Problem("/ttl", "cannot stand together with expires_at; leave one of them out"))
    start = now if line.deliver_at is None else max(now, line.deliver_at.timestamp())
    try:
        return start + ttl_seconds(line.ttl)
    except ValueError as error:
        problems.append(Problem("/ttl", str(error)))
        return None


def ttl_seconds(ttl: int | str) -> int:
    """A TTL in seconds.

    Raises:
        ValueError: it is no duration, or not between one second and a year.
    """
    if isinstance(ttl, str):
        match = _TTL.fullmatch(ttl)
        if match is None:
            raise ValueError(f"is no duration; write {TTL}")
        ttl = int(match[1]) * _SECONDS[match[2]]
    if not 1 <= ttl <= YEAR:
        raise ValueError("must be at least one second and at most 365 days")
    return ttl


def _times(made: Job) -> Iterator[Problem]:
    """What is wrong with a job's instants as things stand when it arrives."""
    if made.deliver_at is not None and made.deliver_at > made.created_at + YEAR:
        yield Problem("/deliver_at", "is more than 365 days ahead")
    if made.expires_at is None:
        return
    if made.expires_at <= made.created_at:
        yield Problem("/expires_at", "is in the past")
    elif made.expires_at > made.created_at + 2 * YEAR:
        yield Problem("/expires_at", "is more than two years ahead")
    elif made.deliver_at is not None and made.expires_at <= made.deliver_at:
        yield Problem("/expires_at", "is not after deliver_at")
