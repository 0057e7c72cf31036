"""Answers that are alike are found as columns, and only they."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.http2.alike import HOPELESS, LEAST_TRIED, Shape, Successes
from gateway.http2.hpack import AnswerDecoder, Decoded, HeaderError
from gateway.http2.results import Answer, Run
from tests.gateway.http2 import wire
from tests.gateway.http2.wire import busy

JSON = b"\x88\x00\x01t\x04json"
CREATED = b"\x08\x03201"


def located(value: bytes, status: bytes = CREATED, behind: bytes = b"\x00\x01z\x01z") -> bytes:
    """A block with a Location, which is index 46 of the static table."""
    return status + b"\x0f\x1f" + bytes((len(value),)) + value + behind


def decode(block: bytes) -> Decoded:
    return AnswerDecoder(4096, 64).decode(block)


def learned(*blocks: bytes) -> Shape | None:
    successes = Successes()
    for block in blocks:
        successes.alone(decode(block), block)
    return successes.shape


def pairs(first: int, bodies: list[bytes], block: bytes = JSON) -> bytes:
    """Answers on streams from `first` on."""
    streams = range(first, first + 2 * len(bodies), 2)
    return b"".join(wire.begun(s, block) + wire.body(s, body) for s, body in zip(streams, bodies, strict=True))


class TestRuns:
    def test_answers_with_bodies_of_one_size_come_as_a_run(self) -> None:
        protocol = busy(8)
        protocol.receive_data(pairs(1, [b"%02d" % number for number in range(3)]))
        protocol.receive_data(pairs(7, [b"%02d" % number for number in range(3, 8)]))
        results = protocol.take_results()
        runs = [answer for answer in results.answers if isinstance(answer, Run)]
        assert [run.tags for run in runs] == [[3, 4, 5, 6], [7]]
        assert runs[0].alike.bodies == (b"03", b"04", b"05", b"06")
        headers = ((b":status", b"200"), (b"t", b"json"))
        assert results.answered == [Answer(tag, 200, headers, b"%02d" % tag) for tag in range(8)]
        assert results.settled == 8

    def test_answers_that_differ_in_a_value_come_as_a_run(self) -> None:
        protocol = busy(6)
        protocol.receive_data(b"".join(wire.bare(2 * n + 1, located(b"/m/%d" % n)) for n in range(6)))
        results = protocol.take_results()
        (run,) = [answer for answer in results.answers if isinstance(answer, Run)]
        assert (run.tags, run.alike.status, run.alike.place) == ([2, 3, 4, 5], 201, 1)
        assert run.alike.values == (b"/m/2", b"/m/3", b"/m/4", b"/m/5")
        assert [answer.headers[1] for answer in results.answered] == [(b"location", b"/m/%d" % n) for n in range(6)]
        assert run.headers == results.answered[2].headers

    def test_another_answer_ends_a_run_and_the_next_one_begins_another(self) -> None:
        protocol = busy(14)
        sizes = [2, 2, 2, 2, 3, 2, 2, 2, 2]
        protocol.receive_data(pairs(1, [b"x" * size for size in sizes]) + wire.bare(19, wire.NOT_FOUND))
        protocol.receive_data(pairs(21, [b"xx"] * 4))
        results = protocol.take_results()
        assert [len(answer.body) for answer in results.answered] == [*sizes, 0, 2, 2, 2, 2]
        assert [answer.tag for answer in results.answered] == list(range(14))
        assert sum(isinstance(answer, Run) for answer in results.answers) == 3

    def test_a_refusal_between_them_is_none_of_them(self) -> None:
        """Its header block is as long as theirs, and the answers behind it lie where they would without it."""
        protocol = busy(20)
        protocol.receive_data(pairs(1, [b"ok"] * 4))
        stride = len(pairs(1, [b"ok"]))
        refusal = pairs(19, [b"x" * (stride + 2)], block=JSON.replace(wire.OK, wire.NOT_FOUND))
        protocol.receive_data(pairs(9, [b"ok"] * 5) + refusal + pairs(21, [b"ok"] * 10))
        answers = protocol.take_results().answered
        assert [(answer.tag, answer.status) for answer in answers] == [
            (tag, 404 if tag == 9 else 200) for tag in range(20)
        ]

    def test_a_stream_that_is_closed_ends_a_run_and_nothing_is_told_of_it(self) -> None:
        protocol = busy(8)
        protocol.receive_data(pairs(1, [b"aa"] * 3))
        protocol.take_results()
        protocol.receive_data(wire.reset(11, 8))
        assert [tag for tag, _ in protocol.take_results().unknown] == [5]
        protocol.receive_data(pairs(7, [b"aa"] * 5))
        assert [answer.tag for answer in protocol.take_results().answered] == [3, 4, 6, 7]

    def test_successes_of_which_only_the_status_matters_are_accepted(self) -> None:
        """As of APNs, which names an id in each of them."""
        protocol = busy(6)
        protocol.receive_data(b"".join(wire.bare(2 * n + 1, located(b"/m/%d" % n, status=wire.OK)) for n in range(6)))
        shape = protocol._answers.successes.shape
        assert shape is not None
        assert shape.accepted
        results = protocol.take_results()
        assert (results.accepted, results.answers) == ([0, 1, 2, 3, 4, 5], [])

    def test_a_body_of_another_stream_is_not_taken_for_this_ones(self) -> None:
        protocol = busy(5)
        protocol.receive_data(pairs(1, [b"aa"] * 2))
        protocol.receive_data(wire.begun(5, JSON) + wire.begun(7, JSON) + wire.body(7, b"77") + wire.body(5, b"55"))
        protocol.receive_data(wire.begun(9, JSON) + wire.body(9, b"99"))
        told = {answer.tag: answer.body for answer in protocol.take_results().answered}
        assert told == {0: b"aa", 1: b"aa", 2: b"55", 3: b"77", 4: b"99"}

    def test_what_was_received_is_given_back_to_the_window(self) -> None:
        protocol = busy(40)
        protocol.receive_data(pairs(1, [b"%016d" % number for number in range(40)]))
        assert protocol._inflow.received == 40 * 16

    def test_of_answers_that_are_not_alike_few_are_tried(self) -> None:
        """Where every other one is different, the work must not grow with what was read."""
        shape = Shape(decode(JSON), JSON, b"", b"", -1, b"xx")
        shape._most = 1024
        odd = pairs(1, [b"xx"]) + pairs(3, [b"yyy"]) + pairs(5, [b"xx"] * 100)
        found = shape.find(odd, 0)
        assert found is not None
        assert len(found.stream_ids) == 1
        assert shape._most == LEAST_TRIED


class TestLearning:
    def test_the_value_may_stand_anywhere_behind_the_status(self) -> None:
        for behind in (b"", b"\x00\x01z\x01z", b"\x88"):
            shape = learned(located(b"aaXa", behind=behind), located(b"aaYa", behind=behind))
            assert shape is not None
            assert shape.place == 1

    def test_blocks_that_differ_in_more_than_a_value_have_no_shape(self) -> None:
        first = located(b"/m/1")
        others = [
            located(b"/m/12"),
            located(b"/m/2", status=b"\x08\x03202"),
            located(b"/m/2", behind=b"\x00\x01z\x01y"),
            located(b"/m/2", behind=b"\x00\x01y\x01z"),
            first.replace(b"\x0f\x1f", b"\x0f\x1e"),  # another name
            located(b"/m/2").replace(b"\x0f\x1f", b"\x1f\x1f"),  # never indexed
            first,
        ]
        for other in others:
            assert learned(first, other) is None

    def test_a_block_that_only_the_library_reads_has_no_shape(self) -> None:
        huffman = [CREATED + b"\x0f\x1f\x83" + code for code in (b"\x60\xd4\x1f", b"\x60\xd4\x5f")]
        assert decode(huffman[0]) != decode(huffman[1])
        assert learned(*huffman) is None

    def test_answers_that_never_have_a_shape_are_compared_some_times_only(self) -> None:
        """As those of a service that says two things of each request."""
        odd = [located(b"/m/%02d" % n, behind=b"\x00\x01z\x02%02d" % n) for n in range(HOPELESS + 1)]
        plain = [located(b"/m/%02d" % n) for n in range(2)]
        assert learned(*odd[:-1], *plain) is not None
        assert learned(*odd, *plain) is None

    def test_a_shape_outlives_an_answer_that_is_different(self) -> None:
        shape = learned(located(b"/m/1"), located(b"/m/2"), CREATED)
        assert shape is not None
        assert shape.find(wire.bare(1, located(b"/m/3")), 0) is not None


FIELDS = st.lists(
    st.one_of(
        st.sampled_from([b"\x88", b"\x8d", b"\x0f\x1f\x00", b"\x40\x01n\x02vv"]),
        st.builds(lambda name, value: b"\x00\x01" + name + bytes((len(value),)) + value, st.sampled_from([b"a", b"b"]),
                  st.binary(min_size=0, max_size=4)),
    ),
    max_size=4,
)  # fmt: skip


@given(parts=FIELDS, place=st.integers(0, 4), value=st.binary(min_size=1, max_size=6), other=st.data(), flips=st.data())
def test_what_a_shape_says_is_what_the_block_says(
    parts: list[bytes], place: int, value: bytes, other: st.DataObject, flips: st.DataObject
) -> None:
    """Of any block that fits, were it garbage: the fields are those that decoding it gives."""

    def block(value: bytes) -> bytes:
        own = b"\x00\x01v" + bytes((len(value),)) + value
        return CREATED + b"".join([*parts[:place], own, *parts[place:]])

    second = other.draw(st.binary(min_size=len(value), max_size=len(value)))
    if decode(block(value)).status is None:
        return
    shape = learned(block(value), block(second))
    if shape is None:
        assert value == second
        return
    garbled = bytearray(block(value))
    for position in flips.draw(st.lists(st.integers(0, len(garbled) - 1), max_size=3)):
        garbled[position] = flips.draw(st.integers(0, 255))
    found = shape.find(wire.bare(1, bytes(garbled)), 0)
    try:
        decoded = decode(bytes(garbled))
    except HeaderError:
        assert found is None
        return
    if found is not None:
        told = list(shape.headers)
        told[shape.place] = (told[shape.place][0], found.values[0])
        assert decoded == Decoded(shape.status, tuple(told))
