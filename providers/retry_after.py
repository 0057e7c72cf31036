"""The Retry-After field: how long a service asks to be left alone (RFC 9110, section 10.2.3)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from providers.base import Headers


def retry_after(headers: Headers, now: float, least: float, most: float) -> float | None:
    """Seconds, whichever of its two forms the field has, clamped to [least, most]; None without a readable one.

    A date is one of the service's clock, so it is counted from the answer's own Date where there is one: by how much
    our clock is wrong then does not matter.
    """
    for name, value in headers:
        if name == b"retry-after":
            asked_at = date(headers)
            seconds = _seconds(value.decode("latin-1").strip(), now if asked_at is None else asked_at)
            return None if seconds is None else min(max(seconds, least), most)
    return None


def date(headers: Headers) -> float | None:
    """The Date field as UNIX seconds: what time the service thinks it is."""
    for name, value in headers:
        if name == b"date":
            return _instant(value.decode("latin-1"))
    return None


def _seconds(value: str, now: float) -> float | None:
    if value.isascii() and value.isdecimal():
        return float(value[:10])
    instant = _instant(value)
    return None if instant is None else instant - now


def _instant(value: str) -> float | None:
    try:
        instant = parsedate_to_datetime(value)
        # The obsolete forms name no zone; every form means UTC (RFC 9110, section 5.6.7).
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
