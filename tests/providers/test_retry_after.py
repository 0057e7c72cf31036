"""Retry-After in both its forms (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.retry_after import date, retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"120", 120.0),
        (b" 120 ", 120.0),
        (b"0", 10.0),
        (b"99999999999999999999", 3600.0),
        (b"Sun, 06 Nov 1994 08:51:37 GMT", 120.0),
        (b"Sun Nov  6 08:51:37 1994", 120.0),
        (b"Sunday, 06-Nov-94 08:51:37 GMT", 120.0),
        (b"Sun, 06 Nov 1994 08:00:00 GMT", 10.0),
        (b"Sun, 06 Nov 2094 08:00:00 GMT", 3600.0),
        (b"soon", None),
        (b"-5", None),
        (b"1.5", None),
        (b"", None),
        (b"\xff", None),
        ("١٢".encode(), None),
    ],
)
def test_both_forms_are_read_and_clamped(value: bytes, seconds: float | None) -> None:
    assert retry_after(((b"x", b"1"), (b"retry-after", value)), NOW, least=10, most=3600) == seconds


@pytest.mark.parametrize("wrong_by", [0.0, 86_400.0, -86_400.0, 1e9])
def test_a_date_is_one_of_the_services_clock(wrong_by: float) -> None:
    """Ours may be wrong by days: the wait is what lies between the service's two dates."""
    answer = ((b"retry-after", b"Sun, 06 Nov 1994 08:51:37 GMT"), (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"))
    assert retry_after(answer, NOW + wrong_by, least=10, most=3600) == 120.0


def test_a_number_of_seconds_needs_no_clock() -> None:
    assert retry_after(((b"retry-after", b"30"), (b"date", b"whenever")), NOW, least=10, most=3600) == 30.0


def test_without_the_field_there_is_nothing_to_say() -> None:
    assert retry_after((), NOW, least=1, most=2) is None
    assert date(()) is None


def test_date() -> None:
    assert date(((b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),)) == NOW


@given(st.binary(max_size=40))
def test_nothing_in_these_fields_raises(value: bytes) -> None:
    waited = retry_after(((b"retry-after", value),), NOW, least=1, most=60)
    assert waited is None or 1 <= waited <= 60
    date(((b"date", value),))
