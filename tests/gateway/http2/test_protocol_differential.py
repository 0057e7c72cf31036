"""Any valid traffic with `h2` as the server: what the server saw was sent, and each request is told the truth, once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http2.answers import MAX_BODY, MAX_INFORMATIONAL
from gateway.http2.frames import error_name
from gateway.http2.protocol import MAX_STREAMS, ClientProtocol, Phase
from gateway.http2.results import Results
from providers.base import Head
from tests.gateway.http2 import wire
from tests.gateway.http2.server import Fields, Request, Server, Shape, reframed
from tests.gateway.http2.test_hpack import expected
from tests.gateway.http2.wire import raw

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

SIZES = (1000, 4096, 16_383, 16_384, 16_385, 32_769, 65_535, 65_536, 70_000)
"""Of bodies: around the largest frame and the first window; most bodies are small."""
SETTINGS = {
    "HEADER_TABLE_SIZE": (4096, 65_536, 4095, 3000, 1000, 100, 60, 1, 0),
    "MAX_CONCURRENT_STREAMS": (1000, 100_000, 30, 5, 1, 0),
    "INITIAL_WINDOW_SIZE": (65_536, 1 << 20, 16_384, 4096, 300, 1, 0),
    "MAX_FRAME_SIZE": (16_384, 16_385, 65_536, (1 << 24) - 1),
}
INCREMENTS = (1 << 20, 1 << 20, 65_535, 5000, 100, 1)
PORTIONS = (1 << 30, 1 << 30, 1 << 30, 40_000, 1000, 100, 25, 10, 3, 0)
"""Bytes of a read. Small ones leave frames under way that overtake what happens at the other end."""
ANSWER_FIELDS = ((b"apns-id", b"1"), (b"content-type", b"text/plain"), (b"date", b"now"), (b"n", b"v" * 150))
OTHER_FRAMES = (raw(0xFA, 0xFF, 3, b"?"), raw(wire.PRIORITY, 0, 77, bytes(5)), raw(wire.PING, 0, 0, bytes(8)))


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
            refused = code == ErrorCodes.REFUSED_STREAM and not story.begun
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


class Traffic:
    """Client and server, the bytes under way between them, and the model of what the client knows."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.client = ClientProtocol()
        self.server = Server(**self.some_settings())
        self.model = Model()
        self.sent: dict[int, tuple[Fields, bytes]] = {}
        self.tags = 0
        self.told: dict[int, object] = {}
        self.marks = [1]
        self.to_server = b""
        self.last_stream = 2**31 - 1

    def run(self, steps: int) -> None:
        if self.rng.random() < 0.8:
            self.client.trust()
            self.carry_answers(1 << 30)
        while steps > 0:
            steps -= 1 if self.client.phase is Phase.OPEN else 10  # not much comes after GOAWAY
            (step,) = self.rng.choices([step for step, _ in STEPS], [weight for _, weight in STEPS])
            step(self)
            self.carry_requests(self.rng.choice(PORTIONS))
            self.carry_answers(self.rng.choice(PORTIONS))
            assert self.client.open_streams == len(self.model.open) <= MAX_STREAMS
            assert self.client.window >= 0
            streams = self.client._streams
            assert streams.incomplete.keys() | self.client._outflow.partials.keys() <= streams.open.keys()
        self.finish()

    def some_settings(self) -> dict[str, int]:
        return {name: self.rng.choice(values) for name, values in SETTINGS.items() if self.rng.random() < 0.4}

    # The client

    def send(self) -> None:
        if not self.client.room() and self.rng.random() < 0.95:
            return
        which = self.rng.choice(HEADS)
        tags = list(range(self.tags, self.tags + self.rng.randint(1, 15)))
        self.tags += len(tags)
        same = self.rng.random() < 0.5
        fields = tuple([b"/%s" % name + b"x" * (8 if same else tag % 300) for tag in tags] for name in which.varying)
        bodies = [self.some_body(tag) for tag in tags]
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

    def some_body(self, tag: int) -> bytes:
        size = self.rng.choice(SIZES) if self.rng.random() < 0.1 else self.rng.randint(1, 400)
        return (b"%d|" % tag).ljust(size, b"b")

    def expire(self) -> None:
        mark = self.rng.choice(self.marks[-6:])
        assert self.client.expire(mark) == self.model.expire(mark)
        self.compare()

    def trust(self) -> None:
        self.client.trust()
        self.client.ping()

    # The way between them

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

    def one_of(self, wanted: Callable[[Request], bool]) -> int | None:
        streams = [stream_id for stream_id, request in self.server.requests.items() if wanted(request)]
        return self.rng.choice(streams) if streams else None

    def answer_bare(self) -> None:
        """Successes of one frame, in any order."""
        streams = [stream_id for stream_id, request in self.server.requests.items() if request.unanswered]
        for stream_id in self.rng.sample(streams, min(len(streams), self.rng.randint(1, 12))):
            self.say_status(stream_id, [(b":status", b"200")], ends=True)

    def answer(self) -> None:
        stream_id = self.one_of(lambda request: request.unanswered)
        if stream_id is None:
            return
        status = self.rng.choice((103, 200, 201, 400, 410))
        fields = [(b":status", b"%d" % status), *self.rng.sample(ANSWER_FIELDS, self.rng.randint(0, 3))]
        if status >= 200:
            self.say_status(stream_id, fields, ends=self.rng.random() < 0.4, shape=self.some_shape())
        elif self.server.requests[stream_id].informed < MAX_INFORMATIONAL:
            self.server.requests[stream_id].informed += 1
            self.server.h2.send_headers(stream_id, fields)
            self.server.say(lambda: self.model.informational(stream_id), self.some_shape())

    def say_status(self, stream_id: int, fields: Fields, *, ends: bool, shape: Shape = bytes) -> None:
        self.server.h2.send_headers(stream_id, fields, end_stream=ends)
        request = self.server.requests[stream_id]
        request.status_sent, request.ended = True, ends
        self.server.say(lambda: self.model.status(stream_id, fields, ends), shape)

    def some_shape(self) -> Shape:
        pieces, padding = self.rng.randint(1, 4), self.rng.choice((0, 0, 1, 200))
        return partial(reframed, pieces=pieces, padding=padding, priority=self.rng.random() < 0.5)

    def answer_body(self) -> None:
        stream_id = self.one_of(lambda request: request.status_sent and not request.ended)
        if stream_id is None:
            return
        size, padding = self.rng.choice((0, 1, 50, 200, 16_000)), self.rng.choice((None, None, 0, 1, 255))
        ends = self.rng.random() < 0.5
        times = self.rng.randint(1, 5)
        for time in range(1, times + 1):
            self.say_body(stream_id, bytes(size), padding, ends and time == times)

    def say_body(self, stream_id: int, body: bytes, padding: int | None, ends: bool) -> None:
        used = len(body) + (0 if padding is None else padding + 1)
        if used <= self.server.h2.local_flow_control_window(stream_id):
            self.server.h2.send_data(stream_id, body, end_stream=ends, pad_length=padding)
            self.server.requests[stream_id].ended = ends
            self.server.say(lambda: self.model.data(stream_id, body, used, ends))

    def answer_trailers(self) -> None:
        stream_id = self.one_of(lambda request: request.status_sent and not request.ended)
        if stream_id is not None:
            self.server.h2.send_headers(stream_id, [(b"checksum", b"1")], end_stream=True)
            self.server.requests[stream_id].ended = True
            self.server.say(lambda: self.model.trailers(stream_id), self.some_shape())

    def reset(self) -> None:
        """A stream under way, or one whose answer is whole: that takes nothing back."""
        stream_id = self.one_of(lambda request: True)
        if stream_id is None:
            return
        code = self.rng.choice((*ErrorCodes, ErrorCodes.REFUSED_STREAM, ErrorCodes.REFUSED_STREAM))
        effect = partial(self.model.reset, stream_id, code)
        if self.server.requests[stream_id].ended:
            self.server.say_raw(wire.reset(stream_id, code), effect)
        else:
            self.server.requests[stream_id].ended = True
            self.server.h2.reset_stream(stream_id, code)
            self.server.say(effect)

    def change_settings(self) -> None:
        """Up to three times in a row, so that a block has to announce several table sizes."""
        for _ in range(self.rng.randint(1, 3)):
            self.server.announce(self.some_settings())

    def widen(self) -> None:
        self.server.grant(self.rng.choice(INCREMENTS))
        for stream_id in self.server.requests:
            self.server.grant(self.rng.choice(INCREMENTS), stream_id)

    def say_something_else(self) -> None:
        self.server.say_raw(self.rng.choice(OTHER_FRAMES))

    def goaway(self) -> None:
        """Once or more often, about fewer streams each time (section 6.8)."""
        lasts = [last for last in (2**31 - 1, *self.server.requests) if last <= self.last_stream]
        last = self.last_stream = self.rng.choice(lasts or [0])
        code = self.rng.choice((*ErrorCodes,))
        for stream_id, request in self.server.requests.items():
            request.ended |= stream_id > last  # what was not processed is not answered
        self.server.say_raw(wire.goaway(last, code, b"debug"), lambda: self.model.goaway(last, code))

    # What is compared

    def compare(self) -> None:
        """Whatever the client has learnt is what the model has learnt, and nothing is told twice."""
        for tag, what in flattened(self.client.take_results()):
            assert tag not in self.told
            self.told[tag] = what
            assert agrees(what, self.model.told[tag])
        assert self.told.keys() == self.model.told.keys()

    def finish(self) -> None:
        """With windows wide enough the server gets every request to its end, unless one side gave it up."""
        for _ in range(4):
            self.server.grant(1 << 20)
            for stream_id in self.server.requests:
                self.server.grant(1 << 20, stream_id)
            self.deliver_everything()
        assert all(self.server.requests[stream_id].whole for stream_id in self.model.open)
        self.client.receive_eof()
        self.model.lost()
        self.compare()
        assert sorted(self.told) == list(range(self.tags))

    def deliver_everything(self) -> None:
        for _ in range(4):
            self.carry_requests(1 << 30)
            self.carry_answers(1 << 30)


STEPS = (
    (Traffic.send, 12),
    (Traffic.answer_bare, 8),
    (Traffic.answer, 10),
    (Traffic.answer_body, 6),
    (Traffic.answer_trailers, 2),
    (Traffic.reset, 2),
    (Traffic.change_settings, 3),
    (Traffic.widen, 5),
    (Traffic.say_something_else, 1),
    (Traffic.trust, 1),
    (Traffic.expire, 0.5),
    (Traffic.goaway, 0.2),
)


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


@settings(max_examples=100)
@given(seed=st.integers(0, 2**64 - 1), steps=st.integers(1, 300))
def test_any_valid_traffic(seed: int, steps: int) -> None:
    """Heads, bodies, settings, windows, answers of every kind, resets, GOAWAY and timeouts, cut anywhere."""
    Traffic(random.Random(seed)).run(steps)


@pytest.mark.parametrize("lengths", [(30,), (1, 200), (126, 127, 128), (1, 9000)])
def test_a_thousand_requests_at_once(lengths: tuple[int, ...]) -> None:
    """A whole connection's streams in two slices, values of one length or of several, answered in any order."""
    rng = random.Random(len(lengths))
    client, server = ClientProtocol(), Server(MAX_CONCURRENT_STREAMS=MAX_STREAMS, INITIAL_WINDOW_SIZE=1 << 20)
    client.trust()
    server.receive(client.data_to_send())
    server.grant((1 << 24) - 1)
    client.receive_data(b"".join(data for data, _ in server.outgoing))
    which = HEADS[1]
    columns = tuple([b"/" * rng.choice(lengths) for _ in range(MAX_STREAMS)] for _ in which.varying)
    bodies = [b"b" * rng.randint(1, 500) for _ in range(MAX_STREAMS)]
    tags = list(range(MAX_STREAMS))
    assert client.send(which, tuple(column[:600] for column in columns), bodies[:600], tags[:600]) == 600
    assert client.send(which, tuple(column[600:] for column in columns), bodies[600:], tags[600:]) == 400
    server.receive(client.data_to_send())
    assert all(request.whole for request in server.requests.values())
    assert [request.body for request in server.requests.values()] == bodies
    assert [request.fields for request in server.requests.values()] == [
        expected(which, values) for values in zip(*columns, strict=True)
    ]
    streams = rng.sample(sorted(server.requests), MAX_STREAMS)
    answers = b"".join(map(wire.bare, streams))
    for start in range(0, len(answers), 777):
        client.receive_data(answers[start : start + 777])
    assert client.take_results().accepted == [(stream_id - 1) // 2 for stream_id in streams]
