"""Answers that are alike: found and taken apart many at a time, as columns.

A service answers one success like the other. FCM's have the header block in common, and bodies of one size; those of
Web Push services are blocks of one size that differ in a value, the Location's. What two answers have in common is a
`Shape`, by which the next ones are found.

A shape fits an answer only if all bytes around those that may differ are the same. The length of what may differ is
among them, so such an answer decodes to the same fields but for that one value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from gateway.http2 import frames
from gateway.http2.frames import Type
from gateway.http2.hpack import ACCEPTED, Decoded, plain_fields
from providers.base import Headers

LEAST_TRIED = 4
MOST_TRIED = 1024
"""Answers that are taken apart at once: twice as many as were alike the last time, so that where every other one is
different little is done in vain."""

HOPELESS = 16
"""Pairs of answers in a row without a shape, after which a connection's are not compared any more: 7 us each."""


class Found(NamedTuple):
    """Answers of a shape that follow each other, as columns."""

    stream_ids: Sequence[int]
    values: Sequence[bytes]
    """Of the field that differs."""
    bodies: Sequence[bytes]


class Shape:
    """What the answers have in common, byte by byte."""

    def __init__(self, decoded: Decoded, before: bytes, value: bytes, after: bytes, place: int, body: bytes | None):
        """`before`, `value` and `after` are a header block.

        Args:
            place: of the field that has this value; -1 where none differs, and `value` is b"".
            body: None where the header block ends the answer.
        """
        self.headers: Headers = decoded.fields
        self.status = decoded.status or 0
        self.place = place
        self.body_size = 0 if body is None else len(body)
        self.accepted = decoded is ACCEPTED
        """Whether only the status matters."""
        self._common = (before, after)
        self._has_body = body is not None
        size = len(before) + len(value) + len(after)
        layout = f"{len(before)}s{len(value)}s{len(after)}s"
        if body is None:
            self.opening = _opening(size, Type.HEADERS, frames.END_HEADERS | frames.END_STREAM)
            self._layout = struct.Struct(f">5sI{layout}")
        else:
            self.opening = _opening(size, Type.HEADERS, frames.END_HEADERS)
            self._layout = struct.Struct(f">5sI{layout}5sI{len(body)}s")
        self.stride = self._layout.size
        """Bytes of an answer."""
        self._constants = [(0, self.opening), (2, before), (4, after)]
        if body is not None:
            self._constants.append((5, _opening(len(body), Type.DATA, frames.END_STREAM)))
        self._most = LEAST_TRIED

    def fits(self, block: bytes, body: bytes) -> bool:
        """Whether an answer of these frames is of this shape."""
        return self._has_body and self._common == (block, b"") and self.body_size == len(body)

    def find(self, data: bytes, start: int) -> Found | None:
        """Answers of this shape from `start` on; None if the first one is not whole, or of another."""
        count = min(self._most, (len(data) - start) // self.stride)
        if not count:
            return None
        rows = self._layout.iter_unpack(memoryview(data)[start : start + count * self.stride])
        columns = list(zip(*rows, strict=True))
        alike = self._alike(columns, count)
        self._most = min(max(LEAST_TRIED, 2 * alike), MOST_TRIED)
        if not alike:
            return None
        if alike < count:
            columns = [column[:alike] for column in columns]
        return Found(columns[1], columns[3], columns[7] if self._has_body else (b"",) * alike)

    def _alike(self, columns: Sequence[Sequence[object]], count: int) -> int:
        """How many rows are of this shape before the first one that is not."""
        rows = count
        for column, constant in self._constants:
            # Behind the first row that is not of this shape may be others that look as if they were.
            values = columns[column] if count == rows else columns[column][:count]
            if values.count(constant) < count:
                count = next(row for row in range(count) if values[row] != constant)
        if self._has_body and columns[1] != columns[6]:
            count = next((row for row in range(count) if columns[1][row] != columns[6][row]), count)
        return count


def _opening(size: int, kind: int, flags: int) -> bytes:
    """A frame's header up to the stream's id."""
    return frames.FRAME_HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, 0)[:5]


class Successes:
    """What a connection's successes look like, learned from those that went the long way."""

    def __init__(self) -> None:
        self.shape: Shape | None = None
        self._former: tuple[bytes, int] = b"", 0  # header block, and bytes of the body
        self._in_vain = 0

    def with_body(self, decoded: Decoded, block: bytes, body: bytes) -> None:
        """An answer of a header block and a body, each in one frame. Two of one size make a shape."""
        former, self._former = self._former, (block, len(body))
        if former == self._former and (self.shape is None or not self.shape.fits(block, body)):
            self.shape = Shape(decoded, block, b"", b"", -1, body)

    def alone(self, decoded: Decoded, block: bytes) -> None:
        """An answer of a header block alone, in one frame. Two that differ in one value make a shape."""
        (former, _), self._former = self._former, (block, -1)
        if len(former) == len(block) and self._in_vain < HOPELESS:
            found = _by_value(decoded, block, former)
            self._in_vain = self._in_vain + 1 if found is None else 0
            self.shape = found or self.shape


def _by_value(decoded: Decoded, block: bytes, former: bytes) -> Shape | None:
    """The shape of two header blocks, the first of which says `decoded`; None if they differ in more than a value."""
    ours, theirs = plain_fields(block), plain_fields(former)
    if ours is None or theirs is None or ours.ends != theirs.ends:
        return None
    places = [place for place, field in enumerate(ours.fields) if field != theirs.fields[place]]
    if len(places) != 1 or not places[0]:  # the status is the first
        return None
    (place,) = places
    name, value = ours.fields[place]
    stop = ours.ends[place]
    start = stop - len(value)
    before, after = block[:start], block[stop:]
    if name != theirs.fields[place][0] or not former.startswith(before) or former[stop:] != after:
        return None
    return Shape(decoded, before, value, after, place, None)
