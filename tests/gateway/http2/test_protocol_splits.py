"""The fast ways for answers, bare or alike, and how TCP cuts the stream, must not show in what requests are told.

The fast ways leave a frame whose stream id has the reserved bit set to the long way, although that bit means nothing
(RFC 9113 section 4.1). So the same answers with the bit set are the measure of those without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http2 import budget
from gateway.http2.frames import ProtocolError
from gateway.http2.protocol import ClientProtocol
from tests.gateway.http2 import wire
from tests.gateway.http2.wire import ready, send

REQUESTS = 12
CANCELLED = 3
BUDGET = 6
"""Instead of `CONTROL_BUDGET`, so that short floods reach it."""


def connection(*, begun: bool, stuck: bool) -> ClientProtocol:
    """Twelve requests on the wire: some cancelled, perhaps one half answered, perhaps one stuck before its body."""
    protocol = ready()
    send(protocol, [b"{}"] * (REQUESTS - 1))
    if stuck:
        protocol.receive_data(wire.settings({wire.INITIAL_WINDOW: 0}))
    send(protocol, [b"{}"], REQUESTS - 1)
    protocol.expire(2 * CANCELLED + 1)
    if begun:
        protocol.receive_data(wire.begun(2 * CANCELLED + 1, wire.CONTINUE))
    protocol._budget.used = 0
    protocol._streams.cautious = True
    protocol.take_results()
    protocol.data_to_send()
    return protocol


def outcome(protocol: ClientProtocol, portions: Iterable[bytes]) -> dict[str, Any]:
    """All that can be seen of a connection after these bytes."""
    seen: dict[str, Any] = {"accepted": [], "answered": [], "unsent": [], "unknown": [], "sent": b"", "error": None}
    for portion in portions:
        try:
            protocol.receive_data(portion)
        except ProtocolError as error:
            seen["error"] = str(error)
        results = protocol.take_results()
        for name in ("accepted", "answered", "unsent", "unknown"):
            seen[name] += getattr(results, name)
        seen["sent"] += protocol.data_to_send()
    if seen["error"] is None:  # nothing of these matters after the end
        seen |= {"budget": protocol._budget.used, "room": protocol.room(), "block": protocol.in_header_block}
    return seen | {"phase": protocol.phase, "open": protocol.open_streams, "goaway": protocol.goaway}


def long_way(frame: bytes) -> bytes:
    return frame[:5] + bytes((frame[5] | 0x80,)) + frame[6:]


ANY_STREAM = st.integers(0, REQUESTS - 1).map(lambda number: 2 * number + 1)
STRAY = st.sampled_from([0, 2, 2 * REQUESTS + 1])
RUNS = st.lists(st.one_of(*[ANY_STREAM] * 9, STRAY), min_size=1, max_size=8).map(
    lambda streams: [wire.bare(stream_id) for stream_id in streams]
)
JSON = b"\x88\x00\x01t\x04json"
REFUSED = b"\x8d\x00\x01t\x04json"
SAID = [(JSON, b"{}"), (JSON, b"[]"), (JSON, b"{ }"), (REFUSED, b"{}"), (REFUSED, b"as long as one of the others..")]
PAIRS = st.lists(
    st.tuples(st.one_of(*[ANY_STREAM] * 9, STRAY), st.sampled_from([*SAID[:2] * 3, *SAID])), min_size=1, max_size=12
).map(lambda answers: [f for s, (block, body) in answers for f in (wire.begun(s, block), wire.body(s, body))])
LOCATED = st.lists(
    st.tuples(st.one_of(*[ANY_STREAM] * 9, STRAY), st.sampled_from([b"/1", b"/2", b"/10"])), min_size=1, max_size=8
).map(lambda answers: [wire.bare(s, b"\x08\x03201\x0f\x1f" + bytes((len(at),)) + at) for s, at in answers])
NAMED = st.lists(
    st.tuples(st.one_of(*[ANY_STREAM] * 9, STRAY), st.sampled_from([b"1", b"2", b"10"])), min_size=1, max_size=8
).map(lambda answers: [wire.bare(s, b"\x88\x00\x01n" + bytes((len(at),)) + at) for s, at in answers])
OTHERS = st.one_of(
    st.builds(wire.begun, ANY_STREAM, st.sampled_from([wire.OK, wire.CONTINUE, wire.NOT_FOUND])),
    st.builds(wire.bare, ANY_STREAM, st.sampled_from([wire.NOT_FOUND, b"\x08\x03200", b"\x20\x88"])),
    st.builds(wire.bare, ANY_STREAM, st.sampled_from([b"\x88\x88", b"\x88\x8f"])),
    st.builds(wire.body, ANY_STREAM, st.sampled_from([b"", b"{}", b"\x00\x00\x01\x01\x05"]), end=st.booleans()),
    st.builds(wire.reset, ANY_STREAM, st.sampled_from([0, 7])),
    st.builds(wire.goaway, st.integers(0, 2 * REQUESTS)),
    st.builds(wire.window_update, st.one_of(st.just(0), ANY_STREAM), st.integers(1, 9)),
    st.just(wire.raw(wire.PING, 0, 0, b"\x00\x00\x01\x01\x05\x00\x00\x00")),
    st.just(wire.raw(wire.HEADERS, wire.END_STREAM, 1, b"")),
).map(lambda frame: [frame])
ANSWERS = st.lists(st.one_of(RUNS, RUNS, PAIRS, LOCATED, NAMED, OTHERS), max_size=6).map(
    lambda groups: [f for group in groups for f in group]
)


@settings(max_examples=400)
@given(frames=ANSWERS, begun=st.booleans(), stuck=st.booleans(), data=st.data())
def test_neither_the_way_nor_the_cut_shows(frames: list[bytes], begun: bool, stuck: bool, data: st.DataObject) -> None:
    """Runs, neighbours that are half answered, cancelled and unknown streams, floods: all the same."""
    whole = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    portions = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "CONTROL_BUDGET", BUDGET)

        def seen(portions: Iterable[bytes]) -> dict[str, Any]:
            return outcome(connection(begun=begun, stuck=stuck), portions)

        measure = seen(map(long_way, frames))
        assert seen([whole]) == measure
        assert seen(frames) == measure
        assert seen(portions) == measure
        assert seen(whole[at : at + 1] for at in range(len(whole))) == measure


@pytest.mark.parametrize("around", [b"", wire.raw(wire.PING, 0, 0, bytes(8)), wire.bare(1, wire.NOT_FOUND)])
def test_a_run_may_be_cut_anywhere(around: bytes) -> None:
    """Each position of a run of five, with other frames before and behind it."""
    run = b"".join(wire.bare(2 * number + 1) for number in range(CANCELLED, CANCELLED + 5))
    data = around + run + around
    for cut in range(len(data) + 1):
        protocol = connection(begun=False, stuck=False)
        protocol.receive_data(data[:cut])
        protocol.receive_data(data[cut:])
        assert protocol.take_results().accepted == list(range(CANCELLED, CANCELLED + 5))


def test_bytes_that_look_like_a_bare_answer_inside_a_frame_are_not_one() -> None:
    """A body may hold anything."""
    protocol = connection(begun=False, stuck=False)
    disguise = wire.bare(9) * 3
    protocol.receive_data(wire.begun(7) + wire.body(7, disguise))
    results = protocol.take_results()
    assert results.accepted == []
    assert [answer.body for answer in results.answered] == [disguise]
