"""The shape of an FCM v1 message: which fields there are, and what may stand in them (REST reference, messages)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Violation(NamedTuple):
    """As in google.rpc.BadRequest."""

    field: str
    description: str


Check = Callable[[Any, str], Iterator[Violation]]

RESERVED = re.compile(r"from$|message_type$|google\.|gcm\.notification\.")
"""Keys that `data` may not have."""
MAX_TTL = 2_419_200


def violations(document: dict[str, Any]) -> list[Violation]:
    """What is wrong with a request's JSON, by proto path."""
    return list(_REQUEST(document, ""))


def _fields(**checks: Check) -> Check:
    """An object with these fields, in snake_case or lowerCamelCase."""
    spellings = checks | {_camel(name): check for name, check in checks.items()}

    def check(value: Any, path: str) -> Iterator[Violation]:
        if not isinstance(value, dict):
            yield Violation(path, "is not an object")
            return
        for name, item in value.items():
            place = f"{path}.{name}" if path else name
            if name in spellings:
                yield from spellings[name](item, place)
            else:
                yield Violation(path or name, f'Unknown name "{name}": Cannot find field.')

    return check


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def _is(kind: type, word: str) -> Check:
    def check(value: Any, path: str) -> Iterator[Violation]:
        if type(value) is not kind:
            yield Violation(path, f"is not {word}")

    return check


def _matches(pattern: str, word: str) -> Check:
    expression = re.compile(pattern)

    def check(value: Any, path: str) -> Iterator[Violation]:
        if not isinstance(value, str) or not expression.fullmatch(value):
            yield Violation(path, f"is not {word}")

    return check


def _each(item: Check) -> Check:
    def check(value: Any, path: str) -> Iterator[Violation]:
        if not isinstance(value, list):
            yield Violation(path, "is not a list")
            return
        for index, element in enumerate(value):
            yield from item(element, f"{path}[{index}]")

    return check


def _map(value: Any, path: str) -> Iterator[Violation]:
    """map<string, string>; entries are named by their number, as protos do."""
    if not isinstance(value, dict):
        yield Violation(path, "is not an object")
        return
    for index, item in enumerate(value.values()):
        if not isinstance(item, str):
            yield Violation(f"{path}[{index}].value", "is not a string")


def _data(value: Any, path: str) -> Iterator[Violation]:
    yield from _map(value, path)
    for index, name in enumerate(value if isinstance(value, dict) else ()):
        if RESERVED.match(name):
            yield Violation(f"{path}[{index}].key", f"Invalid data payload key: {name}")


def _ttl(value: Any, path: str) -> Iterator[Violation]:
    if not isinstance(value, str) or not re.fullmatch(r"\d+(\.\d{1,9})?s", value):
        yield Violation(path, "Illegal duration format; duration must end with 's'")
    elif float(value[:-1]) > MAX_TTL:
        yield Violation(path, f"is longer than {MAX_TTL} seconds")


def _one_of(*words: str, any_case: bool = False) -> Check:
    allowed = {*words, *(word.lower() for word in words if any_case)}

    def check(value: Any, path: str) -> Iterator[Violation]:
        if value not in allowed:
            yield Violation(path, f"is not one of {', '.join(words)}")

    return check


_TEXT, _BOOL, _OBJECT = _is(str, "a string"), _is(bool, "true or false"), _is(dict, "an object")
_INT32 = _is(int, "an integer")
_TEXTS = _each(_TEXT)
_DURATION = _matches(r"\d+(\.\d{1,9})?s", "a duration such as 3.5s")
_LABEL = _fields(analytics_label=_matches(r"[a-zA-Z0-9\-_.~%]{1,50}", "an analytics label"))


def _number(value: Any, path: str) -> Iterator[Violation]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        yield Violation(path, "is not a number from 0 to 1")


_LIGHT = _fields(
    color=_fields(red=_number, green=_number, blue=_number, alpha=_number),
    light_on_duration=_DURATION,
    light_off_duration=_DURATION,
)
_ANDROID_NOTIFICATION = _fields(
    title=_TEXT,
    body=_TEXT,
    icon=_TEXT,
    color=_matches(r"#[0-9a-fA-F]{6}", "a colour such as #rrggbb"),
    sound=_TEXT,
    tag=_TEXT,
    click_action=_TEXT,
    body_loc_key=_TEXT,
    body_loc_args=_TEXTS,
    title_loc_key=_TEXT,
    title_loc_args=_TEXTS,
    channel_id=_TEXT,
    image=_TEXT,
    ticker=_TEXT,
    sticky=_BOOL,
    event_time=_matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", "a time in RFC 3339, Zulu"),
    local_only=_BOOL,
    notification_priority=_one_of(
        *(f"PRIORITY_{word}" for word in ("UNSPECIFIED", "MIN", "LOW", "DEFAULT", "HIGH", "MAX"))
    ),
    default_sound=_BOOL,
    default_vibrate_timings=_BOOL,
    default_light_settings=_BOOL,
    vibrate_timings=_each(_DURATION),
    light_settings=_LIGHT,
    visibility=_one_of("VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET", any_case=True),
    notification_count=_INT32,
    proxy=_one_of("PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED", any_case=True),
    bypass_proxy_notification=_BOOL,
)
_ANDROID = _fields(
    collapse_key=_TEXT,
    priority=_one_of("NORMAL", "HIGH", any_case=True),
    ttl=_ttl,
    restricted_package_name=_TEXT,
    data=_data,
    notification=_ANDROID_NOTIFICATION,
    fcm_options=_LABEL,
    direct_boot_ok=_BOOL,
    bandwidth_constrained_ok=_BOOL,
    restricted_satellite_ok=_BOOL,
)
_APNS = _fields(
    headers=_map,
    payload=_OBJECT,
    fcm_options=_fields(analytics_label=_matches(r"[a-zA-Z0-9\-_.~%]{1,50}", "an analytics label"), image=_TEXT),
    live_activity_token=_TEXT,
)
_WEBPUSH = _fields(
    headers=_map,
    data=_map,
    notification=_OBJECT,
    fcm_options=_fields(
        link=_matches(r"https://.+", "an https link"),
        analytics_label=_matches(r"[a-zA-Z0-9\-_.~%]{1,50}", "an analytics label"),
    ),
)
_REQUEST = _fields(
    validate_only=_BOOL,
    message=_fields(
        name=_TEXT,
        fid=_TEXT,
        token=_TEXT,
        topic=_TEXT,
        condition=_TEXT,
        data=_data,
        notification=_fields(title=_TEXT, body=_TEXT, image=_TEXT),
        android=_ANDROID,
        apns=_APNS,
        webpush=_WEBPUSH,
        fcm_options=_LABEL,
    ),
)
