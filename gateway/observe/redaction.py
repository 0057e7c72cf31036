"""What leaves this program in words: the one place where it is made harmless.

- Fields are hidden by their name, and whatever gives itself away by its shape.
- Of an exception its type and where it was raised are shown, never what it says: that may quote a message, an answer of
  a service, or the bytes of a request.
- Of a library's record only the fixed text is shown, and its numbers: the rest may be anything that passed through it.
- A device token is shown by `Mask`, where it has to be told from others at all.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from structlog.typing import EventDict, WrappedLogger

HIDDEN = "[hidden]"

_SECRET_KEY = re.compile(
    r"token|secret|password|authori[sz]ation|payload|endpoint|subscription|assertion|jwt|p256dh|cookie|private"
    r"|(^|[_-])(auth|keys?|body|headers|targets?|vars)$",
    re.IGNORECASE,
)
"""Names whose values are not shown. `key_id`, `fingerprint` and `origin` are, and so are numbers under any name."""

_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\b(?:bearer|basic|vapid|webpush)\s+[\w.=,~+/-]{8,}"  # authorization schemes
    r"|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"  # a JWT
    r"|\bya29\.[\w.-]+"  # a Google access token
    r"|(?<![0-9A-Fa-f])[0-9A-Fa-f]{64,}(?![0-9A-Fa-f])"  # an APNs device token
    r"|\b[\w-]{8,}:APA91[\w-]+"  # an FCM registration token
    r"|\bcarillon_[a-z0-9-]{1,32}_[\w-]{43}"  # an API key of ours
    r"|(?<=://)([^\s/\"']+)/[^\s\"']{20,}",  # the path of a push endpoint; its host stays
    re.IGNORECASE | re.DOTALL,
)
"""What gives itself away in free text."""

_FORMAT = re.compile(r"%(?:\(\w+\))?[-+ #0-9.*]*[sdrifxga%]")

FRAMES = 30
"""Of a traceback, the innermost ones."""
CAUSES = 5
"""Exceptions of a chain or group that are told of."""


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide by name of the field and by shape of the text."""
    return {key: _shown(key, value) for key, value in event.items()}


def _shown(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(inner): _shown(str(inner), below) for inner, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown("", below) for below in value]
    if isinstance(value, BaseException):
        return type(value).__name__
    return _SECRET_TEXT.sub(_cover, value if isinstance(value, str) else repr(value))


def _cover(match: re.Match[str]) -> str:
    return f"{match[1]}/{HIDDEN}" if match[1] else HIDDEN


def tell_exceptions(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make a traceback without words of the exception that a record comes with."""
    event.pop("stack_info", None)
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else info
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = described(error)
    return event


def described(error: BaseException) -> str:
    """Types and places of an exception and of what led to it, without anything that they say."""
    return "\n".join(line for cause in _chain(error) for line in _lines(cause))


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, told = [error], 0
    while waiting and told < CAUSES:
        current = waiting.pop(0)
        told += 1
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
        led = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if led is not None:
            waiting.append(led)


def _lines(error: BaseException) -> Iterator[str]:
    yield "Traceback (innermost last), without what it says:"
    yield from _places(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}"


def _places(trace: TracebackType | None) -> Iterator[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(trace), limit=-FRAMES, lookup_lines=False)
    for frame in frames:
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'


def unquoted(text: object, arguments: object) -> str:
    """Of a library's record the first line of its fixed text, with numbers where it wanted them."""
    values = iter(arguments if isinstance(arguments, tuple) else ())

    def fill(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        value = next(values, None)
        return str(value) if isinstance(value, int | float) else HIDDEN

    if not isinstance(text, str):
        return type(text).__name__
    return _FORMAT.sub(fill, text.split("\n", 1)[0])


class Mask:
    """Shows device tokens so that one can be told from another, and not be used.

    Args:
        key: secret of this installation, without which nobody can find out whose hash it is.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, path: Path) -> Mask:
        """With the key in a file, which is made if there is none: all processes show a token in the same way.

        Raises:
            OSError: it can neither be read nor made.
        """
        with suppress(FileExistsError):
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(draft, path)  # whole, or not at all
            finally:
                draft.unlink()
        return cls(path.read_bytes())

    def __call__(self, token: str) -> str:
        """The first six characters, where it has many more, and a keyed hash."""
        shown = token[:6] if len(token) >= 24 else ""
        return f"{shown}…{hmac.digest(self._key, token.encode(), 'sha256').hex()[:12]}"
