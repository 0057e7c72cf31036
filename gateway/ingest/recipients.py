"""Recipients, decoded many at a time; one by one only where that finds something wrong.

A text is either lines of NDJSON or elements of a JSON array. Either way `decode` costs 0.4 us a recipient of 180 bytes,
and what is wrong with one of them is said about that one alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from gateway.ingest.answers import Refusal
from gateway.ingest.problem import located
from providers import base

ID_LENGTH = 128

_REASON_LENGTH = 256


class Recipient(base.Recipient, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A recipient as a caller sends it: `token` or `subscription`, whichever its provider knows."""

    id: Annotated[str, Meta(min_length=1, max_length=ID_LENGTH)]


class Refusals:
    """All of a job's: counts every one and keeps the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._listed: list[Refusal] = []
        self.count = 0

    def listed(self) -> list[Refusal]:
        """In the order of the recipients."""
        return sorted(self._listed, key=lambda refusal: refusal.index)

    def add(self, index: int, recipient_id: str | None, reason: str) -> None:
        self.count += 1
        if len(self._listed) < self._most:
            self._listed.append(Refusal(index, recipient_id, reason[:_REASON_LENGTH]))

    def add_text(self, index: int, text: bytes, error: Exception) -> None:
        """A recipient that could not be decoded. To explain it costs 20 us, so only where somebody will see it."""
        if len(self._listed) < self._most:
            where, detail = located(error, text, Recipient)
            self.add(index, _id(text), f"{where[1:]}: {detail}" if where else detail)
        else:
            self.count += 1


class Slice(NamedTuple):
    """Recipients that were decoded together."""

    recipients: Sequence[Recipient]
    indexes: Sequence[int]
    """Of each of them, among the job's recipients."""
    total: int
    """How many there were, refused ones included."""


_SLICE = 500
"""Recipients that are decoded one by one before others get their turn: 5 ms if every one has to be explained."""
_BOUNDARY = re.compile(rb"(?<=\})[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE = b" \t\r\n"
_ERRORS = (ValueError, RecursionError)

_one = msgspec.json.Decoder(Recipient)
_list = msgspec.json.Decoder(list[Recipient])
_any = msgspec.json.Decoder()


def decode_lines(text: bytes, first: int, limit: int, refusals: Refusals) -> Iterator[Slice]:
    """Recipients of whole lines; blank ones do not count. `first` is the index of the first."""
    count = text.count(b"\n") + (not text.endswith(b"\n"))
    recipients = _try(_one.decode_lines, text)
    if recipients is not None and len(recipients) == count:  # else a line is blank, or has no or several values
        yield Slice(recipients, range(first, first + count), count)
        return
    lines = [line for line in text.split(b"\n") if line.strip(_SPACE)]
    for start in range(0, len(lines), _SLICE):
        yield _one_by_one(lines[start : start + _SLICE], first + start, limit, refusals)


def decode_array(array: bytes, limit: int, refusals: Refusals) -> Iterator[Slice]:
    """Recipients of an array of valid JSON, about `limit` bytes of it at a time.

    Where an element ends is guessed first. The guess was right if all before it decodes: that is whole elements then,
    since a place inside of a string or of a nested array leaves one open. Otherwise the elements are looked for.
    """
    start, end, first = array.index(b"[") + 1, array.rindex(b"]"), 0
    while start < end:
        cut = _BOUNDARY.search(array, start + limit, start + 2 * limit)
        stop, after = cut.span() if cut else (min(end, start + 2 * limit), end)
        text = b"[" + array[start:stop] + b"]"
        recipients = _try(_list.decode, text)
        if recipients is not None and (cut or stop == end):
            yield Slice(recipients, range(first, first + len(recipients)), len(recipients))
            first, start = first + len(recipients), after
        else:
            elements, start = _elements(array, start, end, limit)
            yield _one_by_one(elements, first, limit, refusals)
            first += len(elements)


def _elements(array: bytes, start: int, end: int, limit: int) -> tuple[list[bytes], int]:
    """The next elements, until they fill a slice; and where the one after them begins."""
    found: list[bytes] = []
    depth, begin = 0, start
    for token in _TOKEN.finditer(array, start, end):
        sign = token[0]
        if sign in b"[{":
            depth += 1
        elif sign in b"]}":
            depth -= 1
        elif sign == b"," and depth == 0:
            found.append(array[begin : token.start()].strip(_SPACE))
            begin = token.end()
            if len(found) == _SLICE or begin - start > limit:
                return found, begin
    rest = array[begin:end].strip(_SPACE)
    return ([*found, rest] if rest else found), end


def _try(decode: Callable[[bytes], list[Recipient]], text: bytes) -> list[Recipient] | None:
    if _sound(text):
        with suppress(*_ERRORS):
            return decode(text)
    return None


def _one_by_one(texts: Sequence[bytes], first: int, limit: int, refusals: Refusals) -> Slice:
    recipients, indexes = [], []
    for index, text in enumerate(texts, first):
        try:
            if len(text) > limit:
                raise ValueError(too_long(limit))
            if not _sound(text):
                _any.decode(text)
            recipients.append(_one.decode(text))
        except _ERRORS as error:
            refusals.add_text(index, text, error)
        else:
            indexes.append(index)
    return Slice(recipients, indexes, len(texts))


def too_long(limit: int) -> str:
    return f"is longer than {limit:,} bytes"


def _sound(text: bytes) -> bool:
    """Whether nothing can hide in the text of variables, which is kept as it is and never decoded.

    That is what is not UTF-8, or half a surrogate pair (RFC 8259, section 8.2): both would spoil the payload. False
    also where that is hard to tell. The first search is for one byte because that costs 0.01 us a line, three 0.15.
    """
    if b"\\" in text and _HALF.search(text) and (b"\\\\" in text or _HALF.search(_PAIR.sub(b"", text))):
        return False
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return True


class _Named(msgspec.Struct):
    id: str | None = None


def _id(text: bytes) -> str | None:
    try:
        name = msgspec.json.decode(text, type=_Named).id
    except _ERRORS:
        return None
    return None if name is None else name[:ID_LENGTH]
