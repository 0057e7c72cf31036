"""A peer that breaks RFC 9113: the error code it is told, and what becomes of the requests it had."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http2.answers import MAX_BODY, MAX_CONTINUATIONS, MAX_INFORMATIONAL
from gateway.http2.budget import CONTROL_BUDGET
from gateway.http2.frames import ErrorCode, ProtocolError
from gateway.http2.protocol import ClientProtocol, Phase
from gateway.http2.results import Results
from tests.gateway.http2 import wire
from tests.gateway.http2.wire import Frame, busy, raw, ready, send, sent_frames

PROTOCOL_ERROR = ErrorCode.PROTOCOL_ERROR
FLOW_CONTROL_ERROR = ErrorCode.FLOW_CONTROL_ERROR
FRAME_SIZE_ERROR = ErrorCode.FRAME_SIZE_ERROR
COMPRESSION_ERROR = ErrorCode.COMPRESSION_ERROR
ENHANCE_YOUR_CALM = ErrorCode.ENHANCE_YOUR_CALM

WHOLE = wire.END_HEADERS | wire.END_STREAM


def tags(results: Results) -> list[int]:
    return [
        *results.accepted,
        *results.unsent,
        *(answer.tag for answer in results.answered),
        *(tag for tag, _ in results.unknown),
    ]


def assert_told(protocol: ClientProtocol, data: bytes, code: ErrorCode) -> None:
    """The bytes end the connection with `code`, in the exception as in the GOAWAY."""
    with pytest.raises(ProtocolError) as caught:
        protocol.receive_data(data)
    assert caught.value.code is code
    assert str(caught.value).startswith(code.name + ": ")
    assert sent_frames(protocol)[-1] == Frame(wire.GOAWAY, 0, 0, bytes(4) + wire.number(code))
    assert protocol.phase is Phase.CLOSED
    assert protocol.open_streams == 0


# The connection starts

FIRST_FRAMES = {
    "HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", FRAME_SIZE_ERROR),
    "PING": (raw(wire.PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "GOAWAY": (wire.goaway(0), PROTOCOL_ERROR),
    "WINDOW_UPDATE": (wire.window_update(0, 1), PROTOCOL_ERROR),
    "an answer": (wire.bare(1), PROTOCOL_ERROR),
    "an unknown frame": (raw(0xFA, 0, 0), PROTOCOL_ERROR),
    "an acknowledgement": (raw(wire.SETTINGS, wire.ACK, 0), PROTOCOL_ERROR),
    "SETTINGS on a stream": (raw(wire.SETTINGS, 0, 1), PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("data", "code"), FIRST_FRAMES.values(), ids=FIRST_FRAMES)
def test_the_first_frame_has_to_be_settings(data: bytes, code: ErrorCode) -> None:
    """Section 3.4."""
    protocol = ClientProtocol()
    send(protocol, [b"{}"])
    assert_told(protocol, data, code)
    assert protocol.take_results().unknown == [(0, "protocol error")]


# Frames that end a connection; streams 1 and 3 are open, the next would be 5

FRAMES = {
    # Section 4.2: sizes
    "a frame above our maximum": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", FRAME_SIZE_ERROR),
    "an unknown frame above our maximum": (b"\xff\xff\xff\xfa\x00\x00\x00\x00\x00", FRAME_SIZE_ERROR),
    "SETTINGS of five bytes": (raw(wire.SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "SETTINGS of seven bytes": (raw(wire.SETTINGS, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "SETTINGS acknowledged with a payload": (raw(wire.SETTINGS, wire.ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "PING of seven bytes": (raw(wire.PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "PING acknowledged with nine bytes": (raw(wire.PING, wire.ACK, 0, bytes(9)), FRAME_SIZE_ERROR),
    "GOAWAY of seven bytes": (raw(wire.GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "RST_STREAM of three bytes": (raw(wire.RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    "RST_STREAM of five bytes": (raw(wire.RST_STREAM, 0, 1, bytes(5)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of three bytes": (raw(wire.WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of five bytes": (raw(wire.WINDOW_UPDATE, 0, 1, bytes(5)), FRAME_SIZE_ERROR),
    "PRIORITY of four bytes": (raw(wire.PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    "PRIORITY of six bytes": (raw(wire.PRIORITY, 0, 1, bytes(6)), FRAME_SIZE_ERROR),
    "HEADERS too short for their priority": (
        raw(wire.HEADERS, WHOLE | wire.PRIORITISED, 1, bytes(4)),
        FRAME_SIZE_ERROR,
    ),
    "padded HEADERS of nothing": (raw(wire.HEADERS, WHOLE | wire.PADDED, 1), FRAME_SIZE_ERROR),
    "padded DATA of nothing": (raw(wire.DATA, wire.PADDED, 1), FRAME_SIZE_ERROR),
    # Sections 6.1 and 6.2: padding
    "DATA of padding beyond its end": (raw(wire.DATA, wire.PADDED, 1, b"\x03ab"), PROTOCOL_ERROR),
    "HEADERS of padding beyond their end": (raw(wire.HEADERS, WHOLE | wire.PADDED, 1, b"\x01"), PROTOCOL_ERROR),
    # Stream ids, by type
    "DATA on the connection": (wire.body(0, b"x"), PROTOCOL_ERROR),
    "HEADERS on the connection": (wire.bare(0), PROTOCOL_ERROR),
    "other HEADERS on the connection": (wire.bare(0, wire.NOT_FOUND), PROTOCOL_ERROR),
    "PRIORITY on the connection": (raw(wire.PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "RST_STREAM on the connection": (wire.reset(0, 0), PROTOCOL_ERROR),
    "CONTINUATION on the connection": (raw(wire.CONTINUATION, wire.END_HEADERS, 0, wire.OK), PROTOCOL_ERROR),
    "SETTINGS on a stream": (raw(wire.SETTINGS, 0, 1), PROTOCOL_ERROR),
    "PING on a stream": (raw(wire.PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "GOAWAY on a stream": (raw(wire.GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    # Section 5.1: idle streams, and those that only a server could open
    "DATA on an idle stream": (wire.body(5, b"x"), PROTOCOL_ERROR),
    "a bare answer on an idle stream": (wire.bare(5), PROTOCOL_ERROR),
    "an answer on an idle stream": (wire.bare(5, wire.NOT_FOUND), PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (wire.reset(5, 0), PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (wire.window_update(5, 1), PROTOCOL_ERROR),
    "a bare answer on an even stream": (wire.bare(2), PROTOCOL_ERROR),
    "an answer on an even stream": (wire.begun(2), PROTOCOL_ERROR),
    "DATA on an even stream": (wire.body(2, b"x"), PROTOCOL_ERROR),
    "RST_STREAM on an even stream": (wire.reset(2, 0), PROTOCOL_ERROR),
    "WINDOW_UPDATE on an even stream": (wire.window_update(2, 1), PROTOCOL_ERROR),
    "PUSH_PROMISE": (raw(wire.PUSH_PROMISE, wire.END_HEADERS, 1, wire.number(2) + wire.OK), PROTOCOL_ERROR),
    # Sections 4.3 and 6.10: header blocks
    "CONTINUATION of nothing": (raw(wire.CONTINUATION, wire.END_HEADERS, 1, wire.OK), PROTOCOL_ERROR),
    "CONTINUATION behind a whole block": (wire.begun(1) + raw(wire.CONTINUATION, 0, 1), PROTOCOL_ERROR),
    "a block and DATA in it": (raw(wire.HEADERS, 0, 1) + wire.body(1, b""), PROTOCOL_ERROR),
    "a block and a bare answer in it": (raw(wire.HEADERS, 0, 1) + wire.bare(3), PROTOCOL_ERROR),
    "a block and PING in it": (raw(wire.HEADERS, 0, 1) + raw(wire.PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "a block and an unknown frame in it": (raw(wire.HEADERS, 0, 1) + raw(0xFA, 0, 1), PROTOCOL_ERROR),
    "a block continued elsewhere": (raw(wire.HEADERS, 0, 1) + raw(wire.CONTINUATION, 4, 3, wire.OK), PROTOCOL_ERROR),
    "a block that is not HPACK": (wire.bare(1, b"\x80"), COMPRESSION_ERROR),
    "a block that needs a table": (wire.bare(1, b"\xbe"), COMPRESSION_ERROR),
    "a success and a dynamic index": (wire.bare(1, b"\x88\xbe"), COMPRESSION_ERROR),
    "a success and a literal that is cut off": (wire.bare(1, b"\x88\x00\x01n\x05v"), COMPRESSION_ERROR),
    "a success and a table size": (wire.bare(1, b"\x88\x20"), COMPRESSION_ERROR),
    "a block that makes a table": (wire.bare(1, b"\x3f\xe1\x1f\x88"), COMPRESSION_ERROR),
    "a block of a list too large": (wire.begun(1, wire.OK * 400), COMPRESSION_ERROR),
    "trailers that are not HPACK": (wire.begun(1) + wire.bare(1, b"\x80"), COMPRESSION_ERROR),
    # Section 6.5.2: settings
    "push enabled": (wire.settings({wire.ENABLE_PUSH: 1}), PROTOCOL_ERROR),
    "push set to two": (wire.settings({wire.ENABLE_PUSH: 2}), PROTOCOL_ERROR),
    "an initial window of 2^31": (wire.settings({wire.INITIAL_WINDOW: 2**31}), FLOW_CONTROL_ERROR),
    "frames of 16,383 bytes": (wire.settings({wire.MAX_FRAME: 16_383}), PROTOCOL_ERROR),
    "frames of 2^24 bytes": (wire.settings({wire.MAX_FRAME: 1 << 24}), PROTOCOL_ERROR),
    # Section 6.9: windows
    "a connection's window update of nothing": (wire.window_update(0, 0), PROTOCOL_ERROR),
    "a connection's window update of a reserved bit": (wire.window_update(0, 1 << 31), PROTOCOL_ERROR),
    "a connection's window of 2^31": (wire.window_update(0, 2**31 - 65_536 + 1 + 4), FLOW_CONTROL_ERROR),
    # Section 10.5: more than is good for us
    "informational answers without end": (
        wire.begun(1, wire.CONTINUE) * (MAX_INFORMATIONAL + 1),
        ENHANCE_YOUR_CALM,
    ),
    "a block in countless pieces": (
        raw(wire.HEADERS, 0, 1) + raw(wire.CONTINUATION, 0, 1) * (MAX_CONTINUATIONS + 1),
        ENHANCE_YOUR_CALM,
    ),
    "a block of 17 KiB": (
        raw(wire.HEADERS, 0, 1, bytes(16_000)) + raw(wire.CONTINUATION, 0, 1, bytes(1_000)),
        ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize(("data", "code"), FRAMES.values(), ids=FRAMES)
def test_a_breach_of_the_protocol_ends_the_connection(data: bytes, code: ErrorCode) -> None:
    """Section 5.4.1; what is open is unknown then, and what was answered before in the same bytes stays answered."""
    protocol = busy(2)
    assert_told(protocol, wire.bare(3) + data, code)
    results = protocol.take_results()
    assert results.accepted == [1]
    assert tags(results) in ([1, 0], [0, 1])
    assert not results.unsent
    assert not protocol.take_results()


@pytest.mark.parametrize(("data", "code"), FRAMES.values(), ids=FRAMES)
def test_a_breach_in_single_bytes_is_the_same_breach(data: bytes, code: ErrorCode) -> None:
    protocol = busy(2)
    for at in range(len(data) - 1):
        protocol.receive_data(data[at : at + 1])
    assert_told(protocol, data[-1:], code)
    assert sorted(tags(protocol.take_results())) == [0, 1]


@pytest.mark.parametrize("stray", [0, 2, 5, 6])
def test_a_bare_answer_to_nobody_is_a_breach_beside_unfinished_neighbours_too(stray: int) -> None:
    """Section 5.1, when the fast way is closed because an answer or a request is under way."""
    protocol = busy(2)
    protocol.receive_data(wire.begun(1))
    assert_told(protocol, wire.bare(3) + wire.bare(stray), PROTOCOL_ERROR)
    assert protocol.take_results().accepted == [1]


def test_a_stream_window_above_the_maximum_by_settings_is_a_breach() -> None:
    """Section 6.9.2: that counts for the windows of open streams, which a WINDOW_UPDATE may have widened."""
    protocol = ready({wire.INITIAL_WINDOW: 0})
    send(protocol, [b"x" * 70_000])
    protocol.receive_data(wire.window_update(1, 2**31 - 1))
    assert_told(protocol, wire.settings({wire.INITIAL_WINDOW: 2**31 - 1}), FLOW_CONTROL_ERROR)


# Breaches that cost one stream


@pytest.mark.parametrize(("increment", "code"), [(0, PROTOCOL_ERROR), (1, FLOW_CONTROL_ERROR)])
def test_a_stream_window_out_of_range_costs_the_stream(increment: int, code: ErrorCode) -> None:
    """Sections 6.9 and 6.9.1."""
    protocol = ready({wire.INITIAL_WINDOW: 2**31 - 1})
    send(protocol, [b"x" * 70_000])
    protocol.data_to_send()
    protocol.receive_data(wire.window_update(1, 65_535))
    assert not protocol.data_to_send()
    protocol.receive_data(wire.window_update(1, increment))
    assert sent_frames(protocol) == [Frame(wire.RST_STREAM, 0, 1, wire.number(code))]
    assert protocol.take_results().unknown == [(0, "window update out of range")]
    assert protocol.phase is Phase.OPEN


def test_a_window_update_of_nothing_for_a_request_that_is_through_is_ignored() -> None:
    """Section 6.9 calls it a stream error. The window means nothing any more, and an answer means a lot."""
    protocol = busy(1)
    protocol.receive_data(wire.window_update(1, 0) + wire.bare(1))
    assert protocol.take_results().accepted == [0]


# Oddities that are to be tolerated

TOLERATED = {
    "an unknown frame": raw(0xFA, 0xFF, 0, b"anything"),
    "an unknown frame on an idle stream": raw(0xFA, 0, 99, b""),
    "ALTSVC and ORIGIN": raw(0xA, 0, 0, bytes(4)) + raw(0xC, 0, 0, b""),
    "unknown settings": wire.settings({0xFAFA: 7, 8: 1, 6: 8000, 0: 0}),
    "push disabled": wire.settings({wire.ENABLE_PUSH: 0}),
    "settings at their limits": wire.settings({wire.INITIAL_WINDOW: 2**31 - 1, wire.MAX_FRAME: 2**24 - 1}),
    "settings with undefined flags": raw(wire.SETTINGS, 0xFE, 0),
    "PING with undefined flags": raw(wire.PING, 0xFE, 0, bytes(8)),
    "PING acknowledged unasked": raw(wire.PING, wire.ACK, 0, bytes(8)),
    "PRIORITY on any stream": raw(wire.PRIORITY, 0, 99, bytes(5)) + raw(wire.PRIORITY, 0, 2, bytes(5)),
    "reserved bits": raw(wire.PING, 0, 1 << 31, bytes(8)) + raw(wire.WINDOW_UPDATE, 0, 0, b"\x80\x00\x00\x01"),
    "a window of 2^31-1": wire.window_update(0, 2**31 - 65_536 + 4),
    "GOAWAY about a stream of the server": wire.goaway(2**31 - 2),
    "the most pieces of a block, on a closed stream": raw(wire.HEADERS, 0, 1)
    + raw(wire.CONTINUATION, 0, 1) * (MAX_CONTINUATIONS - 1)
    + raw(wire.CONTINUATION, wire.END_HEADERS, 1),
}


@pytest.mark.parametrize("data", TOLERATED.values(), ids=TOLERATED)
def test_an_oddity_does_no_harm(data: bytes) -> None:
    """Sections 4.1, 5.5 and 6.5.2: what is unknown, undefined or reserved is ignored."""
    protocol = busy(2)
    protocol.receive_data(wire.bare(1) + data + wire.bare(3))
    assert protocol.take_results().accepted == [0, 1]


# Floods

FLOODS = {
    "PING": raw(wire.PING, 0, 0, bytes(8)),
    "PING acknowledged": raw(wire.PING, wire.ACK, 0, bytes(8)),
    "SETTINGS": wire.settings({wire.MAX_STREAMS: 7}),
    "SETTINGS acknowledged": raw(wire.SETTINGS, wire.ACK, 0),
    "PRIORITY": raw(wire.PRIORITY, 0, 3, bytes(5)),
    "GOAWAY": wire.goaway(2**31 - 1),
    "an unknown frame": raw(0xFA, 0, 0),
    "a connection's WINDOW_UPDATE": wire.window_update(0, 1),
    "a stream's WINDOW_UPDATE": wire.window_update(3, 1),
    "RST_STREAM of a cancelled stream": wire.reset(1, 0),
    "empty DATA": wire.body(3, b"", end=False),
    "DATA for a cancelled stream": wire.body(1, b"x", end=False),
    "bare answers to a cancelled stream": wire.bare(1),
    "answers to a cancelled stream": wire.bare(1, wire.NOT_FOUND),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("portion", [1, 1000])
def test_a_flood_of_frames_that_bring_no_answer_ends_the_connection(frame: bytes, portion: int) -> None:
    """Section 10.5. Stream 1 was cancelled, stream 3 waits for its body."""
    protocol = busy(3)
    protocol.expire(3)
    protocol.receive_data(wire.begun(3))
    protocol.take_results()
    for _ in range(CONTROL_BUDGET // portion - 1):
        protocol.receive_data(frame * portion)
    assert_told(protocol, frame * 2 * portion, ENHANCE_YOUR_CALM)
    assert sorted(tags(protocol.take_results())) == [1, 2]


def test_an_answer_now_and_then_makes_many_frames_welcome() -> None:
    """Servers that acknowledge each DATA frame twice are no flood."""
    protocol = busy(500)
    for number in range(500):
        protocol.receive_data((wire.window_update(0, 2) + wire.window_update(999, 2)) * 40 + wire.bare(2 * number + 1))
    assert len(protocol.take_results().accepted) == 500


def test_our_own_pings_answered_are_no_flood() -> None:
    """A connection may be idle for days."""
    protocol = ready()
    for _ in range(CONTROL_BUDGET + 10):
        protocol.ping()
        (ping,) = sent_frames(protocol)
        protocol.receive_data(raw(wire.PING, wire.ACK, 0, ping.payload))
    assert protocol.phase is Phase.OPEN


def test_a_body_without_end_is_bounded() -> None:
    """Of padding as of anything else; the peer ignores our windows."""
    protocol = busy(1)
    frame = raw(wire.DATA, wire.PADDED, 1, wire.padded(b"", 255))
    protocol.receive_data(wire.begun(1) + frame * (MAX_BODY // 256 + 1))
    assert [answer.body for answer in protocol.take_results().answered] == [b""]


# Anything at all

KINDS = st.one_of(st.integers(0, 9), st.integers(0, 255))
STREAM_IDS = st.one_of(st.integers(0, 9), st.sampled_from([0x80000001, 0x80000003, 2**31 - 1]))
PAYLOADS = st.one_of(
    st.sampled_from([b"", wire.OK, wire.NOT_FOUND, wire.CONTINUE, bytes(4), bytes(5), bytes(6), bytes(8), b"\x00\x05"]),
    st.binary(max_size=20),
)
SOUP = st.lists(
    st.one_of(
        st.builds(raw, KINDS, st.integers(0, 255), STREAM_IDS, PAYLOADS),
        st.builds(wire.bare, st.integers(0, 9).map(lambda n: 2 * n + 1)),
        st.builds(wire.begun, st.sampled_from([1, 3, 5]), st.sampled_from([wire.OK, wire.CONTINUE])),
        st.builds(wire.reset, st.sampled_from([1, 3, 5, 7]), st.integers(0, 14)),
        st.binary(min_size=1, max_size=12),
    ),
    max_size=12,
)


@given(SOUP, st.sampled_from([None, 0, 1]), st.booleans())
def test_whatever_arrives_each_request_is_told_once(soup: list[bytes], window: int | None, expire: bool) -> None:
    """And no error but ProtocolError, which leaves a GOAWAY to be sent."""
    protocol = ready(None if window is None else {wire.INITIAL_WINDOW: window})
    count = send(protocol, [b"{}"] * 6)
    told: list[int] = []
    protocol.data_to_send()
    for data in soup:
        try:
            protocol.receive_data(data)
        except ProtocolError:
            assert sent_frames(protocol)[-1].kind == wire.GOAWAY
        told += tags(protocol.take_results())
    if expire:
        protocol.expire(protocol.stream_mark)
    protocol.receive_eof()
    told += tags(protocol.take_results())
    assert sorted(told) == list(range(count))
    assert protocol.open_streams == 0
