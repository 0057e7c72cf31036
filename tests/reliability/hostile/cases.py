"""The table of attacks: what a server does, by the section that it breaks, and what our client has to do about it.

The cases of h2spec that a client can be put to come first, in the order of RFC 9113 and RFC 7541; then floods, and
servers that are only slow. Where a rule asks for more than we do, the case says `believed`: a final status is believed
whatever else is wrong with its answer, as nothing that follows could undo what the service did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.http2.answers import MAX_BODY, MAX_CONTINUATIONS, MAX_FIELDS
from gateway.http2.budget import CONTROL_BUDGET
from gateway.http2.frames import ErrorCode
from tests.gateway.http2 import wire
from tests.gateway.http2.wire import bare, begun, body, goaway, number, padded, raw, reset, settings, window_update
from tests.reliability.hostile.peer import Attack, Peer


class Told(NamedTuple):
    """A connection error: the client says GOAWAY with this code, at once or `within` seconds."""

    code: ErrorCode
    within: float = 0.5


class Dropped(NamedTuple):
    """The client leaves, whatever it says, within seconds."""

    within: float


class Reset(NamedTuple):
    """A stream error: RST_STREAM with this code, and the connection goes on."""

    code: ErrorCode


class Tolerated(NamedTuple):
    """The client says nothing, and the connection goes on."""


class Left(NamedTuple):
    """The client goes to another connection, and this one ends without reproach."""


class Endured(NamedTuple):
    """Only the outcomes matter."""


Expected = Told | Dropped | Reset | Tolerated | Left | Endured


class Case(NamedTuple):
    name: str
    expected: Expected
    attack: Attack
    greeting: bytes | None = settings()
    pongs: bool = True


Bytes = Callable[[int], bytes]

PROTOCOL_ERROR = Told(ErrorCode.PROTOCOL_ERROR)
FRAME_SIZE_ERROR = Told(ErrorCode.FRAME_SIZE_ERROR)
FLOW_CONTROL_ERROR = Told(ErrorCode.FLOW_CONTROL_ERROR)
COMPRESSION_ERROR = Told(ErrorCode.COMPRESSION_ERROR)
CALM = Told(ErrorCode.ENHANCE_YOUR_CALM)
MALFORMED = Reset(ErrorCode.PROTOCOL_ERROR)

WHOLE = wire.END_HEADERS | wire.END_STREAM
PING = raw(wire.PING, 0, 0, bytes(8))


def field(name: bytes, value: bytes) -> bytes:
    """A literal without indexing (RFC 7541 section 6.2.2)."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def nothing(peer: Peer, stream_id: int) -> None:
    """Requests get no answer."""


def once(data: Bytes, *, then: Attack = nothing) -> Attack:
    """Say this to the first request that is attacked, and `then` act on the others."""

    def attack(peer: Peer, stream_id: int) -> None:
        if peer.attacked == 1:
            peer.say(data(stream_id))
        else:
            then(peer, stream_id)

    return attack


def honest(peer: Peer, stream_id: int) -> None:
    peer.accept(stream_id)


def breach(name: str, data: Bytes, expected: Expected = PROTOCOL_ERROR) -> Case:
    return Case(name, expected, once(data))


def malformed(name: str, data: Bytes, expected: Expected = MALFORMED) -> Case:
    return Case(name, expected, once(data, then=honest))


def harmless(name: str, data: Bytes) -> Case:
    def attack(peer: Peer, stream_id: int) -> None:
        peer.say(data(stream_id))
        peer.accept(stream_id)

    return Case(name, Tolerated(), attack)


def behind(name: str, data: Bytes) -> Case:
    """Something that comes after the whole answer."""

    def attack(peer: Peer, stream_id: int) -> None:
        peer.accept(stream_id)
        peer.say(data(stream_id))

    return Case(name, Tolerated(), attack)


def believed(name: str, data: Bytes, expected: Expected = Tolerated()) -> Case:
    """A success that is not well-formed."""

    def attack(peer: Peer, stream_id: int) -> None:
        peer.honour(stream_id)
        peer.say(data(stream_id))

    return Case(name, expected, attack)


def greeted(name: str, greeting: bytes | None, expected: Expected = PROTOCOL_ERROR) -> Case:
    return Case(name, expected, nothing, greeting)


def flood(name: str, data: Bytes, count: int = CONTROL_BUDGET + 1) -> Case:
    return Case(name, CALM, once(lambda s: begun(s, wire.NOT_FOUND) + data(s) * count))


def closed(peer: Peer, stream_id: int) -> None:
    peer.transport.cut()


def compressed(name: str, block: bytes) -> Case:
    return breach(f"HPACK: {name}", lambda s: bare(s, wire.NOT_FOUND + block), COMPRESSION_ERROR)


PREFACE = [
    greeted("3.4 HTTP/1.1 instead of SETTINGS", b"HTTP/1.1 400 Bad Request\r\n\r\n", FRAME_SIZE_ERROR),
    greeted("3.4 PING before SETTINGS", PING),
    greeted("3.4 GOAWAY before SETTINGS", goaway(0)),
    greeted("3.4 WINDOW_UPDATE before SETTINGS", window_update(0, 1)),
    greeted("3.4 an answer before SETTINGS", bare(1)),
    greeted("3.4 an unknown frame before SETTINGS", raw(0xFA, 0, 0)),
    greeted("3.4 an acknowledgement before SETTINGS", raw(wire.SETTINGS, wire.ACK, 0)),
    greeted("3.4 the client's own preface", wire.PREFACE, FRAME_SIZE_ERROR),
    greeted("3.4 no SETTINGS at all", None, Told(ErrorCode.SETTINGS_TIMEOUT, 5.2)),
    greeted("3.4 half of SETTINGS", settings({wire.MAX_STREAMS: 1})[:11], Dropped(5.2)),
]

SIZES = [
    breach("4.2 DATA above our maximum", lambda s: raw(wire.DATA, 0, s, bytes(16_385)), FRAME_SIZE_ERROR),
    breach("4.2 HEADERS above our maximum", lambda s: raw(wire.HEADERS, WHOLE, s, bytes(16_385)), FRAME_SIZE_ERROR),
    breach("4.2 an unknown frame of 16 MiB", lambda s: b"\xff\xff\xff\xfa\x00\x00\x00\x00\x00", FRAME_SIZE_ERROR),
    breach("6.3 PRIORITY of four bytes", lambda s: raw(wire.PRIORITY, 0, s, bytes(4)), FRAME_SIZE_ERROR),
    breach("6.4 RST_STREAM of three bytes", lambda s: raw(wire.RST_STREAM, 0, s, bytes(3)), FRAME_SIZE_ERROR),
    breach("6.4 RST_STREAM of five bytes", lambda s: raw(wire.RST_STREAM, 0, s, bytes(5)), FRAME_SIZE_ERROR),
    breach("6.5 SETTINGS of five bytes", lambda s: raw(wire.SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    breach("6.5 SETTINGS of seven bytes", lambda s: raw(wire.SETTINGS, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    breach("6.5 ACK with a payload", lambda s: raw(wire.SETTINGS, wire.ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    breach("6.7 PING of seven bytes", lambda s: raw(wire.PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    breach("6.7 PING of nine bytes", lambda s: raw(wire.PING, wire.ACK, 0, bytes(9)), FRAME_SIZE_ERROR),
    breach("6.8 GOAWAY of seven bytes", lambda s: raw(wire.GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    breach("6.9 WINDOW_UPDATE of three bytes", lambda s: raw(wire.WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    breach("6.9 WINDOW_UPDATE of five bytes", lambda s: raw(wire.WINDOW_UPDATE, 0, s, bytes(5)), FRAME_SIZE_ERROR),
]

STREAM_IDS = [
    breach("6.1 DATA on the connection", lambda s: body(0, b"x")),
    breach("6.2 HEADERS on the connection", lambda s: begun(0)),
    breach("6.3 PRIORITY on the connection", lambda s: raw(wire.PRIORITY, 0, 0, bytes(5))),
    breach("6.4 RST_STREAM on the connection", lambda s: reset(0, 0)),
    breach("6.5 SETTINGS on a stream", lambda s: raw(wire.SETTINGS, 0, s)),
    breach("6.7 PING on a stream", lambda s: raw(wire.PING, 0, s, bytes(8))),
    breach("6.8 GOAWAY on a stream", lambda s: raw(wire.GOAWAY, 0, s, bytes(8))),
    breach("6.10 CONTINUATION on the connection", lambda s: raw(wire.CONTINUATION, 4, 0, wire.OK)),
    breach("5.1 DATA on an idle stream", lambda s: body(s + 5000, b"x")),
    breach("5.1 an answer on an idle stream", lambda s: bare(s + 5000)),
    breach("5.1 RST_STREAM on an idle stream", lambda s: reset(s + 5000, 0)),
    breach("5.1 WINDOW_UPDATE on an idle stream", lambda s: window_update(s + 5000, 1)),
    breach("5.1.1 an answer on an even stream", lambda s: bare(2)),
    breach("5.1.1 RST_STREAM on an even stream", lambda s: reset(2, 0)),
    breach("6.6 PUSH_PROMISE", lambda s: raw(wire.PUSH_PROMISE, 4, s, number(2) + wire.OK)),
    behind("5.1 DATA behind the end of a stream", lambda s: body(s, b"x", end=False)),
    behind("5.1 an answer behind the end of a stream", lambda s: bare(s, wire.NOT_FOUND)),
    behind("5.1 a reset behind the end of a stream", lambda s: reset(s, 5)),
    behind("5.1 WINDOW_UPDATE behind the end of a stream", lambda s: window_update(s, 1)),
]

BLOCKS = [
    breach("6.10 CONTINUATION of nothing", lambda s: raw(wire.CONTINUATION, 4, s, wire.OK)),
    breach("6.10 CONTINUATION behind a whole block", lambda s: begun(s, wire.NOT_FOUND) + raw(wire.CONTINUATION, 4, s)),
    breach("6.10 DATA within a block", lambda s: raw(wire.HEADERS, 0, s) + body(s, b"x")),
    breach("6.10 PING within a block", lambda s: raw(wire.HEADERS, 0, s) + PING),
    breach("6.10 an unknown frame within a block", lambda s: raw(wire.HEADERS, 0, s) + raw(0xFA, 0, s)),
    breach("6.10 HEADERS within a block", lambda s: raw(wire.HEADERS, 0, s) + bare(s)),
    breach("6.10 a block continued elsewhere", lambda s: raw(wire.HEADERS, 0, s) + raw(wire.CONTINUATION, 4, s + 2)),
    breach(
        "6.2 HEADERS too short for their priority", lambda s: raw(wire.HEADERS, 0x25, s, bytes(4)), FRAME_SIZE_ERROR
    ),
    breach("6.2 HEADERS of padding without its length", lambda s: raw(wire.HEADERS, 0xD, s), FRAME_SIZE_ERROR),
    breach("6.2 padding as long as HEADERS", lambda s: raw(wire.HEADERS, 0xD, s, b"\x01")),
    breach(
        "6.1 DATA of padding without its length",
        lambda s: begun(s, wire.NOT_FOUND) + raw(wire.DATA, 8, s),
        FRAME_SIZE_ERROR,
    ),
    breach("6.1 padding longer than DATA", lambda s: begun(s, wire.NOT_FOUND) + raw(wire.DATA, 8, s, b"\x05abcd")),
    breach("10.5.1 a block in countless pieces", lambda s: raw(wire.HEADERS, 0, s) + _pieces(s, b"", 10_000), CALM),
    breach("10.5.1 a block of megabytes", lambda s: raw(wire.HEADERS, 0, s) + _pieces(s, bytes(16_384), 100), CALM),
    breach(
        "10.5.1 a block without end",
        lambda s: raw(wire.HEADERS, 0, s, wire.NOT_FOUND),
        Told(ErrorCode.ENHANCE_YOUR_CALM, 5.2),
    ),
    harmless(
        "6.10 the most pieces that are allowed", lambda s: raw(wire.HEADERS, 0, s, b"\x08\x03100") + _last_piece(s)
    ),
]


def _pieces(stream_id: int, piece: bytes, count: int) -> bytes:
    return raw(wire.CONTINUATION, 0, stream_id, piece) * count


def _last_piece(stream_id: int) -> bytes:
    return _pieces(stream_id, b"", MAX_CONTINUATIONS - 1) + raw(wire.CONTINUATION, wire.END_HEADERS, stream_id)


HPACK = [
    breach("HPACK: index 0 behind a success", lambda s: bare(s, wire.OK + b"\x80"), COMPRESSION_ERROR),
    compressed("index zero", b"\x80"),
    compressed("an index of a table that there is not", b"\xbe"),
    compressed("an index beyond any table", b"\xff\xff\x7f"),
    compressed("a name of a table that there is not", b"\x7e\x01v"),
    compressed("a table made larger than we allow", b"\x3f\xe1\x1f"),
    compressed("a size update behind a field", b"\x20"),
    compressed("a string longer than its block", b"\x00\x01n\x7fv"),
    compressed("a string without its length", b"\x00\x01n"),
    compressed("Huffman padding of more than 7 bits", b"\x00\x01n\x82\x1f\xff"),
    compressed("Huffman padding of zeros", b"\x00\x01n\x81\x18"),
    compressed("Huffman with EOS", b"\x00\x01n\x84\xff\xff\xff\xff"),
    compressed("an integer without end", b"\x0f" + b"\xff" * 100),
    compressed("more fields than anybody needs", b"\x8f" * MAX_FIELDS),
    compressed("a bomb: 16,000 fields of one byte", b"\x8f" * 16_000),
    compressed("a bomb: Huffman of 24 KiB", b"\x00\x01n" + b"\xff\x81\x76" + bytes(15_104)),
]

MESSAGES = [
    malformed("8.1 DATA before an answer's fields", lambda s: body(s, b"x")),
    malformed("8.3.2 no :status", lambda s: bare(s, field(b"server", b"x"))),
    malformed("8.3.2 no fields", lambda s: bare(s, b"")),
    malformed("8.3.2 two :status", lambda s: begun(s, wire.OK + wire.OK) + body(s, b"")),
    malformed("8.3 :status behind other fields", lambda s: bare(s, field(b"server", b"x") + wire.OK)),
    malformed("8.3 :path in an answer", lambda s: begun(s, wire.OK + b"\x84") + body(s, b"")),
    malformed("8.3 an unknown pseudo-header field", lambda s: begun(s, wire.OK + field(b":x", b"y")) + body(s, b"")),
    malformed("8.2.1 a name in upper case", lambda s: begun(s, wire.OK + field(b"Server", b"x")) + body(s, b"")),
    malformed("8.3.2 a status of letters", lambda s: bare(s, field(b":status", b"2OO"))),
    malformed("8.3.2 a status of two digits", lambda s: bare(s, field(b":status", b"20"))),
    malformed("8.3.2 a status of four digits", lambda s: bare(s, field(b":status", b"2000"))),
    malformed("8.3.2 a status in other digits", lambda s: bare(s, field(b":status", "²00".encode()))),
    malformed("8.1 an informational answer at the end", lambda s: bare(s, wire.CONTINUE)),
    malformed("8.1 trailers with pseudo-header fields", lambda s: begun(s) + bare(s, wire.OK)),
    malformed("8.1 trailers that do not end", lambda s: begun(s) + begun(s, field(b"x", b"y"))),
    malformed("8.1 DATA between informational and final", lambda s: begun(s, wire.CONTINUE) + body(s, b"x")),
    malformed("7 a reset with NO_ERROR and no answer", lambda s: reset(s, 0), Tolerated()),
    malformed("7 a reset with an unknown code", lambda s: reset(s, 0xFFFF), Tolerated()),
    malformed("7 a reset in the middle of an answer", lambda s: begun(s, wire.CONTINUE) + reset(s, 2), Tolerated()),
    malformed("8.3.2 a second status behind a success", lambda s: bare(s, wire.OK + wire.NOT_FOUND)),
    malformed("8.3.2 a second status behind it, as a literal", lambda s: bare(s, wire.OK + field(b":status", b"404"))),
    malformed("8.2.1 a name in upper case behind a success", lambda s: bare(s, wire.OK + field(b"X", b"y"))),
    malformed("8.7 REFUSED_STREAM", lambda s: reset(s, 7), Tolerated()),
    believed("8.1.1 content-length of more than there is", lambda s: bare(s, wire.OK + field(b"content-length", b"9"))),
    believed(
        "8.1.1 content-length of less", lambda s: begun(s, wire.OK + field(b"content-length", b"0")) + body(s, b"x")
    ),
    believed(
        "8.2.2 connection-specific fields", lambda s: begun(s, wire.OK + field(b"connection", b"x")) + body(s, b"")
    ),
    believed("5.4.2 a reset behind a whole answer", lambda s: bare(s) + reset(s, 1)),
    believed("8.1 trailers", lambda s: begun(s) + body(s, b"x", end=False) + bare(s, field(b"x", b"y"))),
    believed(
        "8.1 a body above 64 KiB",
        lambda s: begun(s) + body(s, bytes(16_000), end=False) * 5 + body(s, b""),
        Reset(ErrorCode.CANCEL),
    ),
    harmless("8.1 informational answers", lambda s: begun(s, wire.CONTINUE) * 4),
    breach("8.1 informational answers without end", lambda s: begun(s, wire.CONTINUE) * 5, CALM),
]

SETTINGS = [
    breach("6.5.2 push enabled", lambda s: settings({wire.ENABLE_PUSH: 1})),
    breach("6.5.2 push set to two", lambda s: settings({wire.ENABLE_PUSH: 2})),
    breach("6.5.2 frames of 16,383 bytes", lambda s: settings({wire.MAX_FRAME: 16_383})),
    breach("6.5.2 frames of 2^24 bytes", lambda s: settings({wire.MAX_FRAME: 1 << 24})),
    breach("6.5.2 a window of 2^31", lambda s: settings({wire.INITIAL_WINDOW: 1 << 31}), FLOW_CONTROL_ERROR),
    breach("6.9 a window update of nothing", lambda s: window_update(0, 0)),
    breach("6.9.1 a connection's window of 2^31", lambda s: window_update(0, 2**31 - 1), FLOW_CONTROL_ERROR),
    harmless("6.9 a stream's update of nothing, its body through", lambda s: window_update(s, 0)),
    harmless("6.9.1 a stream's window of 2^31, its body through", lambda s: window_update(s, 2**31 - 1)),
    harmless("6.5.2 unknown settings", lambda s: settings({0xFAFA: 7, 8: 1, 0: 0})),
    harmless("6.5.3 settings that flip", lambda s: b"".join(settings({wire.MAX_STREAMS: n}) for n in (1, 2**31, 50))),
    harmless("6.5.2 tables that flip", lambda s: b"".join(settings({wire.TABLE_SIZE: n}) for n in (0, 2**32 - 1, 9))),
    harmless(
        "6.5.2 the largest values", lambda s: settings({wire.INITIAL_WINDOW: 2**31 - 1, wire.MAX_FRAME: 2**24 - 1})
    ),
    harmless("4.1 unknown frames", lambda s: raw(0xFA, 0xFF, 0, b"x") + raw(0xFA, 0xFF, s, b"x") + raw(0xFA, 0, 99)),
    harmless(
        "5.5 ALTSVC, ORIGIN and PRIORITY_UPDATE", lambda s: raw(0xA, 0, 0, bytes(4)) + raw(0xC, 0, 0) + raw(16, 0, 0)
    ),
    harmless("5.3 PRIORITY on itself and on anybody", lambda s: raw(wire.PRIORITY, 0, s, number(s) + b"\x01") * 2),
    harmless("4.1 undefined flags", lambda s: raw(wire.PING, 0xFE, 0, bytes(8)) + raw(wire.SETTINGS, 0xFE, 0)),
    harmless("4.1 reserved bits", lambda s: raw(wire.PING, 0, 1 << 31, bytes(8)) + window_update(0, 1 << 31 | 1)),
    harmless("6.7 PING acknowledged unasked", lambda s: raw(wire.PING, wire.ACK, 0, b"anything")),
    harmless("6.1 DATA of padding alone", lambda s: PING * 100),
]

GOAWAYS = [
    Case("6.8 GOAWAY, nothing processed", Left(), once(lambda s: goaway(0))),
    Case("6.8 GOAWAY, nothing processed, for a reason", Left(), once(lambda s: goaway(0, 2, b"debug"))),
    Case(
        "6.8 GOAWAY, everything processed",
        Left(),
        once(lambda s: goaway(2**31 - 1) + bare(s, wire.NOT_FOUND), then=honest),
    ),
    Case("6.8 two in a row", Left(), once(lambda s: goaway(2**31 - 1) + goaway(0))),
    Case("6.8 a last stream that grows", Left(), once(lambda s: goaway(0) + goaway(2**31 - 1))),
    Case("6.8 with 16 KiB of debug data", Left(), once(lambda s: goaway(0, 11, bytes(16_000)))),
    Case("6.8 with an unknown code", Left(), once(lambda s: goaway(0, 0xDEAD))),
    Case("6.8 on every connection, at once", Endured(), nothing, settings() + goaway(0)),
    Case("9.1 closed behind every request", Dropped(0.5), closed),
    Case("9.1 a reset and the end", Dropped(0.5), lambda peer, s: (peer.say(reset(s, 8)), closed(peer, s))[1]),
    Case("9.1 half an answer and the end", Dropped(0.5), lambda peer, s: (peer.say(bare(s)[:-1]), closed(peer, s))[1]),
]

FLOODS = [
    flood("10.5 PING", lambda s: PING),
    flood("10.5 PING acknowledged", lambda s: raw(wire.PING, wire.ACK, 0, bytes(8))),
    flood("10.5 SETTINGS", lambda s: settings({wire.MAX_STREAMS: 7})),
    flood("10.5 SETTINGS of nothing", lambda s: settings()),
    flood("10.5 SETTINGS acknowledged", lambda s: raw(wire.SETTINGS, wire.ACK, 0)),
    flood("10.5 PRIORITY", lambda s: raw(wire.PRIORITY, 0, s, bytes(5))),
    flood("10.5 unknown frames", lambda s: raw(0xFA, 0, 0)),
    flood("10.5 WINDOW_UPDATE of the connection", lambda s: window_update(0, 1)),
    flood("10.5 WINDOW_UPDATE of a stream", lambda s: window_update(s, 1)),
    flood("10.5 GOAWAY", lambda s: goaway(2**31 - 1)),
    flood("10.5 empty DATA", lambda s: body(s, b"", end=False)),
    flood("10.5 DATA of one byte", lambda s: body(s, b"x", end=False)),
    flood("10.5 DATA of padding", lambda s: raw(wire.DATA, wire.PADDED, s, padded(b"", 8)), 3 * CONTROL_BUDGET),
    Case(
        "10.5 RST_STREAM behind the end, for ever",
        CALM,
        once(lambda s: bare(s, wire.NOT_FOUND) + reset(s, 5) * (2 * CONTROL_BUDGET)),
    ),
    Case(
        "10.5 answers behind the end, for ever",
        CALM,
        once(lambda s: bare(s, wire.NOT_FOUND) + bare(s) * (2 * CONTROL_BUDGET)),
    ),
]

SLOW = [
    Case(
        "6.9 a window of nothing", Told(ErrorCode.ENHANCE_YOUR_CALM, 11.5), nothing, settings({wire.INITIAL_WINDOW: 0})
    ),
    Case("5.1.2 no streams allowed", Dropped(15.5), nothing, settings({wire.MAX_STREAMS: 0})),
    Case("no answers", Endured(), nothing),
    Case("no answers, and no answer to PING", Dropped(15.5), nothing, pongs=False),
    Case(
        "a frame without end",
        Told(ErrorCode.ENHANCE_YOUR_CALM, 5.2),
        once(lambda s: begun(s, wire.NOT_FOUND) + raw(wire.DATA, 0, s, bytes(9000))[:-1]),
    ),
    Case("bodies without end", Endured(), lambda peer, s: peer.say(begun(s, wire.NOT_FOUND))),
    Case("every stream is reset", Endured(), lambda peer, s: peer.say(reset(s, 2))),
    Case("every stream is refused", Endured(), lambda peer, s: peer.say(reset(s, 7))),
]

CHAPTERS = {
    "the start": PREFACE,
    "sizes of frames": SIZES,
    "ids and states of streams": STREAM_IDS,
    "header blocks": BLOCKS,
    "header compression": HPACK,
    "answers": MESSAGES,
    "settings and what is to be ignored": SETTINGS,
    "ends of connections": GOAWAYS,
    "floods": FLOODS,
    "slowness": SLOW,
}
CASES = [case for chapter in CHAPTERS.values() for case in chapter]
assert len({case.name for case in CASES}) == len(CASES)
assert MAX_BODY < 5 * 16_000
