"""Spans of time as operators write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def seconds(value: object) -> object:
    """A duration such as `15s`, `1h30m` or `7d` in seconds; anything else is left for the field to judge.

    Raises:
        ValueError: it has a unit, but is no duration.
    """
    if not isinstance(value, str) or value.replace(".", "", 1).isdecimal():
        return value
    if not value or _DURATION.sub("", value):
        raise ValueError("expected a duration: seconds, or a number with ms, s, m, h or d, such as 15s or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))


Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, allow_inf_nan=False)]
