"""Header compression against `hpack` as the peer, RFC 7541's own examples, and hostile blocks."""

from __future__ import annotations

import hpack
import pytest
from hpack.hpack import encode_integer
from hypothesis import event, given
from hypothesis import strategies as st

from gateway.http2.answers import MAX_FIELDS, MAX_HEADER_BLOCK
from gateway.http2.hpack import AnswerDecoder, Cut, Decoded, HeadEncoder, HeaderError, integer, literal, succeeds
from providers.base import Head, Headers

PSEUDO = ((b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"api.push.apple.com"))


def expected(head: Head, values: tuple[bytes, ...]) -> list[tuple[bytes, bytes]]:
    """The fields in the order that RFC 9113 section 8.3 and `Head` ask for."""
    varying = list(zip(head.varying, values, strict=True))
    pseudo = [field for field in (*head.fixed, *varying) if field[0].startswith(b":")]
    return pseudo + [field for field in (*head.fixed, *head.literal, *varying) if not field[0].startswith(b":")]


class Peer:
    """A server's decoder that follows the encoder's blocks, and its table."""

    def __init__(self) -> None:
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)

    def allow(self, table_size: int) -> None:
        self.decoder.max_allowed_table_size = table_size

    def read(self, block: bytes) -> list[tuple[bytes, bytes]]:
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(block, raw=True)]

    @property
    def entries(self) -> list[tuple[bytes, bytes]]:
        return [(bytes(name), bytes(value)) for name, value in self.decoder.header_table.dynamic_entries]


class Requests:
    """Blocks as the protocol makes them: cut where that is possible, by a cut as old as its generation allows."""

    def __init__(self) -> None:
        self.encoder = HeadEncoder()
        self._cuts: dict[Head, Cut] = {}

    def block(self, head: Head, values: tuple[bytes, ...]) -> bytes:
        cut = self._cuts.get(head)
        if cut is None or cut.generation != self.encoder.generation:
            cut = self.encoder.cut(head)
        if cut is None:
            return self.encoder.block(head, values)
        self._cuts[head] = cut
        parts = (literal(value) + segment for value, segment in zip(values, cut.segments[1:], strict=True))
        return cut.segments[0] + b"".join(parts)


# Primitives


@given(st.integers(0, 2**35), st.integers(1, 7))
def test_integers_are_encoded_as_the_peer_encodes_them(value: int, prefix_bits: int) -> None:
    """RFC 7541 section 5.1."""
    pattern = 0xFF << prefix_bits & 0xFF
    theirs = encode_integer(value, prefix_bits)
    theirs[0] |= pattern
    assert integer(value, prefix_bits, pattern) == bytes(theirs)


def test_the_examples_of_integers() -> None:
    """RFC 7541 appendix C.1."""
    assert (integer(10, 5, 0), integer(1337, 5, 0), integer(42, 7, 0)) == (b"\x0a", b"\x1f\x9a\x0a", b"\x2a")


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 8191, 8192, 20_000])
def test_a_literal_of_any_size_is_read_back(size: int) -> None:
    """RFC 7541 section 5.2, on both sides of the table of lengths."""
    value = b"v" * size
    assert Peer().read(b"\x00\x01n" + literal(value)) == [(b"n", value)]


# Requests


def test_the_examples_of_requests() -> None:
    """RFC 7541 appendix C.3: three requests on one connection, the table being used and filled."""
    encoder = HeadEncoder()
    start = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"))
    secure = ((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), start[3])
    blocks = [
        encoder.block(Head(fixed, (), ()), ())
        for fixed in (start, (*start, (b"cache-control", b"no-cache")), (*secure, (b"custom-key", b"custom-value")))
    ]
    assert blocks == [
        bytes.fromhex("828684410f7777772e6578616d706c652e636f6d"),
        bytes.fromhex("828684be58086e6f2d6361636865"),
        bytes.fromhex("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565"),
    ]


NAMES = st.sampled_from([b"apns-topic", b"authorization", b"ttl", b"content-type", b"x", b"urgency"])
SIZES = st.one_of(st.integers(0, 60), st.sampled_from([126, 127, 128, 500, 1500, 2100, 4064, 5000]))
FIELDS = st.builds(
    lambda name, size, letter: (name, letter * size), NAMES, SIZES, st.sampled_from([b"a", b"b", b"\xff"])
)
HEADS = st.builds(
    lambda authority, fixed, literals, varying: Head(
        (*PSEUDO[:2], (b":authority", authority), *fixed), tuple(literals), varying
    ),
    st.sampled_from([b"api.push.apple.com", b"fcm.googleapis.com", b"h" * 3000]),
    st.lists(FIELDS, max_size=5),
    st.lists(FIELDS, max_size=2),
    st.sampled_from([(), (b":path",), (b":path", b"apns-id"), (b"apns-id", b"topic"), (b":path", b"ttl", b"x")]),
)
LIMITS = st.one_of(st.sampled_from([0, 1, 33, 64, 4095, 4096, 4097, 65_536, 2**32 - 1]), st.integers(0, 5000))


@given(heads=st.lists(HEADS, min_size=1, max_size=4), data=st.data())
def test_the_peer_reads_every_request_whatever_happens_to_the_table(heads: list[Head], data: st.DataObject) -> None:
    """Heads in any order, fields that do not fit, limits that change between blocks: both tables stay the same."""
    requests, peer = Requests(), Peer()
    encoder = requests.encoder
    for _ in range(data.draw(st.integers(1, 25))):
        for limit in data.draw(st.lists(LIMITS, max_size=3) if data.draw(st.integers(0, 4)) == 0 else st.just([])):
            encoder.resize(limit)
            peer.allow(limit)
        head = data.draw(st.sampled_from(heads))
        values = tuple(b"v" * data.draw(SIZES) for _ in head.varying)
        assert peer.read(requests.block(head, values)) == expected(head, values)
        assert list(encoder._entries) == peer.entries
        assert peer.decoder.header_table._current_size == encoder._size <= encoder._capacity
    event(f"table of {min(len(peer.entries), 3)}+ entries")


@given(st.lists(HEADS, min_size=1, max_size=6), LIMITS)
def test_a_head_is_cut_after_a_few_blocks(heads: list[Head], limit: int) -> None:
    """However full the table is of others, a head's fields do not go on evicting each other."""
    encoder = HeadEncoder()
    encoder.resize(limit)
    for head in heads:
        values = (b"",) * len(head.varying)
        blocks = 0
        while encoder.cut(head) is None:
            encoder.block(head, values)
            blocks += 1
        assert blocks <= 3


def test_a_fixed_field_costs_one_byte_from_the_second_request_on() -> None:
    head = Head((*PSEUDO, (b"authorization", b"bearer " + b"x" * 200)), (), (b":path",))
    encoder = HeadEncoder()
    assert encoder.cut(head) is None
    encoder.block(head, (b"/3/device/0",))
    cut = encoder.cut(head)
    assert cut is not None
    assert sum(map(len, cut.segments)) == 5


def test_what_varies_never_enters_the_table() -> None:
    """RFC 7541 section 6.2.2: literals without indexing leave the table alone."""
    head = Head(PSEUDO, ((b"apns-expiration", b"1700000000"),), (b":path", b"apns-id"))
    requests, peer = Requests(), Peer()
    for number in range(50):
        peer.read(requests.block(head, (b"/%d" % number, b"id-%d" % number)))
    assert peer.entries == [PSEUDO[2]]


def test_a_field_above_the_table_stays_a_literal() -> None:
    """RFC 7541 section 4.4: inserting it would empty the table."""
    big = (b"authorization", b"x" * 4096)
    head = Head((*PSEUDO, big), (), ())
    requests, peer = Requests(), Peer()
    for _ in range(3):
        assert peer.read(requests.block(head, ())) == [*PSEUDO, big]
    assert peer.entries == [PSEUDO[2]]


@pytest.mark.parametrize(
    ("limits", "announced"),
    [
        ([4096], []),
        ([8192, 65_536], []),  # more than we ever use changes nothing
        ([0], [0]),
        ([2048, 1024], [1024]),
        ([0, 4096], [0, 4096]),
        ([1024, 2048], [1024, 2048]),
        ([2048, 1024, 3000, 100, 2000], [100, 2000]),
        ([100, 9000], [100, 4096]),
    ],
)
def test_the_smallest_and_the_last_of_several_limits_are_announced(limits: list[int], announced: list[int]) -> None:
    """RFC 7541 section 4.2, and nothing of it in the block after."""
    head = Head(PSEUDO[:2], (), ())
    encoder = HeadEncoder()
    for limit in limits:
        encoder.resize(limit)
    assert encoder.block(head, ()) == b"".join(integer(size, 5, 0x20) for size in announced) + b"\x83\x87"
    assert encoder.block(head, ()) == b"\x83\x87"


def test_a_pending_limit_keeps_a_head_from_being_cut() -> None:
    """Its announcement has to start a block, even one whose fields need no table."""
    encoder = HeadEncoder()
    encoder.resize(0)
    assert encoder.cut(Head(PSEUDO[:2], (), ())) is None


def test_columns_in_an_order_that_would_mix_them_up_are_refused() -> None:
    """Pseudo-header fields go first on the wire, so they have to be named first."""
    with pytest.raises(ValueError, match="pseudo-header"):
        HeadEncoder().block(Head(PSEUDO, (), (b"apns-id", b":path")), (b"1", b"/"))


# Answers


def reader() -> AnswerDecoder:
    return AnswerDecoder(MAX_HEADER_BLOCK, MAX_FIELDS)


ANSWER_FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"apns-id", b"date", b"content-type", b"retry-after", b"location", b"x-any"]),
        st.binary(max_size=80),
    ),
    max_size=8,
)


@given(st.lists(st.tuples(st.integers(100, 999), ANSWER_FIELDS, st.booleans()), min_size=1, max_size=6))
def test_what_the_peer_encodes_is_read_back(answers: list[tuple[int, list[tuple[bytes, bytes]], bool]]) -> None:
    """Blocks of one connection, with and without Huffman coding, the peer's table being zero as we ask."""
    encoder, decoder = hpack.Encoder(), reader()
    encoder.header_table_size = 0
    for status, fields, huffman in answers:
        whole = ((b":status", b"%d" % status), *fields)
        block = encoder.encode(whole, huffman=huffman)
        assert decoder.decode(block) == decoder.decode(block) == Decoded(status, whole)


def test_the_first_example_of_answers() -> None:
    """RFC 7541 appendix C.6.1: Huffman coded literals, to be indexed, which a table of nothing forgets at once."""
    block = bytes.fromhex(
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
    )
    assert reader().decode(block).status == 302
    assert reader().decode(block).fields[1:] == (
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (b"location", b"https://www.example.com"),
    )


def test_the_second_example_of_answers_needs_a_table() -> None:
    """RFC 7541 appendix C.6.2 points into the table: after our SETTINGS that is a decoding error."""
    decoder = reader()
    with pytest.raises(HeaderError):
        decoder.decode(bytes.fromhex("4883640effc1c0bf"))


HOSTILE_BLOCKS = {
    "index zero": b"\x80",
    "the first dynamic index": b"\xbe",
    "an index far away": b"\xff\xff\xff\x7f",
    "an integer without end": b"\xff" + b"\xff" * 5000,
    "an integer of zeros": b"\xff" + b"\x80" * 20 + b"\x00",
    "a truncated integer": b"\xff\xff",
    "a literal without a value": b"\x08",
    "a literal whose value is cut off": b"\x08\x0320",
    "a literal whose length promises gigabytes": b"\x00\x7f\xff\xff\xff\x07x",
    "a dynamic name": b"\x0f\x2f\x01x",
    "a table size that we did not allow": b"\x3f\xe1\x1f\x88",
    "a table size after a field": b"\x88\x20",
    "Huffman padding of more than seven bits": b"\x08\x82\xff\xff",
    "Huffman padding of zeros": b"\x08\x81\x00",
    "Huffman code of the end of string": b"\x08\x84\xff\xff\xff\xff",
    "a list of 400 fields in 400 bytes": b"\x88" * 400,
    "65 fields of one byte": b"\x88" + b"\x8f" * 64,
    "65 fields": b"\x88" + b"\x00\x01n\x01v" * 64,
    "a list of large fields": b"\x00\x01n" + literal(b"v" * MAX_HEADER_BLOCK),
}


@pytest.mark.parametrize("block", HOSTILE_BLOCKS.values(), ids=HOSTILE_BLOCKS)
def test_a_hostile_block_is_an_error_each_time(block: bytes) -> None:
    """RFC 7541 sections 2.3.3, 4.2, 5.1, 5.2 and 6.3; RFC 9113 section 10.5.1 for the lists."""
    decoder = reader()
    for _ in range(2):
        with pytest.raises(HeaderError):
            decoder.decode(block)
    assert decoder.decode(b"\x88").status == 200


NAMES = [b":status", b":Status", b"apns-id", b"Apns-Id", b"date", b"server", b"x" * 126, b"x" * 127]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=40)), max_size=4),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=2),
)
def test_what_is_skimmed_for_a_success_decodes_to_one(
    fields: list[tuple[bytes, bytes]], huffman: bool, flips: list[tuple[int, int]]
) -> None:
    """Of any block, were it garbage. Values are not looked at, so one that is no Huffman code may go unnoticed."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = bytearray(encoder.encode([(b":status", b"200"), *fields], huffman=huffman).lstrip(b"\x20"))
    for place, byte in flips:
        block[place % len(block)] = byte
    if not succeeds(bytes(block)):
        return
    try:
        decoded = reader().decode(bytes(block))
    except HeaderError:
        assert huffman
        assert flips
    else:
        assert decoded.status == 200


@pytest.mark.parametrize("huffman", [False, True])
def test_a_success_with_an_id_is_skimmed(huffman: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode([(b":status", b"200"), (b"apns-id", b"EC1BF194"), (b"date", b"now")], huffman=huffman)
    assert succeeds(block.lstrip(b"\x20"))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_block_or_a_header_error(block: bytes) -> None:
    """And the same one again after anything else, because nothing of a block is kept for the next."""
    decoder = reader()

    def read() -> Decoded | None:
        try:
            return decoder.decode(block)
        except HeaderError:
            return None

    first = read()
    decoder.decode(b"\x20\x88")
    assert read() == first


def test_a_table_size_of_zero_may_be_announced() -> None:
    """RFC 7541 section 4.2: the block after a reduction begins with it, so the first answer looks like this."""
    assert reader().decode(b"\x20\x88") == Decoded(200, ((b":status", b"200"),))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (((b":status", b"200"),), 200),
        (((b":status", b"999"), (b"x", b"y")), 999),
        ((), None),
        (((b"x", b"y"),), None),
        (((b"x", b"y"), (b":status", b"200")), None),
        (((b":status", b"200"), (b":status", b"200")), None),
        (((b":status", b"200"), (b":path", b"/")), None),
        (((b":status", b"200"), (b"Content-Type", b"x")), None),
        (((b":status", b""),), None),
        (((b":status", b"099"),), None),
        (((b":status", b"20"),), None),
        (((b":status", b"2000"),), None),
        (((b":status", b"+20"),), None),
        (((b":status", "²00".encode()),), None),
        (((b":path", b"200"),), None),
    ],
)
def test_only_well_formed_answers_have_a_status(fields: Headers, status: int | None) -> None:
    """RFC 9113 sections 8.2.1 and 8.3.2: one `:status` of three digits, first, and names in lower case."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    assert reader().decode(encoder.encode(fields)) == Decoded(status, fields)


def test_only_so_many_blocks_are_remembered() -> None:
    """A peer that varies its answers must not fill our memory."""
    decoder = reader()
    for value in range(1000):
        decoder.decode(b"\x88\x00\x01n" + literal(b"%d" % value))
        assert len(decoder._known) <= AnswerDecoder._REMEMBERED


FIELD = st.tuples(
    st.sampled_from([b":status", b"content-type", b"location", b"date", b"x-name", b"www-authenticate", b"apns-id"]),
    st.one_of(st.sampled_from([b"200", b"404", b"", b"a" * 126, b"a" * 127]), st.binary(max_size=40)),
)


@given(st.lists(FIELD, min_size=1, max_size=40), st.booleans(), st.integers(0, 200), st.binary(max_size=3))
def test_plain_blocks_say_what_the_library_says(
    fields: list[tuple[bytes, bytes]], huffman: bool, cut: int, tail: bytes
) -> None:
    """The short way through plain blocks is the library's way, also for blocks that are cut off or have a tail."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    whole = encoder.encode(fields, huffman=huffman).lstrip(b"\x20")
    block = whole[: len(whole) - cut] + tail
    library = hpack.Decoder(max_header_list_size=16384)
    library.max_allowed_table_size = library.header_table_size = 0
    try:
        expected = tuple((bytes(name), bytes(value)) for name, value in library.decode(block, raw=True))
    except (hpack.HPACKError, IndexError):
        with pytest.raises(HeaderError):
            AnswerDecoder(16384, MAX_FIELDS).decode(block)
    else:
        assert AnswerDecoder(16384, MAX_FIELDS).decode(block).fields == expected
