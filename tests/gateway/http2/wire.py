"""The server's side of the wire in plain bytes, written without `gateway.http2.frames` so that it can disagree."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from gateway.http2.protocol import ClientProtocol
from providers.base import Head

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5

OK = b"\x88"
"""A header block that says `:status 200`."""
NOT_FOUND = b"\x8d"
CONTINUE = b"\x08\x03100"

HEAD = Head(
    fixed=((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"push.example"), (b"apns-topic", b"shop")),
    literal=(),
    varying=(b":path", b"apns-id"),
)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


def raw(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def split(data: bytes) -> Iterator[Frame]:
    """The frames that `data` consists of, to the last byte."""
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "the last frame is cut off"
        yield Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size])
        data = data[9 + size :]


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def settings(values: dict[int, int] | None = None) -> bytes:
    return raw(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in (values or {}).items()))


def bare(stream_id: int, block: bytes = OK) -> bytes:
    """An answer that is one frame."""
    return raw(HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def begun(stream_id: int, block: bytes = OK) -> bytes:
    """The header fields of an answer whose body follows, or of an informational one."""
    return raw(HEADERS, END_HEADERS, stream_id, block)


def body(stream_id: int, payload: bytes, *, end: bool = True) -> bytes:
    return raw(DATA, END_STREAM if end else 0, stream_id, payload)


def reset(stream_id: int, code: int) -> bytes:
    return raw(RST_STREAM, 0, stream_id, number(code))


def goaway(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    return raw(GOAWAY, 0, 0, number(last) + number(code) + debug)


def window_update(stream_id: int, increment: int) -> bytes:
    return raw(WINDOW_UPDATE, 0, stream_id, number(increment))


def padded(payload: bytes, padding: int) -> bytes:
    return bytes((padding,)) + payload + bytes(padding)


def send(protocol: ClientProtocol, bodies: list[bytes], first_tag: int = 0, head: Head = HEAD) -> int:
    tags = list(range(first_tag, first_tag + len(bodies)))
    fields = tuple([b"/%s/%06d" % (name, tag) for tag in tags] for name in head.varying)
    return protocol.send(head, fields, bodies, tags)


def ready(values: dict[int, int] | None = None) -> ClientProtocol:
    """A connection past its first answer, so that only the peer's limits hold it back."""
    protocol = ClientProtocol()
    protocol.receive_data(settings(values))
    protocol.trust()
    protocol.data_to_send()
    return protocol


def busy(count: int, values: dict[int, int] | None = None) -> ClientProtocol:
    """A connection with `count` requests on the wire: tags 0, 1, 2, … on streams 1, 3, 5, …"""
    protocol = ready(values)
    assert send(protocol, [b"{}"] * count) == count
    protocol.data_to_send()
    return protocol


def sent_frames(protocol: ClientProtocol) -> list[Frame]:
    return list(split(protocol.data_to_send().removeprefix(PREFACE)))
