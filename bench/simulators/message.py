"""A request and its answer, whichever HTTP carried them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Headers = tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """One whole request."""

    method: bytes
    path: bytes
    headers: dict[bytes, bytes]
    """Fields but the pseudo ones, by lower-case name."""
    repeated: bool
    """Whether a field came more than once; `headers` then has the last."""
    body: bytes

    @classmethod
    def of(cls, fields: Iterable[tuple[bytes, bytes]], body: bytes) -> Request:
        """From a list of fields with pseudo-header fields (RFC 9113, section 8.3)."""
        listed = list(fields)
        headers = dict(listed)
        repeated = len(headers) != len(listed)
        return cls(headers.pop(b":method", b""), headers.pop(b":path", b""), headers, repeated, body)


class Answer(NamedTuple):
    """One whole answer."""

    status: int
    headers: Headers = ()
    body: bytes = b""
