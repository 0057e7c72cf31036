"""`POST /3/device/<device token>`: targets, headers and bodies (apns.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from providers import template
from providers.apns import payload, push, response
from providers.apns.push import Push
from providers.apns.settings import ApnsSettings
from providers.base import Alike, Head, Headers, Message, Outcome, Problem, Recipient, Rendered, Rows, Targets, Terms
from providers.memo import by_message
from providers.template import Template
from providers.tokens import token_targets


def targets(recipients: Sequence[Recipient]) -> Targets:
    """One column: the device token in lower case. Apple names no length, so any even one goes."""
    return token_targets(
        recipients,
        alphabet=b"0123456789abcdef",
        lengths=range(2, 401, 2),
        refusal="token: has to be a device token: 2 to 400 hexadecimal digits, an even number of them",
        canonical=bytes.lower,
    )


def check(message: Message, terms: Terms, settings: ApnsSettings) -> list[Problem]:
    """Everything that APNs would refuse for all recipients; each such answer would slow its connection down."""
    return [*_faults(message, settings), *push.check_collapse_key(message, terms)]


@by_message
def _faults(message: Message, settings: ApnsSettings) -> tuple[Problem, ...]:
    """What is wrong whatever a job's terms are."""
    found = template.problems(message)
    if found:
        return tuple(found)
    planned = push.push(message, settings)
    found += push.check(planned, message, settings)
    if planned.type not in push.WITHOUT_APS or "aps" in planned.payload:
        found += payload.check(planned.payload, planned.type)
    if not planned.payload:
        found.append(Problem(payload.ROOT, "the payload is empty"))
    if not found and _draft(message, settings).template.least > planned.limit:
        found.append(Problem("/message", f"the payload is larger than {planned.limit} bytes for every recipient"))
    return tuple(found)


class _Draft(NamedTuple):
    """What a plan is whatever its job's terms are."""

    push: Push
    template: Template
    slice: int


@by_message
def _draft(message: Message, settings: ApnsSettings) -> _Draft:
    planned = push.push(message, settings)
    names = template.variables(message)
    return _Draft(planned, template.compile(planned.payload, names), 32 if template.has_logic(names) else 500)


class ApnsPlan:
    """A `Plan`. The collapse id is the delivery's own where the job has none, so that a resend replaces."""

    bare_accept = True

    def __init__(self, message: Message, terms: Terms, settings: ApnsSettings, origin: str) -> None:
        draft, self._template, self.slice = _draft(message, settings)
        planned = push.on_terms(draft, terms)
        self._own_topic = planned.own_topic
        self._limit = planned.limit
        self._fixed: Headers = (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", origin.removeprefix("https://").encode()),
            (b"apns-topic", planned.topic.encode()),
            (b"apns-push-type", planned.type.encode()),
            (b"apns-priority", planned.priority.encode()),
        )
        self._literal, self._varying = _by_message(planned)

    def head(self, auth: Headers, now: float) -> Head:
        return Head(self._fixed + auth, self._literal, self._varying)

    def render(self, rows: Rows, now: float) -> Rendered:
        texts = self._template.render(rows.variables, (), len(rows.ids))
        template.reject_oversized(texts, self._limit)
        paths = [b"/3/device/" + token for token in rows.targets[0]]
        fields = (paths, rows.ids, rows.ids) if len(self._varying) == 3 else (paths, rows.ids)
        return Rendered(fields, texts.bodies, texts.rejected)

    def outcome(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return response.outcome(status, headers, body, now, own_topic=self._own_topic)

    def provider_ids(self, alike: Alike) -> Sequence[str] | None:
        return None  # successes have no body, and are not looked at


def _by_message(planned: Push) -> tuple[Headers, tuple[bytes, ...]]:
    """The fields that are the same within a batch, and the names of those that are not."""
    literal: list[tuple[bytes, bytes]] = []
    varying: tuple[bytes, ...] = (b":path", b"apns-id")
    if planned.expiration is not None:
        literal.append((b"apns-expiration", planned.expiration.encode()))
    if planned.collapse_id is None:
        varying += (b"apns-collapse-id",)
    else:
        literal.append((b"apns-collapse-id", planned.collapse_id.encode()))
    return tuple(literal), varying
