"""What follows from a message is worked out once for all jobs that say the same, as those of one-time codes do."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from providers.base import Message

KEPT = 256
"""Results of a function, the first to come being the first to go."""

LARGEST = 4096
"""Bytes of a message of which something is kept; few services take more than that of a payload."""

P = ParamSpec("P")
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


def by_message(work: Callable[Concatenate[Message, P], T]) -> Callable[Concatenate[Message, P], T]:
    """Remember what a function makes of a message and of hashable arguments; nobody may change its results.

    Messages are told apart by their encoding: `1`, `1.0` and `True` are equal, and not the same payload.
    """
    known: dict[object, T] = {}

    @wraps(work)
    def remembering(message: Message, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            text = _encode(message)
        except (ValueError, OverflowError, RecursionError):  # nothing that a job is made of; its faults are looked for
            return work(message, *args, **kwargs)
        if len(text) > LARGEST:
            return work(message, *args, **kwargs)
        key = (text, args, tuple(kwargs.items()))
        try:
            return known[key]
        except KeyError:
            found = known[key] = work(message, *args, **kwargs)
        if len(known) > KEPT:
            del known[next(iter(known))]
        return found

    return remembering
