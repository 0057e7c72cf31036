"""A decoder of header blocks (RFC 7541) that costs a fifth of the library's, for ledgers and big strict runs.

The library `hpack` gives the static table and Huffman's code, and is what the tests compare it with.
"""

from __future__ import annotations

import hpack
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

_STATIC: tuple[Field, ...] = ((b"", b""), *((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE))
_FIRST_DYNAMIC = len(_STATIC)
_OVERHEAD = 32  # of an entry's size (section 4.1)


class HeaderReader:
    """One connection's decoding state.

    Args:
        table_size: The SETTINGS_HEADER_TABLE_SIZE that the peer was told.
    """

    def __init__(self, table_size: int = 4096) -> None:
        self._entries: list[Field] = []  # newest first, as indices count
        self._size = 0
        self._most = self._allowed = table_size

    def read(self, block: bytes) -> list[Field]:
        """The fields of a block, in order.

        Raises:
            hpack.HPACKDecodingError: the block is not valid, and the connection lost.
        """
        try:
            return self._read(block)
        except IndexError:
            raise hpack.HPACKDecodingError("a block ends within a field or names no entry") from None

    def _read(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        at, end = 0, len(block)
        while at < end:
            first = block[at]
            if first & 0x80:  # indexed
                index, at = (first & 0x7F, at + 1) if first != 0xFF else _integer(block, at, 7)
                fields.append(self._entry(index))
                continue
            if first & 0xE0 == 0x20:
                size, at = _integer(block, at, 5)
                self._resize(size)
                continue
            index, at = _integer(block, at, 6 if first & 0x40 else 4)
            if index:
                name = self._entry(index)[0]
            else:
                name, at = _string(block, at)
            value, at = _string(block, at)
            fields.append((name, value))
            if first & 0x40:
                self._add((name, value))
        if at > end:
            raise IndexError
        return fields

    def _entry(self, index: int) -> Field:
        if index < _FIRST_DYNAMIC:
            if not index:
                raise IndexError
            return _STATIC[index]
        return self._entries[index - _FIRST_DYNAMIC]

    def _add(self, field: Field) -> None:
        self._entries.insert(0, field)
        self._size += len(field[0]) + len(field[1]) + _OVERHEAD
        self._evict()

    def _resize(self, size: int) -> None:
        if size > self._allowed:
            raise hpack.InvalidTableSizeError("a table larger than was allowed")
        self._most = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._most:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + _OVERHEAD


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    first = block[at]
    length, at = (first & 0x7F, at + 1) if first & 0x7F != 0x7F else _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise IndexError
    text = block[at:end]
    return (bytes(decode_huffman(text)) if first & 0x80 else text), end
