"""`POST` to a subscription's endpoint: an encrypted body, TTL, Urgency, Topic (webpush.md, section 0)."""

from __future__ import annotations

from collections.abc import Sequence

from providers import template
from providers.base import Alike, Head, Headers, Message, Outcome, Problem, Rendered, Rows, Terms
from providers.webpush import message as push
from providers.webpush import response
from providers.webpush.encryption import LONGEST_PLAINTEXT, encrypt
from providers.webpush.subscription import POINT, SECRET, decode


def check(message: Message, terms: Terms) -> list[Problem]:
    """What push services would refuse for all recipients."""
    found = template.problems(message) or list(push.check(message, terms))
    if not found and _compile(message, terms).least > LONGEST_PLAINTEXT:
        found.append(Problem("/message", f"the payload is larger than {LONGEST_PLAINTEXT} bytes for every recipient"))
    return found


def _compile(message: Message, terms: Terms) -> template.Template:
    return template.compile(push.document(message, terms), template.variables(message), (push.ID,))


class WebPushPlan:
    """A `Plan` for the subscriptions of one origin."""

    slice = 24
    """Two milliseconds of elliptic curves, as long as a slice of APNs takes."""
    bare_accept = False  # Location names the message

    def __init__(self, message: Message, terms: Terms, origin: str) -> None:
        self._message = message
        self._terms = terms
        self._template = _compile(message, terms)
        self._service = response.service(origin)
        self._topic = push.topic(message, terms)
        # What is left of the job's time changes by the second, everything else never.
        self._ttl_varies = terms.expires_at is not None and "ttl" not in message.webpush
        self._fixed = self._fixed_fields(origin)
        self._varying: tuple[bytes, ...] = (b":path",)
        if self._ttl_varies:
            self._varying += (b"ttl",)
        if self._topic is None:
            self._varying += (b"topic",)

    def head(self, auth: Headers, now: float) -> Head:
        literal: Headers = () if self._topic is None else ((b"topic", self._topic),)
        return Head(self._fixed + auth, literal, self._varying)

    def render(self, rows: Rows, now: float) -> Rendered:
        texts = self._template.render(rows.variables, (rows.ids,), len(rows.ids))
        template.reject_oversized(texts, LONGEST_PLAINTEXT)
        paths, p256dh, auth = rows.targets
        bodies = encrypt(texts.bodies, decode(p256dh, POINT), decode(auth, SECRET))
        fields: tuple[list[bytes], ...] = (paths,)
        if self._ttl_varies:
            fields += ([b"%d" % push.ttl(self._message, self._terms, now)] * len(rows.ids),)
        if self._topic is None:
            fields += ([push.topic_of_delivery(delivery_id) for delivery_id in rows.ids],)
        return Rendered(fields, bodies, texts.rejected)

    def outcome(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return response.outcome(self._service, status, headers, body, now)

    def provider_ids(self, alike: Alike) -> Sequence[str] | None:
        return response.provider_ids(alike)

    def _fixed_fields(self, origin: str) -> Headers:
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", origin.removeprefix("https://").encode()),
            (b"content-encoding", b"aes128gcm"),
            (b"content-type", b"application/octet-stream"),
        ]
        lifetime = push.ttl(self._message, self._terms, 0.0)
        if not self._ttl_varies:
            fields.append((b"ttl", b"%d" % lifetime))
        if urgency := push.urgency(self._message, self._terms):
            fields.append((b"urgency", urgency.encode()))
        if self._service is response.Service.WINDOWS:
            # Its default contradicts a TTL of 0, and any other policy contradicts a positive one.
            fields.append((b"x-wns-cache-policy", b"cache" if lifetime else b"no-cache"))
        return tuple(fields)
