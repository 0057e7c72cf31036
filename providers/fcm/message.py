"""The `message` of a send request: what a message becomes (fcm.md, section 2).

`title`, `body` and `image` become `notification`, `data` becomes `data`, and `link` a key of it as well as
`webpush.fcm_options.link`. Without a title, body and image it is a data message, which iOS gets as a background push.
The job's expiration becomes `android.ttl`, `apns.headers.apns-expiration` and `webpush.headers.TTL`; its collapse key
`android.collapse_key`, the notification's tag, `apns-collapse-id` and `webpush.headers.Topic`. Without one each
delivery has a tag and an `apns-collapse-id` of its own, so that a resend replaces; it has no `collapse_key` of its
own, because FCM keeps only four of these for a device.

The `fcm` block is merged last. Its names may be snake_case or camelCase, as the service takes both.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from providers.apns.payload import VISIBLE, check_aps, with_numbers
from providers.base import Message, Problem, Terms
from providers.merge import merge
from providers.template import Slot, is_templated, pointer_part

TOKEN, ID, TTL, TTL_SECONDS = SLOTS = ("token", "id", "ttl", "ttl seconds")

LONGEST_TTL = 2_419_200
"""Seconds, which is 28 days."""
LONGEST_COLLAPSE_ID = 64
"""Bytes; what APNs takes."""
LONGEST_PAYLOAD = 4096
"""Bytes of the keys and values of data and notification."""

ROOT = "/message/fcm"
TARGETS = ("token", "topic", "condition", "fid")

FREE = frozenset({"data", "headers", "payload"})
"""Names whose objects hold the caller's own keys at any depth, which stay as they are."""

_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_DURATION = re.compile(r"([0-9]{1,12})(\.[0-9]{1,9})?s")
_LABEL = re.compile(r"[a-zA-Z0-9_.~%-]{1,50}")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def document(message: Message, terms: Terms) -> dict[str, Any]:
    """The request's body, to be compiled with `SLOTS`."""
    block = snake_case(message.fcm)
    merged = merge(merge(_common(message, block), _by_terms(message, block, terms)), block)
    payload = merged.get("apns", {}).get("payload", {})
    if "aps" in payload:
        merged = merge(merged, {"apns": {"payload": {"aps": with_numbers(payload["aps"])}}})
    return {"message": merged}


def _notification(message: Message) -> dict[str, str]:
    parts = (("title", message.title), ("body", message.body), ("image", message.image))
    return {name: text for name, text in parts if text is not None}


def _shows_on_android(message: Message, block: dict[str, Any]) -> bool:
    return bool(_notification(message)) or "notification" in block or "notification" in block.get("android", {})


def _shows_on_ios(message: Message, block: dict[str, Any]) -> bool:
    aps = block.get("apns", {}).get("payload", {}).get("aps", {})
    return bool(_notification(message)) or "notification" in block or any(key in aps for key in VISIBLE)


def _common(message: Message, block: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"token": Slot(TOKEN)}
    if notification := _notification(message):
        made["notification"] = notification
    if message.image is not None:  # iOS attaches it in the app's notification service extension only
        made["apns"] = {"payload": {"aps": {"mutable-content": 1}}}
    if not _shows_on_ios(message, block):
        # FCM asks for priority 5 in data messages to iOS, and iOS wakes no app without content-available.
        headers = {"apns-push-type": "background", "apns-priority": "5"}
        made["apns"] = {"headers": headers, "payload": {"aps": {"content-available": 1}}}
    data = message.data
    if message.link is not None:
        data = {"link": message.link, **data}
        if message.link.startswith("https://"):  # FCM refuses any other
            made["webpush"] = {"fcm_options": {"link": message.link}}
    if data:
        made["data"] = data
    return made


def _by_terms(message: Message, block: dict[str, Any], terms: Terms) -> dict[str, Any]:
    own = Slot(ID) if terms.collapse_key is None else terms.collapse_key
    android: dict[str, Any] = {"priority": "HIGH"} if terms.transactional else {}
    apns: dict[str, Any] = {"apns-collapse-id": own}
    webpush: dict[str, Any] = {}
    if terms.expires_at is not None:
        android["ttl"] = Slot(TTL)
        apns["apns-expiration"] = str(int(terms.expires_at))
        webpush["TTL"] = Slot(TTL_SECONDS)
    if terms.collapse_key is not None:
        android["collapse_key"] = terms.collapse_key
        webpush["Topic"] = _topic(terms.collapse_key)
    if _shows_on_android(message, block):
        android["notification"] = {"tag": own}
    made = {"android": android, "apns": {"headers": apns}, "webpush": {"headers": webpush} if webpush else {}}
    return {name: part for name, part in made.items() if part}


def _topic(collapse_key: str) -> str:
    """32 characters that any push service takes, whatever the key (webpush.md, section 6)."""
    return base64.urlsafe_b64encode(hashlib.sha256(collapse_key.encode()).digest()[:24]).decode()


def snake_case(block: dict[str, Any], free: frozenset[str] = FREE) -> dict[str, Any]:
    """The block with the service's names in snake_case, so that it merges with ours; the caller's own names stay."""
    made: dict[str, Any] = {}
    for name, value in block.items():
        own = _snake(name)
        if isinstance(value, dict) and own not in free:
            # A browser's notification has camelCase options of its own.
            value = snake_case(value, FREE | {"notification"} if own == "webpush" else FREE)
        made[own] = value
    return made


def _snake(name: str) -> str:
    return _CAMEL.sub(lambda match: "_" + match[1].lower(), name)


def check(message: Message, terms: Terms) -> Iterator[Problem]:
    """What FCM would refuse about the message. Names that this does not know are let through."""
    block = snake_case(message.fcm)
    if not (_notification(message) or message.data or message.link or block):
        yield Problem("/message", "nothing to send: give a title, a body, data or an fcm block")
    for name in TARGETS:
        if name in block:
            yield Problem(f"{ROOT}/{name}", "the target comes from the recipients")
    for name in ("notification", "android", "apns", "webpush", "fcm_options"):
        if name in block and not isinstance(block[name], dict):
            yield Problem(f"{ROOT}/{name}", "has to be an object")
            return
    yield from _check_data(message.data, "/message/data")
    yield from _check_data(block.get("data", {}), f"{ROOT}/data")
    yield from _check_android(block.get("android", {}))
    yield from _check_apns(block.get("apns", {}), terms)
    yield from _check_webpush(block.get("webpush", {}))
    yield from _check_label(block.get("fcm_options"), f"{ROOT}/fcm_options")


def _check_data(data: Any, pointer: str) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield Problem(pointer, "has to be an object of strings")
        return
    for key, value in data.items():
        at = f"{pointer}/{pointer_part(key)}"
        if key in ("from", "message_type") or key.startswith(("google.", "gcm.notification.")):
            yield Problem(at, "FCM reserves this key: from, message_type, google.… and gcm.notification.…")
        if not isinstance(value, str):
            yield Problem(at, "has to be a string: FCM's data are strings only")


def _check_android(android: dict[str, Any]) -> Iterator[Problem]:
    at = f"{ROOT}/android"
    if "data" in android:
        yield from _check_data(android["data"], f"{at}/data")
    ttl = android.get("ttl")
    if ttl is not None and not _is_ttl(ttl):
        yield Problem(f"{at}/ttl", f'has to be a duration from "0s" to "{LONGEST_TTL}s"')
    priority = android.get("priority")
    if priority is not None and str(priority).upper() not in ("NORMAL", "HIGH") and not is_templated(str(priority)):
        yield Problem(f"{at}/priority", "has to be NORMAL or HIGH")
    notification = android.get("notification", {})
    if not isinstance(notification, dict):
        yield Problem(f"{at}/notification", "has to be an object")
        return
    color = notification.get("color")
    if color is not None and not (isinstance(color, str) and (_COLOR.fullmatch(color) or is_templated(color))):
        yield Problem(f"{at}/notification/color", "has to be #rrggbb")
    yield from _check_label(android.get("fcm_options"), f"{at}/fcm_options")


def _is_ttl(ttl: Any) -> bool:
    match = _DURATION.fullmatch(ttl) if isinstance(ttl, str) else None
    return match is not None and float(ttl[:-1]) <= LONGEST_TTL


def _check_apns(apns: dict[str, Any], terms: Terms) -> Iterator[Problem]:
    at = f"{ROOT}/apns"
    yield from _check_strings(apns.get("headers", {}), f"{at}/headers")
    payload = apns.get("payload", {})
    if not isinstance(payload, dict):
        yield Problem(f"{at}/payload", "has to be an object")
    elif "aps" in payload:
        live = "live_activity_token" in apns
        yield from check_aps(with_numbers(payload["aps"]), live=live, pointer=f"{at}/payload/aps")
    if terms.collapse_key is not None and len(terms.collapse_key.encode()) > LONGEST_COLLAPSE_ID:
        yield Problem("/collapse_key", f"has more than {LONGEST_COLLAPSE_ID} bytes, the most that APNs takes from FCM")
    if terms.collapse_key is not None and is_templated(terms.collapse_key):
        yield Problem("/collapse_key", "placeholders are not replaced in it")
    yield from _check_label(apns.get("fcm_options"), f"{at}/fcm_options")


def _check_webpush(webpush: dict[str, Any]) -> Iterator[Problem]:
    at = f"{ROOT}/webpush"
    yield from _check_strings(webpush.get("headers", {}), f"{at}/headers")
    if "data" in webpush:
        yield from _check_strings(webpush["data"], f"{at}/data")
    options = webpush.get("fcm_options")
    link = options.get("link") if isinstance(options, dict) else None
    if link is not None and not (isinstance(link, str) and link.startswith("https://")):
        yield Problem(f"{at}/fcm_options/link", "has to start with https://")


def _check_strings(values: Any, pointer: str) -> Iterator[Problem]:
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        yield Problem(pointer, "has to be an object of strings")


def _check_label(options: Any, pointer: str) -> Iterator[Problem]:
    label = options.get("analytics_label") if isinstance(options, dict) else None
    if label is not None and not (isinstance(label, str) and (_LABEL.fullmatch(label) or is_templated(label))):
        yield Problem(f"{pointer}/analytics_label", "has to be 1 to 50 of the characters a-z A-Z 0-9 - _ . ~ %")


def payload_size(document: dict[str, Any]) -> int:
    """Bytes that FCM counts, as far as is known: keys and values of the effective data and of the notification."""
    message = document["message"]
    android = message.get("android", {})
    data = max(_size(message.get("data", {})), _size(android.get("data", {})))
    return data + _size(message.get("notification", {}))


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(key.encode()) + _size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(str(value).encode())
