"""Header compression for requests that share a head (RFC 7541).

Of each request most fields are the same as of the one before. They enter the peer's dynamic table with the first
request of a head and cost one byte afterwards; what varies is sent as literals without indexing, so it never churns
the table. An index shifts with every insertion, so whatever was cut out of a head (`Cut`) is good for one
`generation` of the table only.

Answers are decoded with our table size at zero, which makes a header block a pure function of its bytes; the library
`hpack` does it, and what it said is remembered for blocks that come again.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import NamedTuple

import hpack
from hpack.table import HeaderTable

from providers.base import Head, Headers

ENTRY_OVERHEAD = 32
"""What RFC 7541 section 4.1 adds to the length of a name and its value."""

OUR_TABLE_LIMIT = 4096
"""More is never used of what a peer offers: a head takes some 500 bytes."""

_STATIC: dict[tuple[bytes, bytes], int] = {}
_STATIC_NAMES: dict[bytes, int] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, start=1):
    _STATIC.setdefault((_name, _value), _index)
    _STATIC_NAMES.setdefault(_name, _index)
_STATIC_COUNT = len(HeaderTable.STATIC_TABLE)
_STATIC_FIELDS = dict(enumerate(HeaderTable.STATIC_TABLE, start=1))


def integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """RFC 7541 section 5.1; `pattern` holds the bits above the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((pattern | value,))
    out = bytearray((pattern | limit,))
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


LENGTHS = tuple(integer(size, 7, 0) for size in range(8192))
"""Lengths of literals without Huffman coding: tokens and ids gain little from it and it costs the most."""


def literal(value: bytes) -> bytes:
    """RFC 7541 section 5.2, without Huffman coding."""
    size = len(value)
    return (LENGTHS[size] if size < len(LENGTHS) else integer(size, 7, 0)) + value


class Cut(NamedTuple):
    """A head encoded around its varying fields, good for one generation of the table.

    A header block is segment 0, the first varying value as a literal, segment 1, the second one, … the last segment.
    """

    generation: int
    segments: tuple[bytes, ...]


class HeadEncoder:
    """The sending side's dynamic table of one connection."""

    def __init__(self) -> None:
        self.generation = 0
        self._capacity = OUR_TABLE_LIMIT
        self._entries: deque[tuple[bytes, bytes]] = deque()  # newest first, as they are numbered
        self._size = 0
        self._updates: list[int] = []  # table sizes to announce at the start of the next block, section 4.2

    def resize(self, peer_limit: int) -> None:
        """The peer announced SETTINGS_HEADER_TABLE_SIZE."""
        capacity = min(peer_limit, OUR_TABLE_LIMIT)
        if capacity == self._capacity:
            return
        # Section 4.2: of several changes the smallest and the last have to be signalled.
        self._updates = [min([capacity, *self._updates]), capacity]
        self._capacity = capacity
        self._evict(0)
        self.generation += 1

    def cut(self, head: Head) -> Cut | None:
        """The head for this generation, or None if `block` has to bring fields into the table first."""
        if self._updates or any(self._wanted(field) for field in self._indexable(head)):
            return None
        return Cut(self.generation, self._segments(head, insert=False))

    def block(self, head: Head, values: tuple[bytes, ...]) -> bytes:
        """One request's header block, which brings the missing fixed fields into the peer's table."""
        updates = b"".join(integer(size, 5, 0x20) for size in dict.fromkeys(self._updates))
        self._updates.clear()
        segments = self._segments(head, insert=True)
        parts = [updates, segments[0]]
        for value, segment in zip(values, segments[1:], strict=True):
            parts += (literal(value), segment)
        return b"".join(parts)

    def _segments(self, head: Head, *, insert: bool) -> tuple[bytes, ...]:
        """Pseudo-header fields have to come before the others (RFC 9113 section 8.3), fixed before varying.

        Raises:
            ValueError: the varying names are not in that order, so their columns would be mixed up.
        """
        if sorted(head.varying, key=lambda name: not name.startswith(b":")) != list(head.varying):
            raise ValueError("a head's varying pseudo-header fields have to be named before its others")
        indexable = set(self._indexable(head))
        segments: list[bytes] = []
        parts: list[bytes] = []
        for pseudo in (True, False):
            fixed = (field for field in head.fixed if field[0].startswith(b":") is pseudo)
            parts += (self._field(field, insert=insert and field in indexable) for field in fixed)
            if not pseudo:
                parts += (self._field(field, insert=False) for field in head.literal)
            for name in head.varying:
                if name.startswith(b":") is pseudo:
                    parts.append(self._name(name, 4, 0x00))
                    segments.append(b"".join(parts))
                    parts.clear()
        segments.append(b"".join(parts))
        return tuple(segments)

    def _field(self, field: tuple[bytes, bytes], *, insert: bool) -> bytes:
        index = self._index(field)
        if index:
            return integer(index, 7, 0x80)
        name, value = field
        if not insert:
            return self._name(name, 4, 0x00) + literal(value)
        encoded = self._name(name, 6, 0x40) + literal(value)
        self._insert(field)
        return encoded

    def _name(self, name: bytes, prefix_bits: int, pattern: int) -> bytes:
        index = _STATIC_NAMES.get(name) or self._dynamic_name(name)
        if index:
            return integer(index, prefix_bits, pattern)
        return bytes((pattern,)) + literal(name)

    def _index(self, field: tuple[bytes, bytes]) -> int:
        static = _STATIC.get(field)
        if static:
            return static
        return self._entries.index(field) + _STATIC_COUNT + 1 if field in self._entries else 0

    def _dynamic_name(self, name: bytes) -> int:
        for position, (known, _) in enumerate(self._entries):
            if known == name:
                return position + _STATIC_COUNT + 1
        return 0

    def _wanted(self, field: tuple[bytes, bytes]) -> bool:
        return field not in _STATIC and field not in self._entries

    def _indexable(self, head: Head) -> list[tuple[bytes, bytes]]:
        """The fixed fields that fit into the table together; the rest stay literals, or they would evict each other."""
        room = self._capacity
        fields = []
        for field in head.fixed:
            size = _entry_size(field)
            if field not in _STATIC and size <= room:
                room -= size
                fields.append(field)
        return fields

    def _insert(self, field: tuple[bytes, bytes]) -> None:
        self._evict(_entry_size(field))
        self._entries.appendleft(field)
        self._size += _entry_size(field)
        self.generation += 1

    def _evict(self, needed: int) -> None:
        while self._entries and self._size + needed > self._capacity:
            self._size -= _entry_size(self._entries.pop())


def _entry_size(field: tuple[bytes, bytes]) -> int:
    return len(field[0]) + len(field[1]) + ENTRY_OVERHEAD


class HeaderError(Exception):
    """A header block that cannot be decoded or is too large: the connection's state is in doubt."""


class Decoded(NamedTuple):
    """What a header block says."""

    status: int | None
    """None where the fields are not those of a well-formed response; trailers have none."""
    fields: Headers


class AnswerDecoder:
    """Decodes answers' header blocks. Stateless on the wire, because our table size is zero.

    `max_list_size` bounds what a block may expand to (RFC 9113 section 6.5.2 counts 32 bytes a field on top), and
    `max_fields` into how many: a field of one byte on the wire is an object of hundreds here.
    """

    _REMEMBERED = 256
    _REMEMBERED_SIZE = 512
    """Bytes of a block above which it is not remembered."""

    def __init__(self, max_list_size: int, max_fields: int) -> None:
        self._max_fields = max_fields
        self._decoder = hpack.Decoder(max_header_list_size=max_list_size)
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._known: dict[bytes, Decoded] = {}

    def remembered(self, block: bytes) -> Decoded | None:
        """What a block said when it was decoded before."""
        return self._known.get(block)

    def decode(self, block: bytes) -> Decoded:
        """Decode a whole header block.

        Raises:
            HeaderError: it is not HPACK, needs a dynamic table, or expands to more than the limits.
        """
        known = self.remembered(block)
        if known is not None:
            return known
        try:
            plain = plain_fields(block)
            fields = (
                tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
                if plain is None
                else plain.fields
            )
        except (hpack.HPACKError, UnicodeDecodeError, IndexError) as error:
            raise HeaderError(type(error).__name__) from error
        if len(fields) > self._max_fields:
            raise HeaderError("too many fields")
        # 100 bytes of `date` and a name make most blocks new each second at the latest, so the memory is for runs.
        if len(self._known) >= self._REMEMBERED:
            self._known.clear()
        decoded = Decoded(_status(fields), fields)
        if len(block) <= self._REMEMBERED_SIZE:
            self._known[block] = decoded
        return decoded


ACCEPTED = Decoded(200, ((b":status", b"200"),))
"""What is made of a block of which `succeeds` is true."""

_SKIMMED_BLOCK = 512
"""Bytes above which a block is not skimmed: whoever sends one of many fields has it decoded, within its limits."""


def succeeds(block: bytes) -> bool:
    """Whether a block begins with the index of `:status 200`, and nothing behind it makes the response malformed.

    Names are looked at, values skipped: 1 us for an `apns-id`, where decoding takes 5, or 35 in Huffman's code.
    Such blocks need no state, as in `plain_fields`. What is false may still be a success: it has to be decoded.
    """
    end = len(block)
    if block[:1] != b"\x88" or end > _SKIMMED_BLOCK:
        return False
    at = 1
    try:
        while at < end:
            first = block[at]
            at += 1
            if first & 0x80:
                if not _regular_index(first & 0x7F):
                    return False
                continue
            indexed, at = _name_index(block, first, at)
            if indexed:
                regular = _regular_index(indexed)
            else:
                start, at = at, _skip_string(block, at)
                regular = _regular_literal(block[start:at])
            if not regular:
                return False
            at = _skip_string(block, at)
    except (IndexError, ValueError):
        return False
    return at == end


def _skip_string(block: bytes, at: int) -> int:
    """The position behind a string of less than 127 bytes; behind the block if it is longer."""
    size = block[at] & 0x7F
    return at + 1 + size if size < 0x7F else len(block) + 1


def _regular_index(index: int) -> bool:
    """Whether the static table has a field there that is not a pseudo-header field: those are the first 14."""
    return 14 < index <= _STATIC_COUNT


@functools.lru_cache(256)
def _regular_literal(encoded: bytes) -> bool:
    """Whether a name is one, as it stands in a block; services have a handful of them."""
    try:
        ((name, _),) = hpack.Decoder().decode(b"\x00" + encoded + b"\x00", raw=True)
    except (hpack.HPACKError, IndexError, ValueError):
        return False
    return _regular(bytes(name))


def _regular(name: bytes) -> bool:
    """Whether it may follow the status (RFC 9113 sections 8.2.1 and 8.3)."""
    return not name.startswith(b":") and name == name.lower()


_PLAIN_BLOCK = 4096
_PLAIN_FIELDS = 32
"""More is left to the library, which bounds what a block may expand to."""


class Plain(NamedTuple):
    """A block's fields, and for each where its value ends in the block; 0 where it is an index."""

    fields: Headers
    ends: list[int]


def plain_fields(block: bytes) -> Plain | None:
    """The fields of a block of short literals and static indices; None for all that is not so plain.

    Such blocks need no state: with our table at zero, "with indexing" stores nothing (RFC 7541 section 4.4). Web Push
    answers name a resource of their own each, so that remembering blocks does not help: 3.3 us instead of 11.5.
    """
    fields: list[tuple[bytes, bytes]] = []
    ends: list[int] = []
    at, end = 0, len(block)
    if not 0 < end <= _PLAIN_BLOCK:
        return None
    try:
        while at < end:
            first = block[at]
            at += 1
            if first & 0x80:
                fields.append(_STATIC_FIELDS[first & 0x7F])
                ends.append(0)
                continue
            indexed, at = _name_index(block, first, at)
            if indexed:
                name = _STATIC_FIELDS[indexed][0]
            else:
                name, at = _plain_string(block, at)
            value, at = _plain_string(block, at)
            fields.append((name, value))
            ends.append(at)
    except (IndexError, KeyError, ValueError):
        return None
    return Plain(tuple(fields), ends) if len(fields) <= _PLAIN_FIELDS else None


def _name_index(block: bytes, first: int, at: int) -> tuple[int, int]:
    """Of a literal field that begins with the byte `first`: its name in the static table, or 0 where the name follows,
    and the position behind (RFC 7541 section 6.2).

    Raises:
        ValueError: it changes the table's size, or its index is beyond the static table.
        IndexError: the block ends in it.
    """
    if first & 0xE0 == 0x20 or first & 0x7F == 0x7F:
        raise ValueError("not plain")
    indexed = first & 0x3F if first & 0x40 else first & 0x0F
    if indexed == 0x0F and not first & 0x40:
        return indexed + block[at], at + 1
    return indexed, at


def _plain_string(block: bytes, at: int) -> tuple[bytes, int]:
    """A string of less than 127 bytes without Huffman coding, and the position behind it."""
    size = block[at]
    end = at + 1 + size
    if size >= 0x7F or end > len(block):
        raise ValueError("not plain")
    return block[at + 1 : end], end


def _status(fields: Headers) -> int | None:
    """The status of well-formed response fields: exactly one pseudo-header field, first (RFC 9113 section 8.3.2)."""
    if not fields or fields[0][0] != b":status":
        return None
    if not all(_regular(name) for name, _ in fields[1:]):
        return None
    value = fields[0][1]
    return int(value) if len(value) == 3 and value.isdigit() and value[0] != 0x30 else None
