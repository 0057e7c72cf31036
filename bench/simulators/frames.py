"""HTTP/2 frames as bytes (RFC 9113, section 6) and stateless header blocks (RFC 7541, section 6)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from functools import lru_cache

from .message import Headers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

MAX_STREAM = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384


class Setting(enum.IntEnum):
    """RFC 9113, section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(enum.IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


HEAD = struct.Struct(">IBI")
"""Length (24 bits) with type (8 bits), flags, stream."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + debug)


STATIC_NAMES = {
    b"content-length": 28,
    b"content-type": 31,
    b"date": 33,
    b"link": 45,
    b"location": 46,
    b"retry-after": 53,
}
STATIC_STATUSES = {200: b"\x88", 204: b"\x89", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}


def integer(value: int, prefix: int, flags: int = 0) -> bytes:
    """An integer in a prefix of so many bits (RFC 7541, section 5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((flags | value,))
    out = bytearray((flags | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


@lru_cache(maxsize=4096)
def _name(name: bytes) -> bytes:
    index = STATIC_NAMES.get(name)
    return integer(index, 4) if index else b"\x00" + integer(len(name), 7) + name


@lru_cache(maxsize=1024)
def status_field(status: int) -> bytes:
    return STATIC_STATUSES.get(status) or b"\x08\x03%d" % status


def header_block(status: int, headers: Headers) -> bytes:
    """A block of literals without indexing: decodable whatever table the peer keeps."""
    parts = [status_field(status)]
    for name, value in headers:
        parts += (_name(name), integer(len(value), 7), value)
    return b"".join(parts)
