"""The payload: what a message becomes, and what Apple's schema says about it (apns.md, section 5).

`title` and `body` become `aps.alert`. `image`, `link` and `data` become custom keys of these names beside `aps`; with
an image `mutable-content` is 1, which lets the app's notification service extension fetch and attach it. The `apns`
block is merged last, so it can set or replace everything. Its key `headers` is no part of the payload; see
`providers.apns.push`.

https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from providers.base import Message, Problem
from providers.merge import merge
from providers.template import Number, is_templated, number, pointer_part

NUMERIC = frozenset(
    {
        "badge",
        "content-available",
        "mutable-content",
        "relevance-score",
        "timestamp",
        "stale-date",
        "dismissal-date",
        "content-changed",
    }
)
"""Keys of `aps` whose value is a bare number or boolean, also where a placeholder gives it."""

ROOT = "/message/apns"


def payload(message: Message) -> dict[str, Any]:
    """The document to compile, with `Number` in the numeric places that a placeholder fills."""
    alert = {key: text for key, text in (("title", message.title), ("body", message.body)) if text is not None}
    aps: dict[str, Any] = {"alert": alert} if alert else {}
    document: dict[str, Any] = {"aps": aps}
    if message.image is not None:
        aps["mutable-content"] = 1
        document["image"] = message.image
    if message.link is not None:
        document["link"] = message.link
    if message.data:
        document["data"] = message.data
    merged: dict[str, Any] = merge(document, {key: value for key, value in message.apns.items() if key != "headers"})
    return {**merged, "aps": with_numbers(merged["aps"])}


def with_numbers(aps: Any) -> Any:
    """`aps` with its numeric keys marked."""
    if not isinstance(aps, dict):
        return aps
    return {key: number(value) if key in NUMERIC else value for key, value in aps.items()}


def check(document: dict[str, Any], push_type: str) -> Iterator[Problem]:
    """What Apple would refuse or the device could not decode. Keys that Apple does not name are let through."""
    aps = document.get("aps")
    yield from check_aps(aps, live=push_type == "liveactivity", pointer=f"{ROOT}/aps")
    if isinstance(aps, dict):
        yield from _check_for_type(aps, push_type, ROOT)


def check_aps(aps: Any, *, live: bool, pointer: str) -> Iterator[Problem]:
    """The types of the values in `aps`; `live` ones are for Live Activities."""
    if not isinstance(aps, dict):
        yield Problem(pointer, "has to be an object")
        return
    for key, value in aps.items():
        if key == "alert":
            yield from _check_alert(value, live, f"{pointer}/alert")
        elif key == "relevance-score" and live:
            yield from _judge(value, _is_number, "a number", f"{pointer}/{key}")
        elif key in RULES:
            yield from _judge(value, *RULES[key], f"{pointer}/{key}")


def _judge(value: Any, rule: Callable[[Any], bool], expected: str, pointer: str) -> Iterator[Problem]:
    if not rule(value):
        yield Problem(pointer, f"has to be {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Number) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_one(value: Any) -> bool:
    return isinstance(value, Number) or (value == 1 and not isinstance(value, bool))


def _is_true(value: Any) -> bool:
    return isinstance(value, Number) or value is True


def _is_score(value: Any) -> bool:
    return isinstance(value, Number) or (_is_number(value) and 0 <= value <= 1)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    def rule(value: Any) -> bool:
        return isinstance(value, str) and (value in words or is_templated(value))

    return rule, "one of " + ", ".join(words)


def _is_sound(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, dict):
        return False
    volume = value.get("volume", 1)
    return (
        value.get("critical", 0) in (0, 1)
        and isinstance(value.get("name", ""), str)
        and _is_number(volume)
        and 0 <= volume <= 1
    )


_STRING = (_is_string, "a string")
_SECONDS = (_is_whole, "an integer: UNIX seconds")
_ONE = (_is_one, "the number 1")

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "badge": (_is_whole, "an integer from 0, not a string"),
    "sound": (_is_sound, "a file name, or an object with critical (0 or 1), name (a string) and volume (0 to 1)"),
    "thread-id": _STRING,
    "category": _STRING,
    "target-content-id": _STRING,
    "filter-criteria": _STRING,
    "content-available": _ONE,
    "mutable-content": _ONE,
    "interruption-level": _one_of("passive", "active", "time-sensitive", "critical"),
    "relevance-score": (_is_score, "a number from 0 to 1"),
    "event": _one_of("start", "update", "end"),
    "timestamp": _SECONDS,
    "stale-date": _SECONDS,
    "dismissal-date": _SECONDS,
    "content-state": (_is_object, "an object"),
    "attributes-type": _STRING,
    "attributes": (_is_object, "an object"),
    "input-push-token": _ONE,
    "input-push-channel": _STRING,
    "content-changed": (_is_true, "true"),
}

_ALERT_STRINGS = (
    "title",
    "subtitle",
    "body",
    "launch-image",
    "title-loc-key",
    "subtitle-loc-key",
    "loc-key",
)
_ALERT_LISTS = ("title-loc-args", "subtitle-loc-args", "loc-args")


def _check_alert(alert: Any, live: bool, pointer: str) -> Iterator[Problem]:
    if isinstance(alert, str):
        return
    if not isinstance(alert, dict):
        yield Problem(pointer, "has to be a string or an object")
        return
    for key, value in alert.items():
        at = f"{pointer}/{pointer_part(key)}"
        if key in _ALERT_STRINGS and not (live and key in ("title", "body") and isinstance(value, dict)):
            yield from _judge(value, *_STRING, at)
        elif key in _ALERT_LISTS:
            yield from _judge(value, _is_strings, "an array of strings", at)
        elif key == "sound":
            yield from _judge(value, *RULES["sound"], at)


VISIBLE = ("alert", "badge", "sound")


def _check_for_type(aps: dict[str, Any], push_type: str, root: str) -> Iterator[Problem]:
    if push_type == "alert" and not any(key in aps for key in VISIBLE):
        yield Problem(root, "nothing to show: give a title or a body, or aps.alert, aps.badge or aps.sound")
    elif push_type == "background":
        yield from _check_background(aps, root)
    elif push_type == "liveactivity":
        yield from _check_live_activity(aps, root)
    elif push_type == "widgets" and "content-changed" not in aps:
        yield Problem(f"{root}/aps/content-changed", "has to be true in a widgets push")


def _check_background(aps: dict[str, Any], root: str) -> Iterator[Problem]:
    if "content-available" not in aps:
        yield Problem(f"{root}/aps/content-available", "has to be 1 in a background push")
    for key in VISIBLE:
        if key in aps:
            yield Problem(f"{root}/aps/{key}", "a background push shows nothing: no alert, badge or sound")


def _check_live_activity(aps: dict[str, Any], root: str) -> Iterator[Problem]:
    required = ["event", "timestamp", "content-state"]
    if aps.get("event") == "start":
        required += ["attributes-type", "attributes", "alert"]
    elif "input-push-token" in aps or "input-push-channel" in aps:
        yield Problem(f"{root}/aps/event", "input-push-token and input-push-channel only go with event start")
    for key in required:
        if key not in aps:
            yield Problem(f"{root}/aps/{key}", "is required in this liveactivity push")
    if "input-push-token" in aps and "input-push-channel" in aps:
        yield Problem(f"{root}/aps/input-push-token", "give either input-push-token or input-push-channel, not both")
