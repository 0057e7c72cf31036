"""`POST /v1/projects/{project}/messages:send`: one request for one registration token (fcm.md, sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from providers import template
from providers.base import Alike, Head, Headers, Message, Outcome, Problem, Recipient, Rendered, Rows, Targets, Terms
from providers.fcm import message as envelope
from providers.fcm import response
from providers.fcm.settings import FcmSettings
from providers.template import Column, Template, Texts
from providers.tokens import token_targets

VISIBLE = bytes(byte for byte in range(0x21, 0x7F) if byte not in b'"\\')
"""ASCII that needs no escape in JSON. Tokens are opaque; they have about 150 characters of `A-Za-z0-9_:-`."""


def targets(recipients: Sequence[Recipient]) -> Targets:
    """One column: the registration token as it stands in JSON."""
    return token_targets(
        recipients,
        alphabet=VISIBLE,
        lengths=range(1, 4097),
        refusal="token: has to be a registration token: 1 to 4096 visible ASCII characters",
    )


def check(message: Message, terms: Terms) -> list[Problem]:
    """Everything that FCM would refuse for all recipients; each such answer would count against the quota."""
    found = template.problems(message) or list(envelope.check(message, terms))
    if found or template.variables(message):
        return found
    size = envelope.payload_size(envelope.document(message, terms))
    if size > envelope.LONGEST_PAYLOAD:
        found.append(
            Problem("/message", f"has {size} bytes of data and notification; FCM takes {envelope.LONGEST_PAYLOAD}")
        )
    return found


class FcmPlan:
    """A `Plan`. What is left of the job's time becomes the ttl, in whole seconds."""

    bare_accept = False  # the answer holds the message's name

    def __init__(self, message: Message, terms: Terms, settings: FcmSettings, origin: str) -> None:
        names = template.variables(message)
        self.slice = 32 if template.has_logic(names) else 500
        self._expires_at = terms.expires_at
        self._template = template.compile(envelope.document(message, terms), names, envelope.SLOTS)
        self._filled = self._template
        self._ttl: int | None = None
        self._fixed: Headers = (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", origin.removeprefix("https://").encode()),
            (b":path", f"/v1/projects/{settings.project}/messages:send?prettyPrint=false".encode()),
            (b"content-type", b"application/json; charset=utf-8"),
            (b"x-goog-api-format-version", b"2"),  # asks for the structured error details
        )

    def head(self, auth: Headers, now: float) -> Head:
        return Head(self._fixed + auth, (), ())

    def render(self, rows: Rows, now: float) -> Rendered:
        slots: tuple[Column, ...] = (rows.targets[0], rows.ids, [], [])
        texts = self._of_this_second(now).render(rows.variables, slots, len(rows.ids))
        _reject_oversized(texts)
        return Rendered((), texts.bodies, texts.rejected)

    def outcome(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return response.outcome(status, headers, body, now)

    def provider_ids(self, alike: Alike) -> Sequence[str] | None:
        return response.provider_ids(alike)

    def _of_this_second(self, now: float) -> Template:
        if self._expires_at is None:
            return self._template
        ttl = min(max(int(self._expires_at - now), 0), envelope.LONGEST_TTL)
        if ttl != self._ttl:
            self._ttl = ttl
            values = {envelope.TTL: b"%ds" % ttl, envelope.TTL_SECONDS: b"%d" % ttl}
            self._filled = self._template.fill({envelope.SLOTS.index(name): value for name, value in values.items()})
        return self._filled


def _reject_oversized(texts: Texts) -> None:
    """Reject what FCM counts as too large. It counts a part of the body, so a body within the limit needs no look."""
    limit = envelope.LONGEST_PAYLOAD
    if max(map(len, texts.bodies), default=0) <= limit:
        return
    for position, body in enumerate(texts.bodies):
        if len(body) <= limit or position in texts.rejected:
            continue
        size = envelope.payload_size(orjson.loads(body))
        if size > limit:
            texts.rejected[position] = f"data and notification have {size} bytes of at most {limit}"
