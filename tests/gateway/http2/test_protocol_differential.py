"""Any valid traffic with `h2` as the server: what the server saw was sent, and each request is told the truth, once."""

from __future__ import annotations

from dataclasses import dataclass

import h2.errors
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.http2.frames import error_name
from gateway.http2.protocol import MAX_BODY, MAX_INFORMATIONAL, MAX_STREAMS, ClientProtocol, Phase, Results
from providers.base import Head
from tests.gateway.http2 import wire
from tests.gateway.http2.server import Fields, Server, reframed
from tests.gateway.http2.test_hpack import expected

BASE = ((b":method", b"POST"), (b":scheme", b"https"))


def head(authority: bytes, *fixed: tuple[bytes, bytes], varying: tuple[bytes, ...]) -> Head:
    return Head((*BASE, (b":authority", authority), *fixed), ((b"apns-expiration", b"1700000000"),), varying)


HEADS = (
    head(b"a.example", (b"apns-topic", b"shop"), (b"apns-priority", b"10"), varying=(b":path", b"apns-id")),
    head(b"a.example", (b"authorization", b"bearer " + b"t" * 600), varying=(b":path", b"apns-id", b"apns-topic")),
    head(b"b.example", (b"authorization", b"vapid " + b"v" * 3300), (b"ttl", b"60"), varying=(b":path", b"topic")),
    head(b"b.example", (b"authorization", b"o" * 4200), (b"urgency", b"high"), varying=(b":path",)),
    head(b"c.example", (b":path", b"/v1/send"), (b"content-type", b"application/json"), varying=()),
)
"""They do not fit into one table together, and one has a field that fits into none."""

SIZES = st.one_of(
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([1000, 4096, 16_383, 16_384, 16_385, 32_769, 65_535, 65_536, 70_000]),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "HEADER_TABLE_SIZE": st.sampled_from([0, 1, 60, 100, 1000, 3000, 4095, 4096, 8192, 65_536]),
        "MAX_CONCURRENT_STREAMS": st.sampled_from([1000, 100_000, 30, 5, 1, 0]),
        "INITIAL_WINDOW_SIZE": st.sampled_from([65_536, 1 << 20, 16_384, 4096, 300, 1, 0]),
        "MAX_FRAME_SIZE": st.sampled_from([16_384, 16_385, 65_536, (1 << 24) - 1]),
    },
)
ANSWER_FIELDS = st.lists(
    st.sampled_from(
        [(b"apns-id", b"1"), (b"content-type", b"application/json"), (b"date", b"now"), (b"n", b"v" * 150)]
    ),
    max_size=3,
)
CODES = st.sampled_from([*h2.errors.ErrorCodes])
SHAPES = st.builds(dict, pieces=st.integers(1, 4), padding=st.sampled_from([0, 0, 1, 200]), priority=st.booleans())
PLAIN = {"pieces": 1, "padding": 0, "priority": False}
PORTIONS = st.sampled_from([1 << 30, 1 << 30, 1 << 30, 40_000, 1000, 100, 25, 10, 3, 0])
INCREMENTS = st.sampled_from([1 << 20, 65_535, 5000, 100, 1])


@dataclass
class Story:
    """What the client has been told about an open stream."""

    tag: int
    begun: bool = False
    status: int = 0
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    received: int = 0


class Model:
    """What an attentive client makes of the frames it has read: plain, slow, and written apart from the protocol."""

    def __init__(self) -> None:
        self.open: dict[int, Story] = {}
        self.told: dict[int, object] = {}
        """By tag: (status, fields, body), "unsent", or why it is unknown."""

    def end(self, stream_id: int, what: object) -> None:
        story = self.open.pop(stream_id)
        assert story.tag not in self.told
        self.told[story.tag] = (story.status, story.fields, story.body) if story.status else what

    def informational(self, stream_id: int) -> None:
        if stream_id in self.open:
            self.open[stream_id].begun = True

    def status(self, stream_id: int, fields: Fields, ends: bool) -> None:
        story = self.open.get(stream_id)
        if story is not None:
            story.begun, story.status, story.fields = True, int(fields[0][1]), tuple(fields)
            if ends:
                self.end(stream_id, None)

    def data(self, stream_id: int, body: bytes, used: int, ends: bool) -> None:
        story = self.open.get(stream_id)
        if story is not None:
            story.body += body
            story.received += used
            if ends or story.received >= MAX_BODY:
                self.end(stream_id, None)

    def trailers(self, stream_id: int) -> None:
        if stream_id in self.open:
            self.end(stream_id, None)

    def reset(self, stream_id: int, code: int) -> None:
        story = self.open.get(stream_id)
        if story is not None:
            refused = code == h2.errors.ErrorCodes.REFUSED_STREAM and not story.begun
            self.end(stream_id, "unsent" if refused else f"reset {error_name(code)}")

    def goaway(self, last: int, code: int) -> None:
        for stream_id in [stream_id for stream_id in self.open if stream_id > last]:
            self.end(stream_id, f"GOAWAY {error_name(code)}" if self.open[stream_id].begun else "unsent")

    def expire(self, mark: int) -> int:
        overdue = [stream_id for stream_id in self.open if stream_id < mark]
        for stream_id in overdue:
            self.end(stream_id, "timeout")
        return len(overdue)

    def lost(self) -> None:
        for stream_id in list(self.open):
            self.end(stream_id, "connection lost")


class Traffic(RuleBasedStateMachine):
    """Client and server, the bytes under way between them, and the model of what the client knows."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientProtocol()
        self.model = Model()
        self.sent: dict[int, tuple[Fields, bytes]] = {}
        self.tags = 0
        self.told: dict[int, object] = {}
        self.marks = [1]
        self.to_server = b""
        self.last_stream: int | None = None

    @initialize(values=SETTINGS, warm=st.sampled_from([True, True, True, False]))
    def start(self, values: dict[str, int], warm: bool) -> None:
        self.server = Server(**values)
        if warm:
            self.client.trust()
            self.carry(1 << 30)

    # The client

    @precondition(lambda self: self.client.room())
    @rule(which=st.sampled_from(HEADS), sizes=st.lists(SIZES, min_size=1, max_size=12), same=st.booleans(), on=PORTIONS)
    def send(self, which: Head, sizes: list[int], same: bool, on: int) -> None:
        tags = list(range(self.tags, self.tags + len(sizes)))
        self.tags += len(sizes)
        fields = tuple([b"/%s" % name + b"x" * (8 if same else tag % 300) for tag in tags] for name in which.varying)
        bodies = [b"%d|" % tag + b"b" * size for tag, size in zip(tags, sizes, strict=True)]
        mark, room = self.client.stream_mark, self.client.room()
        count = self.client.send(which, fields, bodies, tags)
        assert min(1, room) <= count <= room
        for position in range(count):
            stream_id = mark + 2 * position
            values = tuple(column[position] for column in fields)
            self.sent[stream_id] = expected(which, values), bodies[position]
            self.model.open[stream_id] = Story(tags[position])
        for tag in tags[count:]:
            self.told[tag] = self.model.told[tag] = "never taken"
        self.marks.append(self.client.stream_mark)
        self.carry_requests(on)

    @precondition(lambda self: self.tags > 20)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        mark = data.draw(st.sampled_from(self.marks))
        assert self.client.expire(mark) == self.model.expire(mark)
        self.compare()

    # The way between them

    @rule(portion=PORTIONS)
    def carry(self, portion: int) -> None:
        self.carry_requests(portion)
        self.carry_answers(portion)

    def carry_requests(self, portion: int) -> None:
        self.to_server += self.client.data_to_send()
        data, self.to_server = self.to_server[:portion], self.to_server[portion:]
        self.server.receive(data)
        for stream_id, request in self.server.requests.items():
            fields, body = self.sent[stream_id]
            assert request.fields == fields
            assert request.body == body if request.whole else body.startswith(request.body)

    def carry_answers(self, portion: int) -> None:
        """One read of the client's, which may end within a frame."""
        data = b""
        effects = []
        while len(data) < portion and self.server.outgoing:
            frame, effect = self.server.outgoing.popleft()
            room = portion - len(data)
            data += frame[:room]
            if len(frame) > room:
                self.server.outgoing.appendleft((frame[room:], effect))
            elif effect is not None:
                effects.append(effect)
        self.client.receive_data(data)
        for effect in effects:
            effect()
        self.compare()

    # The server

    def answerable(self) -> list[int]:
        return [stream_id for stream_id, request in self.server.requests.items() if not request.ended]

    def unanswered(self) -> list[int]:
        return [stream_id for stream_id in self.answerable() if not self.server.requests[stream_id].status_sent]

    def say_status(self, stream_id: int, fields: Fields, ends: bool, shape: dict[str, int]) -> None:
        self.server.h2.send_headers(stream_id, fields, end_stream=ends)
        request = self.server.requests[stream_id]
        request.status_sent, request.ended = True, ends
        model = self.model
        self.server.say(lambda: model.status(stream_id, fields, ends), lambda data: reframed(data, **shape))

    @precondition(lambda self: self.unanswered())
    @rule(data=st.data(), part=st.integers(1, 12), on=PORTIONS)
    def answer_bare(self, data: st.DataObject, part: int, on: int) -> None:
        """Successes of one frame, in any order."""
        for stream_id in data.draw(st.permutations(self.unanswered()))[:part]:
            self.say_status(stream_id, [(b":status", b"200")], True, PLAIN)
        self.carry_answers(on)

    answer_more = answer_bare

    @precondition(lambda self: self.unanswered())
    @rule(
        data=st.data(),
        status=st.sampled_from([103, 200, 201, 400, 410]),
        fields=ANSWER_FIELDS,
        ends=st.booleans(),
        shape=SHAPES,
        on=PORTIONS,
    )
    def answer(
        self, data: st.DataObject, status: int, fields: Fields, ends: bool, shape: dict[str, int], on: int
    ) -> None:
        stream_id = data.draw(st.sampled_from(self.unanswered()))
        fields = [(b":status", b"%d" % status), *fields]
        if status >= 200:
            self.say_status(stream_id, fields, ends, shape)
        elif self.server.requests[stream_id].informed < MAX_INFORMATIONAL:
            self.say_informational(stream_id, fields, shape)
        self.carry_answers(on)

    def say_informational(self, stream_id: int, fields: Fields, shape: dict[str, int]) -> None:
        self.server.requests[stream_id].informed += 1
        self.server.h2.send_headers(stream_id, fields)
        model = self.model
        self.server.say(lambda: model.informational(stream_id), lambda data: reframed(data, **shape))

    def with_body(self) -> list[int]:
        return [stream_id for stream_id in self.answerable() if self.server.requests[stream_id].status_sent]

    @precondition(lambda self: self.with_body())
    @rule(
        data=st.data(),
        size=st.sampled_from([0, 1, 50, 200, 16_000]),
        times=st.integers(1, 5),
        padding=st.sampled_from([None, None, 0, 1, 255]),
        ends=st.booleans(),
        on=PORTIONS,
    )
    def answer_body(self, data: st.DataObject, size: int, times: int, padding: int | None, ends: bool, on: int) -> None:
        stream_id = data.draw(st.sampled_from(self.with_body()))
        for time in range(1, times + 1):
            self.say_body(stream_id, b"%d" % time + bytes(size), padding, ends and time == times)
        self.carry_answers(on)

    def say_body(self, stream_id: int, body: bytes, padding: int | None, ends: bool) -> None:
        used = len(body) + (0 if padding is None else padding + 1)
        if used <= self.server.h2.local_flow_control_window(stream_id):
            self.server.h2.send_data(stream_id, body, end_stream=ends, pad_length=padding)
            self.server.requests[stream_id].ended = ends
            model = self.model
            self.server.say(lambda: model.data(stream_id, body, used, ends))

    @precondition(lambda self: self.with_body())
    @rule(data=st.data(), shape=SHAPES, on=PORTIONS)
    def answer_trailers(self, data: st.DataObject, shape: dict[str, int], on: int) -> None:
        stream_id = data.draw(st.sampled_from(self.with_body()))
        self.server.h2.send_headers(stream_id, [(b"checksum", b"1")], end_stream=True)
        self.server.requests[stream_id].ended = True
        model = self.model
        self.server.say(lambda: model.trailers(stream_id), lambda data: reframed(data, **shape))
        self.carry_answers(on)

    @precondition(lambda self: self.server.requests)
    @rule(data=st.data(), code=CODES, on=PORTIONS)
    def reset(self, data: st.DataObject, code: h2.errors.ErrorCodes, on: int) -> None:
        """Of a stream under way, or behind a whole answer, which takes nothing back."""
        stream_id = data.draw(st.sampled_from(list(self.server.requests)))
        model = self.model
        if self.server.requests[stream_id].ended:
            self.server.say_raw(wire.reset(stream_id, code), lambda: model.reset(stream_id, code))
        else:
            self.server.requests[stream_id].ended = True
            self.server.h2.reset_stream(stream_id, code)
            self.server.say(lambda: model.reset(stream_id, code))
        self.carry_answers(on)

    @precondition(lambda self: self.server.requests and self.server.unsettled < 4)
    @rule(values=st.lists(SETTINGS, min_size=1, max_size=3), on=PORTIONS)
    def change_settings(self, values: list[dict[str, int]], on: int) -> None:
        """Not before the first acknowledgement: h2 would take it for these."""
        for each in values:
            self.server.announce(each)
        self.carry_answers(on)

    @precondition(lambda self: self.client.window < 60_000 or self.client.limited)
    @rule(increment=INCREMENTS, on=PORTIONS)
    def widen(self, increment: int, on: int) -> None:
        self.server.grant(increment)
        for stream_id in self.server.requests:
            self.server.grant(increment, stream_id)
        self.carry_answers(on)

    @rule(
        frame=st.sampled_from(
            [
                wire.raw(0xFA, 0xFF, 3, b"?"),
                wire.raw(wire.PRIORITY, 0, 77, bytes(5)),
                wire.raw(wire.PING, 0, 0, bytes(8)),
            ]
        ),
        pings=st.booleans(),
    )
    def say_something_else(self, frame: bytes, pings: bool) -> None:
        self.server.say_raw(frame)
        if pings:
            self.client.ping()
        self.client.trust()

    @precondition(lambda self: self.tags > 60)
    @rule(data=st.data(), code=CODES, on=PORTIONS)
    def goaway(self, data: st.DataObject, code: int, on: int) -> None:
        """Once or more often, about fewer streams each time (section 6.8)."""
        lasts = [2**31 - 1, 0, *self.server.requests]
        allowed = [last for last in lasts if self.last_stream is None or last <= self.last_stream]
        last = self.last_stream = data.draw(st.sampled_from(allowed))
        for stream_id, request in self.server.requests.items():
            request.ended |= stream_id > last  # what was not processed is not answered
        model = self.model
        self.server.say_raw(wire.goaway(last, code, b"debug"), lambda: model.goaway(last, code))
        self.carry_answers(on)

    # What is compared

    def compare(self) -> None:
        """Whatever the client has learnt is what the model has learnt, and nothing is told twice."""
        for tag, what in flattened(self.client.take_results()):
            assert tag not in self.told
            self.told[tag] = what
            assert agrees(what, self.model.told[tag])
        assert self.told.keys() == self.model.told.keys()

    @invariant()
    def within_limits(self) -> None:
        assert self.client.open_streams == len(self.model.open) <= MAX_STREAMS
        assert self.client.window >= 0
        assert self.client.phase is not Phase.CLOSED

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        self.deliver_everything()
        self.finish_bodies()
        self.client.receive_eof()
        self.model.lost()
        self.compare()
        assert sorted(self.told) == list(range(self.tags))

    def deliver_everything(self) -> None:
        for _ in range(4):
            self.carry_requests(1 << 30)
            self.carry_answers(1 << 30)

    def finish_bodies(self) -> None:
        """With windows wide enough the server gets every request of which it hears, unless one side reset it."""
        for _ in range(3):
            self.server.grant(1 << 20)
            for stream_id in self.server.requests:
                self.server.grant(1 << 20, stream_id)
            self.deliver_everything()
        for stream_id in self.model.open:
            assert self.server.requests[stream_id].whole


def flattened(results: Results) -> list[tuple[int, object]]:
    return [
        *((tag, "accepted") for tag in results.accepted),
        *((answer.tag, (answer.status, answer.headers, answer.body)) for answer in results.answered),
        *((tag, "unsent") for tag in results.unsent),
        *results.unknown,
    ]


def agrees(told: object, truth: object) -> bool:
    """`accepted` is short for status 200 without a body."""
    if told == "accepted":
        return isinstance(truth, tuple) and truth[0] == 200 and truth[2] == b""
    return told == truth


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
