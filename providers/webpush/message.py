"""The payload, which the website's service worker gets, and the settings of a push (webpush.md, sections 0 and 10).

The payload is JSON: `title`, `body`, `image`, `url` (the message's `link`), `data`, and `tag`, by which a browser
replaces a notification it shows: the job's collapse key, otherwise the delivery's id. The `webpush` block is merged
last, except for three keys that set header fields and may hold no placeholders:

    urgency   very-low, low, normal or high; otherwise high for transactional jobs, and left out for others
    topic     by which a push service replaces what it has not delivered yet; otherwise derived
    ttl       seconds that a push service keeps the message; otherwise what is left of the job's time, or 28 days

https://www.rfc-editor.org/rfc/rfc8030
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from providers.base import Message, Problem, Terms
from providers.jws import base64url
from providers.merge import merge
from providers.template import Slot, is_templated

ID = "id"
URGENCIES = ("very-low", "low", "normal", "high")
LONGEST_TTL = 2_419_200
"""Seconds, which is 28 days: what FCM stores at most; Apple and Mozilla go to 30."""
FIELDS = ("urgency", "topic", "ttl")
ROOT = "/message/webpush"

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


def document(message: Message, terms: Terms) -> dict[str, Any]:
    """The payload, to be compiled with the slot `ID`."""
    parts = (
        ("title", message.title),
        ("body", message.body),
        ("image", message.image),
        ("url", message.link),
        ("data", message.data or None),
        ("tag", Slot(ID) if terms.collapse_key is None else terms.collapse_key),
    )
    block = {name: value for name, value in message.webpush.items() if name not in FIELDS}
    merged: dict[str, Any] = merge({name: value for name, value in parts if value is not None}, block)
    return merged


def urgency(message: Message, terms: Terms) -> str | None:
    """The Urgency field (RFC 8030, section 5.3); None leaves it out, which means normal."""
    own: str | None = message.webpush.get("urgency")
    return own or ("high" if terms.transactional else None)


def topic(message: Message, terms: Terms) -> bytes | None:
    """The Topic field (RFC 8030, section 5.4) where all deliveries share one; None: each has its own.

    Derived ones are always 32 characters, because Apple decodes them as base64url, which not every length can be.
    """
    own = message.webpush.get("topic")
    if own is not None:
        return str(own).encode()
    if terms.collapse_key is None:
        return None
    return base64url(hashlib.sha256(terms.collapse_key.encode()).digest()[:24])


def topic_of_delivery(delivery_id: bytes) -> bytes:
    """A delivery's own Topic: its id's 32 hexadecimal digits, so that a resend replaces."""
    return delivery_id.replace(b"-", b"")


def ttl(message: Message, terms: Terms, now: float) -> int:
    """The TTL field in seconds (RFC 8030, section 5.2). Only the message itself can make it 0, which Apple refuses."""
    own = message.webpush.get("ttl")
    if own is not None:
        return int(own)
    if terms.expires_at is None:
        return LONGEST_TTL
    return min(max(int(terms.expires_at - now), 1), LONGEST_TTL)


def check(message: Message, terms: Terms) -> Iterator[Problem]:
    """What push services would refuse, or browsers could not show."""
    block = message.webpush
    if not (message.title or message.body or message.data or block.keys() - set(FIELDS)):
        yield Problem("/message", "nothing to show: give a title, a body, data or a webpush block")
    if "urgency" in block and block["urgency"] not in URGENCIES:
        yield Problem(f"{ROOT}/urgency", "has to be one of " + ", ".join(URGENCIES))
    if "topic" in block and not _is_topic(block["topic"]):
        yield Problem(f"{ROOT}/topic", "has to be base64url: 1 to 32 of A-Z a-z 0-9 - _, and not 1, 5, 9 … characters")
    if "ttl" in block and not _is_ttl(block["ttl"]):
        yield Problem(f"{ROOT}/ttl", "has to be an integer from 0: seconds")
    if block.get("silent") is True and "vibrate" in block:
        yield Problem(f"{ROOT}/vibrate", "a silent notification cannot vibrate; browsers refuse to show it")
    if block.get("renotify") is True and block.get("tag") == "":
        yield Problem(f"{ROOT}/renotify", "needs a tag; browsers refuse to show it")
    if terms.collapse_key is not None and is_templated(terms.collapse_key):
        yield Problem("/collapse_key", "placeholders are not replaced in it")


def _is_topic(value: Any) -> bool:
    return isinstance(value, str) and _TOPIC.fullmatch(value) is not None and len(value) % 4 != 1


def _is_ttl(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**31
