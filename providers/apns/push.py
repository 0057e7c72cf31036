"""The settings of a push: its type, topic, priority, expiration and collapse id (apns.md, sections 3 and 4).

They come from the job and the app's settings. A message may set them itself, under the key `headers` of its `apns`
block, which is taken out of the payload:

    {"apns": {"headers": {"apns-push-type": "background", "apns-priority": "5"}, "aps": {"content-available": 1}}}

Names are those of `HEADERS`, values strings or integers without placeholders. What nobody sets is derived: the type is
`background` where `content-available` comes without alert, badge and sound, otherwise `alert`; the topic is the app's
with the type's suffix; the priority is 10, for `background` 5; the expiration is the job's, and without one APNs
stores the notification up to 30 days, except for `voip`, where a late call is worse than none.

https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from providers.apns import payload
from providers.apns.settings import ApnsSettings
from providers.base import Message, Problem, Terms
from providers.template import is_templated

HEADERS = ("apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id")

SUFFIXES = {
    "alert": "",
    "background": "",
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "mdm": "",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "location": ".location-query",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
}
"""Push types and what they add to the bundle id. For `mdm` the topic is the UID of the push certificate's subject."""

PRIORITIES = {"background": ("5",), "liveactivity": ("5", "10"), "location": ("5", "10")}
"""What a push type allows; the others allow 1, 5 and 10."""

WITHOUT_APS = frozenset({"mdm", "voip", "complication", "fileprovider", "pushtotalk"})
"""Types whose payload need not have `aps`: the app reads it itself."""

LONGEST_PAYLOAD = 4096
LONGEST_VOIP_PAYLOAD = 5120
LONGEST_COLLAPSE_ID = 64
"""Bytes, all three."""

AT = f"{payload.ROOT}/headers"


class Push(NamedTuple):
    """A message for APNs, with everything decided that is the same for all recipients.

    Before `on_terms`, `expiration` and `collapse_id` are None where they are left to the job.
    """

    type: str
    topic: str
    own_topic: bool
    """The topic is the one of the app's settings."""
    priority: str
    expiration: str | None
    collapse_id: str | None
    """None: each delivery is its own."""
    payload: dict[str, Any]

    @property
    def limit(self) -> int:
        return LONGEST_VOIP_PAYLOAD if self.type == "voip" else LONGEST_PAYLOAD


def push(message: Message, settings: ApnsSettings) -> Push:
    """Decide everything but what is left to the terms; it can be wrong as long as `check` was not asked about it."""
    document = payload.payload(message)
    headers = _headers(message)
    kind = headers.get("apns-push-type") or _derived_type(document["aps"])
    topic = settings.topic + SUFFIXES.get(kind, "")
    if kind in WITHOUT_APS and not document["aps"]:
        document = {key: value for key, value in document.items() if key != "aps"}
    return Push(
        type=kind,
        topic=headers.get("apns-topic", topic),
        own_topic=headers.get("apns-topic", topic) == settings.topic,
        priority=headers.get("apns-priority", "5" if kind == "background" else "10"),
        expiration=headers.get("apns-expiration"),
        collapse_id=headers.get("apns-collapse-id"),
        payload=document,
    )


def on_terms(push: Push, terms: Terms) -> Push:
    """The same with what the message leaves to a job's terms."""
    return push._replace(
        expiration=_expiration(terms, push.type) if push.expiration is None else push.expiration,
        collapse_id=terms.collapse_key if push.collapse_id is None else push.collapse_id,
    )


def _headers(message: Message) -> dict[str, str]:
    headers = message.apns.get("headers")
    return {name: str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}


def _derived_type(aps: Any) -> str:
    silent = isinstance(aps, dict) and "content-available" in aps and not any(key in aps for key in payload.VISIBLE)
    return "background" if silent else "alert"


def _expiration(terms: Terms, kind: str) -> str | None:
    if terms.expires_at is not None:
        return str(int(terms.expires_at))
    return "0" if kind == "voip" else None


def check(push: Push, message: Message, settings: ApnsSettings) -> Iterator[Problem]:
    """What APNs would refuse about these settings."""
    yield from _check_headers(message)
    if push.type not in SUFFIXES:
        yield Problem(f"{AT}/apns-push-type", "has to be one of " + ", ".join(SUFFIXES))
        return
    if not push.topic.endswith(SUFFIXES[push.type]):
        yield Problem(f"{AT}/apns-topic", f"has to end in {SUFFIXES[push.type]} for push type {push.type}")
    if push.type == "location" and settings.certificate_file is not None:
        yield Problem(f"{AT}/apns-push-type", "location pushes need a signing key; the app has a certificate")
    allowed = PRIORITIES.get(push.type, ("1", "5", "10"))
    if push.priority not in allowed:
        yield Problem(f"{AT}/apns-priority", f"has to be {' or '.join(allowed)} for push type {push.type}")
    if push.expiration is not None and not (push.expiration.isascii() and push.expiration.isdecimal()):
        yield Problem(f"{AT}/apns-expiration", "has to be an integer: UNIX seconds, or 0 for one attempt only")
    if push.collapse_id is not None:
        yield from _check_collapse_id(push.collapse_id, f"{AT}/apns-collapse-id")


def check_collapse_key(message: Message, terms: Terms) -> Iterator[Problem]:
    """The same about a collapse id that a job's terms give."""
    if terms.collapse_key is not None and "apns-collapse-id" not in _headers(message):
        yield from _check_collapse_id(terms.collapse_key, "/collapse_key")


def _check_headers(message: Message) -> Iterator[Problem]:
    headers = message.apns.get("headers", {})
    if not isinstance(headers, dict):
        yield Problem(AT, "has to be an object")
        return
    for name, value in headers.items():
        if name not in HEADERS:
            yield Problem(AT, "may only have the keys " + ", ".join(HEADERS))
        elif isinstance(value, bool) or not isinstance(value, (str, int)):
            yield Problem(f"{AT}/{name}", "has to be a string or an integer")
        elif isinstance(value, str) and (is_templated(value) or not value.isprintable() or value != value.strip()):
            yield Problem(f"{AT}/{name}", "may have no placeholders, no control characters, and no spaces at its ends")


def _check_collapse_id(collapse_id: str, at: str) -> Iterator[Problem]:
    size = len(collapse_id.encode())
    if not 1 <= size <= LONGEST_COLLAPSE_ID:
        yield Problem(at, f"has {size} bytes; APNs takes 1 to {LONGEST_COLLAPSE_ID}")
    if not collapse_id.isprintable() or collapse_id != collapse_id.strip():
        yield Problem(at, "may have no control characters, and no spaces at its ends")
