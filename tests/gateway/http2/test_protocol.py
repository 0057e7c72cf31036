"""The life of a connection, one rule a test: what goes out, what comes in, and what each request is told."""

from __future__ import annotations

import pytest

from gateway.http2 import frames
from gateway.http2.answers import MAX_BODY, MAX_HEADER_BLOCK
from gateway.http2.frames import ErrorCode
from gateway.http2.protocol import MAX_STREAMS, ClientProtocol, Phase
from gateway.http2.results import Answer
from gateway.http2.windows import RECEIVE_WINDOW
from providers.base import Head
from tests.gateway.http2 import wire
from tests.gateway.http2.wire import Frame, busy, raw, ready, send, sent_frames

STATUS = (b":status", b"200")


def sent_body(protocol: ClientProtocol) -> dict[int, bytes]:
    """What went out as DATA since the last look, by stream."""
    bodies: dict[int, bytes] = {}
    for frame in sent_frames(protocol):
        if frame.kind == wire.DATA:
            bodies[frame.stream_id] = bodies.get(frame.stream_id, b"") + frame.payload
    return bodies


# The start


def test_a_connection_starts_with_preface_settings_and_a_large_window() -> None:
    """RFC 9113 section 3.4; no push, no table for answers, a stream's window as large as the largest body."""
    data = ClientProtocol().data_to_send()
    assert data.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    settings, update = wire.split(data[24:])
    assert settings[:3] == (wire.SETTINGS, 0, 0)
    assert wire.settings({1: 0, 2: 0, 4: MAX_BODY, 6: MAX_HEADER_BLOCK})[9:] == settings.payload
    assert update == Frame(wire.WINDOW_UPDATE, 0, 0, wire.number(RECEIVE_WINDOW - 65_535))


def test_one_request_goes_out_before_the_peers_settings() -> None:
    """Section 3.4 lets a client begin at once; the peer's limit is not known yet, so it begins with one."""
    protocol = ClientProtocol()
    assert protocol.room() == 1
    protocol.trust()
    assert send(protocol, [b"{}"] * 5) == 1
    assert protocol.room() == 0


def test_the_second_request_waits_for_the_first_answer() -> None:
    """APNs allows one stream until it has answered with success, whatever its SETTINGS say."""
    protocol = ClientProtocol()
    protocol.receive_data(wire.settings({wire.MAX_STREAMS: 500}))
    assert send(protocol, [b"{}"] * 5) == 1
    assert (protocol.room(), protocol.limited) == (0, True)
    protocol.receive_data(wire.bare(1))
    assert protocol.room() == 500


@pytest.mark.parametrize("answer", [wire.bare(1, wire.NOT_FOUND), wire.begun(1) + wire.body(1, b"{}")])
def test_any_answer_ends_the_caution(answer: bytes) -> None:
    protocol = ClientProtocol()
    protocol.receive_data(wire.settings())
    send(protocol, [b"{}"])
    protocol.receive_data(answer)
    assert protocol.room() == MAX_STREAMS


def test_a_refusal_does_not_end_the_caution() -> None:
    """It says nothing about what the peer would take."""
    protocol = ClientProtocol()
    protocol.receive_data(wire.settings())
    send(protocol, [b"{}"])
    protocol.receive_data(wire.reset(1, ErrorCode.REFUSED_STREAM))
    assert protocol.room() == 1


def test_a_late_answer_to_a_cancelled_stream_does_not_end_the_caution_in_a_run_either() -> None:
    """The fast way for bare answers judges like the long one."""
    protocol = ClientProtocol()
    protocol.receive_data(wire.settings())
    send(protocol, [b"{}"])
    protocol.expire(protocol.stream_mark)
    protocol.receive_data(wire.bare(1))
    assert protocol.room() == 1


def test_settings_are_acknowledged_and_acknowledgements_are_not() -> None:
    """Section 6.5.3."""
    protocol = ready()
    protocol.receive_data(wire.settings({wire.MAX_STREAMS: 3}) + raw(wire.SETTINGS, wire.ACK, 0))
    assert sent_frames(protocol) == [Frame(wire.SETTINGS, wire.ACK, 0, b"")]


# Streams


@pytest.mark.parametrize(
    ("named", "room"), [(None, 1000), (0, 0), (1, 1), (1000, 1000), (1001, 1000), (2**32 - 1, 1000)]
)
def test_the_peer_says_how_many_streams_and_we_use_at_most_a_thousand(named: int | None, room: int) -> None:
    """Section 6.5.2: no limit unless one is named; a thousand bounds what one connection's loss leaves unknown."""
    protocol = ready(None if named is None else {wire.MAX_STREAMS: named})
    assert protocol.room() == room
    assert protocol.limited == (room == 0)


def test_a_limit_below_what_is_open_takes_no_stream_away() -> None:
    """Section 6.5.2: streams that are open stay; new ones wait until the count is below the limit."""
    protocol = busy(5)
    protocol.receive_data(wire.settings({wire.MAX_STREAMS: 2}))
    assert (protocol.open_streams, protocol.room()) == (5, 0)
    protocol.receive_data(wire.bare(1) + wire.bare(3) + wire.bare(5))
    assert protocol.room() == 0
    protocol.receive_data(wire.bare(7))
    assert protocol.room() == 1


def test_nothing_is_sent_beyond_the_room() -> None:
    protocol = ready({wire.MAX_STREAMS: 3})
    assert send(protocol, [b"{}"] * 10) == 3
    assert protocol.open_streams == 3
    assert send(protocol, [b"{}"] * 10) == 0


def test_streams_have_odd_ids_in_order_and_end_with_their_body() -> None:
    """Sections 5.1.1 and 8.1."""
    protocol = ready()
    send(protocol, [b"a", b"bc", b"d" * 300])
    shape = [(frame.kind, frame.flags, frame.stream_id, len(frame.payload)) for frame in sent_frames(protocol)]
    assert [part[:3] for part in shape] == [
        part
        for stream_id in (1, 3, 5)
        for part in ((wire.HEADERS, wire.END_HEADERS, stream_id), (wire.DATA, wire.END_STREAM, stream_id))
    ]
    assert [size for kind, _, _, size in shape if kind == wire.DATA] == [1, 2, 300]


@pytest.mark.parametrize("way", ["first", "fast"])
@pytest.mark.parametrize("size", [16_000, 16_384, 16_385, 50_000])
def test_a_header_block_above_the_frame_size_is_continued(size: int, way: str) -> None:
    """Section 4.3: one such request must not cost the connection and all requests on it."""
    head = Head(wire.HEAD.fixed, (), (b":path",))
    protocol = ready()
    if way == "fast":
        protocol.send(head, ([b"/"],), [b"{}"], [0])
        protocol.data_to_send()
    assert protocol.send(head, ([b"/", b"/" * size, b"/b"],), [b"{}"] * 3, [1, 2, 3]) == 3
    sent = sent_frames(protocol)
    assert all(len(frame.payload) <= 16_384 for frame in sent)
    assert sum(frame.kind == wire.HEADERS for frame in sent) == 3
    assert sum(frame.kind == wire.DATA for frame in sent) == 3
    assert sum(bool(frame.flags & wire.END_HEADERS) for frame in sent if frame.kind != wire.DATA) == 3


def test_a_connection_retires_before_its_stream_ids_run_out() -> None:
    """Section 5.1.1: ids cannot be used again, so the last requests are those that surely fit."""
    protocol = ready()
    protocol._streams.next_id = frames.MAX_STREAM_ID - 2 * MAX_STREAMS
    assert send(protocol, [b"{}"] * MAX_STREAMS) >= 1
    assert protocol.phase is Phase.DRAINING
    assert protocol.room() == 0
    assert protocol.stream_mark - 2 <= frames.MAX_STREAM_ID
    sent = protocol.open_streams
    protocol.receive_data(b"".join(map(wire.bare, list(protocol._streams.open))))
    assert len(protocol.take_results().accepted) == sent


@pytest.mark.parametrize("first", [1, 2, 499, 500, 998, 999, 1000])
def test_the_last_slices_are_numbered_within_31_bits(first: int) -> None:
    """Whatever the sizes of the slices that lead to the limit of retirement."""
    protocol = ready({wire.INITIAL_WINDOW: 1 << 20})
    protocol.receive_data(wire.window_update(0, 1 << 20))
    protocol._streams.next_id = frames.MAX_STREAM_ID - 2 * MAX_STREAMS - 2
    for size in (first, MAX_STREAMS, MAX_STREAMS):
        send(protocol, [b"{}"] * size)
        protocol.receive_data(b"".join(map(wire.bare, list(protocol._streams.open))))
    assert protocol.phase is Phase.DRAINING
    assert protocol.stream_mark - 2 <= frames.MAX_STREAM_ID
    assert max(frame.stream_id for frame in sent_frames(protocol)) == protocol.stream_mark - 2


# Answers


def test_a_bare_success_is_accepted() -> None:
    protocol = busy(3)
    protocol.receive_data(wire.bare(3) + wire.bare(1))
    results = protocol.take_results()
    assert results.accepted == [1, 0]
    assert (results.answered, results.unsent, results.unknown) == ([], [], [])
    assert not protocol.take_results()


def test_tags_are_handed_back_whatever_they_are() -> None:
    """None is a tag like any other."""
    protocol = ready()
    protocol.send(wire.HEAD, ([b"/"] * 3, [b"i"] * 3), [b"{}"] * 3, [None, 0, ""])
    protocol.receive_data(wire.bare(1) + wire.bare(3) + wire.bare(5))
    assert protocol.take_results().accepted == [None, 0, ""]


def test_a_success_with_header_fields_and_no_body_is_accepted_unread() -> None:
    protocol = busy(1)
    protocol.receive_data(wire.bare(1, b"\x88\x00\x07apns-id\x011"))
    assert protocol.take_results().accepted == [0]


def test_an_answer_has_status_fields_and_body() -> None:
    protocol = busy(1)
    protocol.receive_data(wire.begun(1, b"\x8c\x00\x01n\x01v") + wire.body(1, b"{", end=False) + wire.body(1, b"}"))
    assert protocol.take_results().answered == [Answer(0, 400, ((b":status", b"400"), (b"n", b"v")), b"{}")]


def test_a_body_may_end_with_an_empty_frame_or_with_trailers() -> None:
    """Section 8.1; what trailers say is of no interest."""
    protocol = busy(2)
    protocol.receive_data(wire.begun(1) + wire.body(1, b"{}", end=False) + wire.body(1, b""))
    protocol.receive_data(wire.begun(3) + wire.body(3, b"{}", end=False) + wire.bare(3, b"\x00\x01n\x01v"))
    assert protocol.take_results().answered == [Answer(tag, 200, (STATUS,), b"{}") for tag in (0, 1)]


def test_informational_answers_come_before_the_answer() -> None:
    """Section 8.1: any number, in reason, and then the answer that counts."""
    protocol = busy(2)
    protocol.receive_data(wire.begun(1, wire.CONTINUE) * 2 + wire.begun(3, b"\x08\x03103"))
    assert not protocol.take_results()
    protocol.receive_data(wire.bare(1) + wire.bare(3, wire.NOT_FOUND))
    assert [(answer.tag, answer.status) for answer in protocol.take_results().answered] == [(0, 200), (1, 404)]


def test_padding_and_priority_are_taken_off() -> None:
    """Sections 6.1 and 6.2."""
    protocol = busy(2)
    ends = wire.END_HEADERS | wire.END_STREAM
    priority = b"\x80\x00\x00\x00\x10"
    protocol.receive_data(
        raw(wire.HEADERS, ends | wire.PADDED | wire.PRIORITISED, 1, wire.padded(priority + wire.OK, 7))
    )
    protocol.receive_data(wire.begun(3) + raw(wire.DATA, wire.PADDED | wire.END_STREAM, 3, wire.padded(b"{}", 255)))
    results = protocol.take_results()
    assert results.accepted == [0]
    assert results.answered == [Answer(1, 200, (STATUS,), b"{}")]


def test_a_header_block_may_come_in_pieces() -> None:
    """Section 6.10; END_STREAM stands on the first of them."""
    protocol = busy(1)
    protocol.receive_data(raw(wire.HEADERS, wire.END_STREAM, 1, b""))
    assert protocol.in_header_block
    protocol.receive_data(raw(wire.CONTINUATION, 0, 1, wire.OK) + raw(wire.CONTINUATION, 0, 1, b"\x00"))
    assert not protocol.take_results()
    protocol.receive_data(raw(wire.CONTINUATION, wire.END_HEADERS, 1, b"\x01n\x01v"))
    assert protocol.take_results().accepted == [0]
    assert not protocol.in_header_block


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(wire.bare(1, b"\x84"), id="a request's field"),
        pytest.param(wire.bare(1, b""), id="no fields"),
        pytest.param(wire.bare(1, b"\x00\x01n\x01v"), id="no status"),
        pytest.param(wire.bare(1, b"\x8c\x8c"), id="two statuses"),
        pytest.param(wire.bare(1, b"\x8c\x00\x01N\x01v"), id="a name in upper case"),
        pytest.param(wire.bare(1, b"\x88\x8d"), id="a success and a failure"),
        pytest.param(wire.bare(1, b"\x88\x08\x03404"), id="a success and a failure as a literal"),
        pytest.param(wire.bare(1, b"\x88\x00\x07:status\x03404"), id="a success and a failure by name"),
        pytest.param(wire.bare(1, b"\x88\x00\x85\xb8\x84\x8d\x36\xa3\x01v"), id="the same in Huffman's code"),
        pytest.param(wire.bare(1, b"\x88\x00\x01N\x01v"), id="a success with a name in upper case"),
        pytest.param(wire.bare(1, b"\x88\x84"), id="a success with a request's field"),
        pytest.param(wire.bare(1, wire.CONTINUE), id="an informational answer that ends"),
        pytest.param(wire.body(1, b"{}"), id="a body before its status"),
        pytest.param(wire.begun(1, wire.CONTINUE) + wire.body(1, b"{}"), id="a body after an informational answer"),
        pytest.param(wire.begun(1) + wire.begun(1), id="a second answer"),
        pytest.param(wire.begun(1) + wire.bare(1), id="a status in trailers"),
    ],
)
def test_a_malformed_answer_costs_its_stream_only(answer: bytes) -> None:
    """Section 8.1.1: a stream error of type PROTOCOL_ERROR; what it was meant to say stays unknown."""
    protocol = busy(2)
    protocol.receive_data(answer + wire.bare(3))
    results = protocol.take_results()
    assert (results.unknown, results.accepted) == ([(0, "malformed answer")], [1])
    assert sent_frames(protocol) == [Frame(wire.RST_STREAM, 0, 1, wire.number(ErrorCode.PROTOCOL_ERROR))]
    assert protocol.phase is Phase.OPEN


def test_frames_behind_a_whole_answer_take_nothing_back() -> None:
    """Section 8.1 lets a server reset a stream whose answer is whole; anything else is late and ignored."""
    protocol = busy(2)
    for code in (ErrorCode.NO_ERROR, ErrorCode.CANCEL, ErrorCode.REFUSED_STREAM, 0xDEAD):
        protocol.receive_data(wire.bare(1) + wire.reset(1, code))
    protocol.receive_data(wire.begun(1, wire.NOT_FOUND) + wire.body(1, b"late") + wire.window_update(1, 5))
    results = protocol.take_results()
    assert (results.accepted, results.answered, results.unsent, results.unknown) == ([0], [], [], [])
    assert protocol.open_streams == 1
    assert not protocol.data_to_send()


# Resets


def test_a_refused_stream_was_not_processed() -> None:
    """Section 8.7."""
    protocol = busy(2)
    protocol.receive_data(wire.reset(1, ErrorCode.REFUSED_STREAM) + wire.reset(1, ErrorCode.STREAM_CLOSED))
    assert protocol.take_results().unsent == [0]
    assert protocol.open_streams == 1


@pytest.mark.parametrize("code", [code for code in [*ErrorCode, 0xFFFFFFFF] if code != ErrorCode.REFUSED_STREAM])
def test_any_other_reset_leaves_the_outcome_unknown(code: int) -> None:
    protocol = busy(1)
    protocol.receive_data(wire.reset(1, code))
    assert protocol.take_results().unknown == [(0, f"reset {frames.error_name(code)}")]


@pytest.mark.parametrize("code", [ErrorCode.REFUSED_STREAM, ErrorCode.INTERNAL_ERROR])
def test_a_reset_behind_a_final_status_cuts_off_the_body_only(code: ErrorCode) -> None:
    """Who has sent a status has processed the request, whatever the reset says."""
    protocol = busy(1)
    protocol.receive_data(wire.begun(1, wire.NOT_FOUND) + wire.body(1, b'{"rea', end=False) + wire.reset(1, code))
    assert protocol.take_results().answered == [Answer(0, 404, ((b":status", b"404"),), b'{"rea')]


def test_a_refusal_behind_an_informational_answer_is_not_believed() -> None:
    """Section 8.7 means streams without any processing; a 100 says that there was some."""
    protocol = busy(1)
    protocol.receive_data(wire.begun(1, wire.CONTINUE) + wire.reset(1, ErrorCode.REFUSED_STREAM))
    results = protocol.take_results()
    assert (results.unsent, results.unknown) == ([], [(0, "reset REFUSED_STREAM")])


# GOAWAY


def test_what_is_above_goaways_last_stream_was_not_processed() -> None:
    """Section 6.8: the others may still be answered, and no new ones are opened."""
    protocol = busy(4)
    protocol.receive_data(wire.goaway(3, ErrorCode.REFUSED_STREAM, b"Maximum active streams violated"))
    assert protocol.take_results().unsent == [2, 3]
    assert protocol.goaway == (ErrorCode.REFUSED_STREAM, b"Maximum active streams violated")
    assert (protocol.phase, protocol.open_streams, protocol.room()) == (Phase.DRAINING, 2, 0)
    assert send(protocol, [b"{}"]) == 0
    protocol.receive_data(wire.bare(1) + wire.bare(3) + wire.bare(5))
    assert protocol.take_results().accepted == [0, 1]


def test_a_goaway_may_come_in_two_steps() -> None:
    """Section 6.8: first 2^31-1, which only asks for no more streams, then the one that counts."""
    protocol = busy(3)
    protocol.receive_data(wire.goaway(2**31 - 1))
    assert not protocol.take_results()
    protocol.receive_data(wire.bare(1) + wire.goaway(1) + wire.goaway(5))
    results = protocol.take_results()
    assert (results.accepted, results.unsent) == ([0], [1, 2])


def test_a_goaway_about_a_stream_with_a_status_is_not_believed() -> None:
    protocol = busy(3)
    protocol.receive_data(wire.begun(1) + wire.begun(3, wire.CONTINUE) + wire.goaway(0, ErrorCode.ENHANCE_YOUR_CALM))
    results = protocol.take_results()
    assert [answer.tag for answer in results.answered] == [0]
    assert results.unknown == [(1, "GOAWAY ENHANCE_YOUR_CALM")]
    assert results.unsent == [2]


def test_goaways_reserved_bit_and_long_debug_data_do_no_harm() -> None:
    """Section 4.1: reserved bits are ignored. Debug data may be of any length; a page of it is enough."""
    protocol = busy(2)
    protocol.receive_data(wire.goaway(0x80000001, 0x99, b"x" * 16_000))
    assert protocol.take_results().unsent == [1]
    assert protocol.goaway is not None
    assert protocol.goaway[0] == 0x99
    assert len(protocol.goaway[1]) < 256


# Flow control of bodies


def test_the_connections_window_bounds_all_bodies_together() -> None:
    """Section 6.9.1: what does not fit waits, and so do the requests behind it."""
    protocol = ready()
    bodies = [b"%d" % n * 20_000 for n in range(5)]
    assert send(protocol, bodies) == 4
    assert (protocol.window, protocol.room()) == (0, 0)
    sent = sent_body(protocol)
    assert [len(body) for body in sent.values()] == [20_000, 20_000, 20_000, 5_535]
    protocol.receive_data(wire.window_update(0, 10_000))
    assert sent_body(protocol) == {7: b"3" * 10_000}
    assert protocol.room() == 0
    protocol.receive_data(wire.window_update(0, 10_000))
    assert sent_frames(protocol) == [Frame(wire.DATA, wire.END_STREAM, 7, b"3" * 4_465)]
    assert protocol.window == 5_535
    assert protocol.room() == MAX_STREAMS - 4


def test_a_body_that_does_not_fit_whole_waits_while_others_are_open() -> None:
    """Nobody has to open a window before it is used up, so with nothing open it goes out in parts."""
    protocol = ready()
    send(protocol, [b"x" * 16_000] * 4)
    assert (protocol.room(1_536), protocol.limited) == (0, True)
    assert protocol.room(1_535) == MAX_STREAMS - 4
    protocol.receive_data(b"".join(wire.bare(stream_id) for stream_id in (1, 3, 5, 7)))
    assert protocol.room(1_536) == MAX_STREAMS


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("way", ["first", "fast"])
@pytest.mark.parametrize("behind", [[], [b"2"]])
def test_the_window_is_used_up_to_its_last_byte_and_not_beyond(count: int, way: str, behind: list[bytes]) -> None:
    """Section 6.9: at zero nothing is begun; one byte too many waits."""
    protocol = ready()
    if way == "fast":
        send(protocol, [b"x"])
        protocol.receive_data(wire.bare(1) + wire.window_update(0, 1))
    body = b"x" * ((65_535 - 10_000) // count // 10)
    assert send(protocol, [body] * count * 10, 1) == count * 10
    left = protocol.window
    assert left < 16_384
    assert send(protocol, [b"x" * (left - 1), b"y"], 100) == 2
    assert (protocol.window, protocol.room(), protocol.limited) == (0, 0, True)
    protocol.data_to_send()
    protocol.receive_data(wire.window_update(0, 10))
    assert send(protocol, [b"12345", b"678901", *behind], 200) == 2
    assert list(sent_body(protocol).values()) == [b"12345", b"67890"]
    protocol.receive_data(wire.window_update(0, 1))
    assert list(sent_body(protocol).values()) == [b"1"]


def test_a_stream_window_of_nothing_holds_the_body_back() -> None:
    """Section 6.9.2: the header fields go out, the body when the peer lets it."""
    protocol = ready({wire.INITIAL_WINDOW: 0})
    assert send(protocol, [b"body", b"next"]) == 1
    assert [frame.kind for frame in sent_frames(protocol)] == [wire.HEADERS]
    for letter in (b"b", b"o", b"d"):
        protocol.receive_data(wire.window_update(1, 1))
        assert sent_frames(protocol) == [Frame(wire.DATA, 0, 1, letter)]
    protocol.receive_data(wire.window_update(1, 100))
    assert sent_frames(protocol) == [Frame(wire.DATA, wire.END_STREAM, 1, b"y")]


def test_settings_may_leave_a_streams_window_below_zero() -> None:
    """Section 6.9.2: nothing may be sent until WINDOW_UPDATE has made it positive again."""
    protocol = ready({wire.INITIAL_WINDOW: 10})
    send(protocol, [b"x" * 30])
    assert sent_body(protocol) == {1: b"x" * 10}
    protocol.receive_data(wire.settings({wire.INITIAL_WINDOW: 3}))
    protocol.receive_data(wire.window_update(1, 7))
    assert not sent_body(protocol)
    protocol.receive_data(wire.window_update(1, 1))
    assert sent_body(protocol) == {1: b"x"}
    protocol.receive_data(wire.settings({wire.INITIAL_WINDOW: 30}))
    assert sent_body(protocol) == {1: b"x" * 19}
    assert protocol.open_streams == 1


def test_the_initial_window_does_not_touch_the_connections() -> None:
    """Section 6.9.2: only WINDOW_UPDATE changes that one."""
    protocol = ready({wire.INITIAL_WINDOW: 1 << 20})
    assert protocol.window == 65_535
    send(protocol, [b"x" * 70_000])
    assert len(sent_body(protocol)[1]) == 65_535


def test_bodies_in_frames_as_large_as_the_peer_takes() -> None:
    """Section 4.2: 16,384 bytes unless it says more."""
    protocol = ready()
    assert send(protocol, [b"x" * 40_000, b"y"]) == 2
    sizes = [len(frame.payload) for frame in sent_frames(protocol) if frame.kind == wire.DATA]
    assert sizes == [16_384, 16_384, 7_232, 1]
    protocol.receive_data(wire.settings({wire.MAX_FRAME: 20_000}) + wire.bare(1) + wire.window_update(0, 40_001))
    assert send(protocol, [b"x" * 40_000]) == 1
    sizes = [len(frame.payload) for frame in sent_frames(protocol) if frame.kind == wire.DATA]
    assert sizes == [20_000, 20_000]


def test_an_answer_before_the_body_is_through_cancels_the_rest() -> None:
    """Section 8.1: the answer counts, and nobody wants the rest of the body."""
    protocol = ready({wire.INITIAL_WINDOW: 1})
    send(protocol, [b"body"])
    protocol.data_to_send()
    protocol.receive_data(wire.bare(1))
    results = protocol.take_results()
    assert [answer.status for answer in results.answered] == [200]
    assert not results.accepted
    assert sent_frames(protocol) == [Frame(wire.RST_STREAM, 0, 1, wire.number(ErrorCode.CANCEL))]
    protocol.receive_data(wire.window_update(1, 3))
    assert not protocol.data_to_send()
    assert protocol.room() > 0


@pytest.mark.parametrize("begun", [b"", wire.begun(1, wire.NOT_FOUND)])
def test_a_reset_is_never_answered_with_a_reset(begun: bytes) -> None:
    """Section 5.4.2, which would loop otherwise; the rest of the body is simply dropped."""
    protocol = ready({wire.INITIAL_WINDOW: 1})
    send(protocol, [b"body"])
    protocol.data_to_send()
    protocol.receive_data(begun + wire.reset(1, ErrorCode.NO_ERROR))
    assert not protocol.data_to_send()
    assert protocol.open_streams == 0
    assert protocol.room() > 0


@pytest.mark.parametrize("cause", ["expire", "window", "large"])
def test_a_stream_is_reset_once(cause: str) -> None:
    """Section 5.1: no frames on a closed stream, also where both its request and its answer were unfinished."""
    protocol = ready({wire.INITIAL_WINDOW: 1})
    send(protocol, [b"body"])
    protocol.receive_data(wire.begun(1, wire.NOT_FOUND))
    protocol.data_to_send()
    if cause == "expire":
        protocol.expire(protocol.stream_mark)
    elif cause == "window":
        protocol.receive_data(wire.window_update(1, 0))
    else:
        protocol.receive_data(wire.body(1, bytes(16_000), end=False) * 5)
    assert [frame.kind for frame in sent_frames(protocol)] == [wire.RST_STREAM]
    assert [answer.status for answer in protocol.take_results().answered] == [404]


def test_goaway_lets_a_body_below_its_last_stream_finish() -> None:
    """Section 6.8: such a stream may still be answered, which takes its whole request."""
    protocol = ready({wire.INITIAL_WINDOW: 1})
    send(protocol, [b"body"])
    protocol.data_to_send()
    protocol.receive_data(wire.goaway(1) + wire.window_update(1, 3))
    assert sent_body(protocol) == {1: b"ody"}
    protocol.receive_data(wire.bare(1))
    assert protocol.take_results().accepted == [0]


def test_goaway_forgets_a_body_above_its_last_stream() -> None:
    protocol = ready({wire.INITIAL_WINDOW: 1})
    send(protocol, [b"body"])
    protocol.data_to_send()
    protocol.receive_data(wire.goaway(0) + wire.window_update(1, 3) + wire.window_update(0, 3))
    assert protocol.take_results().unsent == [0]
    assert not sent_body(protocol)


# Flow control of answers


def test_the_receive_window_is_refilled_at_half() -> None:
    """Section 6.9: all of DATA counts, padding as well, on streams that are gone as well."""
    protocol = busy(2)
    protocol.receive_data(wire.bare(1) + wire.begun(3))
    frame = raw(wire.DATA, wire.PADDED, 1, wire.padded(bytes(10), 255))
    used = 0
    while used + 266 < RECEIVE_WINDOW // 2:
        step = min(30, (RECEIVE_WINDOW // 2 - used) // 266)
        protocol.receive_data(frame * step)
        used += 266 * step
        protocol._budget.used = 0
    assert not protocol.data_to_send()
    protocol.receive_data(frame)
    assert sent_frames(protocol) == [Frame(wire.WINDOW_UPDATE, 0, 0, wire.number(used + 266))]
    protocol.receive_data(frame)
    assert not protocol.data_to_send(), "what was refilled is refilled once"


def test_a_body_up_to_the_limit_is_whole() -> None:
    protocol = busy(1)
    protocol.receive_data(wire.begun(1) + wire.body(1, bytes(16_384), end=False) * 3 + wire.body(1, bytes(16_383)))
    (answer,) = protocol.take_results().answered
    assert len(answer.body) == MAX_BODY
    assert not protocol.data_to_send()


def test_a_body_that_uses_up_its_window_is_cut_off() -> None:
    """The stream's window is never refilled, so this is all that can come; its status says enough."""
    protocol = busy(1)
    protocol.receive_data(wire.begun(1) + wire.body(1, bytes(16_384), end=False) * 3)
    assert not protocol.take_results()
    protocol.receive_data(wire.body(1, bytes(16_383), end=False))
    (answer,) = protocol.take_results().answered
    assert len(answer.body) == MAX_BODY
    assert sent_frames(protocol) == [Frame(wire.RST_STREAM, 0, 1, wire.number(ErrorCode.CANCEL))]


def test_padding_uses_up_the_window_like_a_body() -> None:
    """Section 6.9.1: otherwise a server would wait for a WINDOW_UPDATE that never comes."""
    protocol = busy(1)
    protocol.receive_data(wire.begun(1) + raw(wire.DATA, wire.PADDED, 1, wire.padded(b"x", 253)) * 256)
    assert not protocol.take_results()
    protocol.receive_data(raw(wire.DATA, wire.PADDED, 1, wire.padded(b"x", 253)) * 2)
    assert [answer.body for answer in protocol.take_results().answered] == [b"x" * 257]


# What the owner does


def test_expire_cancels_what_is_older_than_its_mark() -> None:
    protocol = busy(2)
    mark = protocol.stream_mark
    send(protocol, [b"{}"], 2)
    protocol.data_to_send()
    protocol.receive_data(wire.bare(1))
    assert protocol.expire(mark) == 1
    results = protocol.take_results()
    assert (results.accepted, results.unknown) == ([0], [(1, "timeout")])
    assert sent_frames(protocol) == [Frame(wire.RST_STREAM, 0, 3, wire.number(ErrorCode.CANCEL))]
    assert protocol.expire(mark) == 0
    protocol.receive_data(wire.bare(3) + wire.bare(5))
    assert protocol.take_results().accepted == [2]


def test_expire_keeps_a_status_that_came_without_its_whole_body() -> None:
    protocol = busy(2)
    protocol.receive_data(wire.begun(1, wire.NOT_FOUND) + wire.begun(3, wire.CONTINUE))
    protocol.expire(protocol.stream_mark)
    results = protocol.take_results()
    assert [(answer.tag, answer.status) for answer in results.answered] == [(0, 404)]
    assert results.unknown == [(1, "timeout")]


def test_expire_frees_the_room_that_a_stuck_body_takes() -> None:
    protocol = ready({wire.INITIAL_WINDOW: 1})
    send(protocol, [b"body"])
    assert protocol.room() == 0
    protocol.expire(protocol.stream_mark)
    assert protocol.room() == MAX_STREAMS


def test_pings_are_answered_with_what_they_brought() -> None:
    """Section 6.7."""
    protocol = ready()
    protocol.receive_data(raw(wire.PING, 0, 0, b"12345678"))
    assert sent_frames(protocol) == [Frame(wire.PING, wire.ACK, 0, b"12345678")]


def test_our_pings_are_counted_until_one_is_answered() -> None:
    protocol = ready()
    protocol.ping()
    protocol.ping()
    assert protocol.pings_unanswered == 2
    first, second = sent_frames(protocol)
    assert first[:3] == second[:3] == (wire.PING, 0, 0)
    protocol.receive_data(raw(wire.PING, wire.ACK, 0, second.payload))
    assert protocol.pings_unanswered == 0
    assert not protocol.data_to_send()


def test_draining_lets_answers_come() -> None:
    protocol = busy(2)
    protocol.drain()
    assert (protocol.phase, protocol.room()) == (Phase.DRAINING, 0)
    protocol.receive_data(wire.bare(1) + wire.bare(3))
    assert protocol.take_results().accepted == [0, 1]
    assert protocol.open_streams == 0


def test_closing_says_goaway_and_gives_back_what_is_open() -> None:
    """Section 6.8: the server opened no stream, so the last one we processed is zero."""
    protocol = busy(3)
    protocol.receive_data(wire.bare(1) + wire.begun(3, wire.NOT_FOUND))
    protocol.close(reason="shutdown")
    results = protocol.take_results()
    assert results.accepted == [0]
    assert [(answer.tag, answer.status) for answer in results.answered] == [(1, 404)]
    assert results.unknown == [(2, "shutdown")]
    assert sent_frames(protocol) == [Frame(wire.GOAWAY, 0, 0, bytes(8))]
    assert (protocol.phase, protocol.room(), protocol.open_streams) == (Phase.CLOSED, 0, 0)


def test_nothing_happens_after_the_end() -> None:
    protocol = busy(1)
    protocol.receive_eof()
    protocol.take_results()
    protocol.close()
    protocol.receive_eof()
    protocol.drain()
    protocol.receive_data(wire.bare(1) + b"anything")
    assert protocol.phase is Phase.CLOSED
    assert send(protocol, [b"{}"]) == 0
    assert protocol.expire(protocol.stream_mark) == 0
    assert not protocol.take_results()
    assert not protocol.data_to_send()


@pytest.mark.parametrize("cut", [0, 1, 9, 11])
def test_the_end_of_the_connection_leaves_everything_open_unknown(cut: int) -> None:
    """A frame that was cut off says nothing."""
    protocol = busy(3)
    protocol.receive_data(wire.bare(1) + wire.bare(3, b"\x88\x00\x01n\x01v")[:cut])
    protocol.receive_eof()
    results = protocol.take_results()
    assert (results.accepted, results.unknown) == ([0], [(1, "connection lost"), (2, "connection lost")])


def test_nothing_of_a_request_shows() -> None:
    """Targets and payloads stay out of what is logged."""
    protocol = ready()
    protocol.send(wire.HEAD, ([b"/3/device/secret"], [b"i"]), [b"secret"], ["secret"])
    assert "secret" not in repr(protocol)
    assert "streams=1/1000" in repr(protocol)
