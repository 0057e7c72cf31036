"""Frames at random: most of them well-formed enough to get past the first look."""

from __future__ import annotations

import random

from tests.gateway.http2 import wire

_SUCCESS = (wire.OK, wire.OK + b"\x20", wire.OK + b"\x00\x01n\x01v", b"\x08\x03200")
_FAILURE = (wire.NOT_FOUND, wire.NOT_FOUND + b"\x00\x01n\x01v", b"\x08\x03404")
_NEITHER = (wire.CONTINUE, b"", b"\x80", b"\xbe", wire.NOT_FOUND + wire.OK + b"\x01", b"\x8f" * 70)
_SIZES = (0, 0, 1, 4, 4, 5, 6, 8, 8, 9, 30)


def random_frames(dice: random.Random, stream_id: int, count: int, *, success: bool) -> bytes:
    """So many frames, on this stream, those around it, or none. A status that is final is the one that is meant."""
    return b"".join(_frame(dice, stream_id, success) for _ in range(count))


def _frame(dice: random.Random, stream_id: int, success: bool) -> bytes:
    near = stream_id if dice.random() < 0.97 else dice.choice((0, stream_id - 2, 2, 1, stream_id + 1000))
    blocks = _NEITHER
    if near == stream_id and dice.random() < 0.9:
        blocks = _SUCCESS if success else _FAILURE
    match dice.randrange(12):
        case 0:
            return wire.raw(wire.PING, dice.choice((0, 1)), 0, dice.randbytes(8))
        case 1:
            return wire.settings({dice.randrange(1, 9): dice.choice((0, 1, 100, 16_384, 65_535))})
        case 2:
            return wire.window_update(dice.choice((0, stream_id)), dice.choice((1, 100, 2**20)))
        case 3:
            return wire.raw(wire.PRIORITY, 0, max(1, near), dice.randbytes(5))
        case 4 | 5:
            return wire.raw(wire.HEADERS, dice.choice((4, 4, 5, 5, 0, 0x2D)), near, dice.choice(blocks))
        case 6 if dice.random() < 0.2:
            return wire.raw(wire.DATA, dice.choice((0, 1, 8, 9)), near, dice.randbytes(dice.choice(_SIZES)))
        case 7:
            return wire.reset(near, dice.randrange(16))
        case 8:
            return wire.raw(dice.randrange(10, 256), dice.randrange(256), near, dice.randbytes(dice.choice(_SIZES)))
        case 9 if dice.random() < 0.2:
            return wire.goaway(dice.choice((0, stream_id, 2**31 - 1)), dice.randrange(16))
        case 10 if dice.random() < 0.2:
            kind, flags = dice.randrange(10), dice.randrange(256)
            anything = dice.randbytes(dice.choice(_SIZES))
            return wire.raw(kind, flags, near, anything.replace(wire.OK, wire.NOT_FOUND))
        case _:
            return wire.raw(wire.PING, 0, 0, bytes(8))
