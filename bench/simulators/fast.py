"""The fast simulator: answers everything, checks nothing, and remembers enough for a ledger.

One core answers some 150,000 and more requests a second, so that it is not what a benchmark measures. What it
writes is valid HTTP/2 whatever the client does; what it skips of what the client writes (a peer's smaller
INITIAL_WINDOW_SIZE than an answer's body of about 100 bytes, malformed frames) is the strict simulator's work.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from . import frames
from .fast_journal import FastJournal, Recording
from .message import Answer
from .script import Rule, Script
from .wire import Outbox

PATTERN = 4096
"""Picks of outcomes repeat after so many streams of a connection; a power of two."""

_HUGE = 1 << 30


class Terms(NamedTuple):
    """How a fast listener treats its connections."""

    streams: int = 1000
    first_streams: int | None = None
    """Until the first answer, where it differs."""
    window: int = _HUGE
    rtt: float = 0.0


APPLE = Terms(streams=1000, first_streams=1, window=frames.DEFAULT_WINDOW, rtt=0.040)
"""What APNs looks like from a data centre nearby."""


class Success(NamedTuple):
    """How a service says yes: `make` takes the 4 bytes of a stream id and a connection's number."""

    status: int
    make: Callable[[bytes, int], bytes]
    data: int
    """Bytes of DATA in it."""
    bare: bool = False
    """Whether `make` is no more than a HEADERS frame with `:status 200`."""


def frames_of(answer: Answer) -> tuple[bytes, ...]:
    """An answer's frames, to be joined by the 4 bytes of a stream id."""
    block = frames.header_block(answer.status, answer.headers)
    flags = frames.END_HEADERS if answer.body else frames.END_HEADERS | frames.END_STREAM
    head = frames.frame(frames.HEADERS, flags, 0, block)
    if not answer.body:
        return head[:5], head[9:]
    data = frames.frame(frames.DATA, frames.END_STREAM, 0, answer.body)
    return head[:5], head[9:] + data[:5], data[9:]


def picks(shares: Sequence[float], seed: int) -> list[int]:
    """For each place of the pattern: 0 for success, else the position of a share, counted from 1."""
    places: list[int] = []
    for number, share in enumerate(shares, 1):
        places += [number] * round(share * PATTERN)
    places += [0] * (PATTERN - len(places))
    random.Random(seed).shuffle(places)
    return places[:PATTERN]


class FastEngine:
    """What the fast connections of a service share.

    Args:
        refuse: The answer that a rule asks for.
        script: Rules of shares without prefix; each request is drawn anew, whatever its target.
    """

    def __init__(
        self,
        success: Success,
        refuse: Callable[[Rule], Answer],
        script: Script,
        terms: Terms,
        journal: FastJournal,
    ) -> None:
        self.success = success
        self.terms = terms
        self.journal = journal
        self.stats: Counter[str] = Counter()
        self.wires: set[FastWire] = set()
        self._refuse = refuse
        self.load(script)

    def load(self, script: Script) -> None:
        """Plays another script from now on.

        Raises:
            ValueError: a rule needs to look into requests.
            KeyError: the service has no such answer.
        """
        if any(rule != Rule(answer=rule.answer, share=rule.share, attempts=rule.attempts) for rule in script.rules):
            raise ValueError("a fast simulator looks into no request: its rules have an answer and a share only")
        answers = [self._refuse(rule) for rule in script.rules]
        self.picks = picks([rule.share for rule in script.rules], script.seed) if answers else []
        self.refusals = [(frames_of(answer), len(answer.body)) for answer in answers]
        statuses = [self.success.status, *(answer.status for answer in answers)]
        decided = [statuses[pick] for pick in self.picks] or [self.success.status] * PATTERN
        self.journal.decide(lambda connection, stream: decided[place(connection, stream)])

    def reset(self) -> None:
        self.journal.reset()
        self.stats.clear()

    def connect(self) -> asyncio.Protocol:
        return FastWire(self)

    def goaway(self, code: int = 0, debug: bytes = b"") -> None:
        for wire in list(self.wires):
            wire.goaway(code, debug)

    def settings(self, values: dict[int, int]) -> None:
        for wire in self.wires:
            wire.settings(values)

    def cut(self) -> None:
        for wire in list(self.wires):
            wire.cut()

    close = cut


class FastWire(asyncio.Protocol):
    """A connection that is read and written in as few steps as possible."""

    transport: asyncio.Transport

    def __init__(self, engine: FastEngine) -> None:
        self._engine = engine
        self._recording: Recording = engine.journal.record()
        self._keep_bodies = engine.journal.keeps_bodies
        self._rest = b""
        self._greeted = False
        self._unrefilled = 0
        self._window = frames.DEFAULT_WINDOW
        self._held: deque[tuple[int, bytes]] = deque()
        self._limit_raised = engine.terms.first_streams is None
        self._draining = False
        self._highest = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        terms = self._engine.terms
        self._outbox = Outbox(self.transport, terms.rtt)
        self._engine.wires.add(self)
        self._engine.stats["connections"] += 1
        streams = terms.streams if terms.first_streams is None else terms.first_streams
        values: dict[int, int] = {
            frames.Setting.MAX_CONCURRENT_STREAMS: streams,
            frames.Setting.MAX_HEADER_LIST_SIZE: 8000,
        }
        greeting = frames.settings(values)
        if terms.window > frames.DEFAULT_WINDOW:
            greeting += frames.window_update(0, terms.window - frames.DEFAULT_WINDOW)
        self._outbox.write(greeting)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.wires.discard(self)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._draining:
            return
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        if not self._greeted:
            if end < len(frames.PREFACE):
                self._rest = data
                return
            if not data.startswith(frames.PREFACE):
                self.cut()
                return
            self._greeted, position = True, len(frames.PREFACE)
        unpack = frames.HEAD.unpack_from
        done: list[bytes] = []
        blocks: list[bytes] = []
        bodies: list[bytes] = []
        control: list[bytes] = []
        received = 0
        while position + 9 <= end:
            kind, flags, _ = unpack(data, position)
            after = position + 9 + (kind >> 8)
            if after > end:
                break
            kind &= 0xFF
            if kind == 1:  # HEADERS
                blocks.append(data[position:after])
                if flags & 1:
                    done.append(data[position + 5 : position + 9])
            elif kind == 0:  # DATA
                received += after - position - 9
                if self._keep_bodies:
                    bodies.append(data[position:after])
                if flags & 1:
                    done.append(data[position + 5 : position + 9])
            elif kind == 9:  # CONTINUATION
                blocks.append(data[position:after])
            else:
                self._control(kind, flags, data[position:after], control)
            position = after
        self._rest = data[position:]
        if received:
            self._refill(received, control)
        if done or blocks or bodies:
            self._recording.add(blocks, bodies, done)
        if done:
            self._answer(done, control)
        if control:
            self._outbox.write(b"".join(control))

    def _control(self, kind: int, flags: int, frame: bytes, out: list[bytes]) -> None:
        if kind == frames.SETTINGS and not flags & frames.ACK:
            out.append(frames.SETTINGS_ACK)
        elif kind == frames.PING and not flags & frames.ACK:
            out.append(frames.frame(frames.PING, frames.ACK, 0, frame[9:]))
        elif kind == frames.WINDOW_UPDATE and frame[5:9] == b"\0\0\0\0":
            self._window += int.from_bytes(frame[9:13], "big")
            self._release(out)

    def _refill(self, received: int, out: list[bytes]) -> None:
        self._unrefilled += received
        if self._unrefilled * 2 >= self._engine.terms.window:
            out.append(frames.window_update(0, self._unrefilled))
            self._unrefilled = 0

    def _answer(self, done: list[bytes], out: list[bytes]) -> None:
        engine = self._engine
        self._highest = max(self._highest, int.from_bytes(done[-1], "big"))
        success = engine.success
        if success.bare and not engine.picks:
            out += (b"\x00\x00\x01\x01\x05", b"\x88\x00\x00\x01\x01\x05".join(done), b"\x88")
        elif not engine.picks and success.data * len(done) <= self._window and not self._held:
            self._window -= success.data * len(done)
            number, make = self._recording.number, success.make
            out += [make(stream, number) for stream in done]
        else:
            self._held.extend(self._mixed(stream) for stream in done)
            self._release(out)
        if not self._limit_raised:
            self._limit_raised = True
            out.append(frames.settings({frames.Setting.MAX_CONCURRENT_STREAMS: engine.terms.streams}))

    def _mixed(self, stream: bytes) -> tuple[int, bytes]:
        """Bytes of DATA, and the frames."""
        engine, number = self._engine, self._recording.number
        pick = engine.picks and engine.picks[place(number, int.from_bytes(stream, "big"))]
        if not pick:
            return engine.success.data, engine.success.make(stream, number)
        pieces, size = engine.refusals[pick - 1]
        return size, stream.join(pieces)

    def _release(self, out: list[bytes]) -> None:
        held = self._held
        while held and held[0][0] <= self._window:
            size, answer = held.popleft()
            self._window -= size
            out.append(answer)

    # control

    def goaway(self, code: int, debug: bytes = b"") -> None:
        """All that was answered so far is processed, nothing else is."""
        self._draining = True
        self._outbox.write(frames.goaway(self._highest, code, debug))
        self._outbox.close()

    def settings(self, values: dict[int, int]) -> None:
        self._outbox.write(frames.settings(values))

    def cut(self) -> None:
        self.transport.abort()


def place(connection: int, stream: int) -> int:
    """Where in the pattern of picks a stream stands."""
    return (stream // 2 + connection * 613) % PATTERN


def apns_success(with_id: bool) -> Success:
    """200 without a body; `with_id` adds an `apns-id` header as Apple does, made up and not echoed."""
    if not with_id:
        return Success(200, lambda stream, _: b"\x00\x00\x01\x01\x05%b\x88" % stream, 0, bare=True)
    # A literal without indexing, its value %08X-XXXX-4000-8000-000000000000 of stream and connection.
    head = b"\x00\x00\x2f\x01\x05%b\x88\x00\x07apns-id\x24%08X-%04X-4000-8000-000000000000"
    return Success(200, lambda stream, number: head % (stream, int.from_bytes(stream, "big"), number & 0xFFFF), 0)


def fcm_success(project: str) -> Success:
    """200 with a message name made of connection and stream."""
    name = b'{"name":"projects/%b/messages/0:' % project.encode()
    size = len(name) + 16 + 2
    block = frames.header_block(200, ((b"content-type", b"application/json; charset=UTF-8"),))
    before = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, block)[:5]
    between = block + frames.frame(frames.DATA, frames.END_STREAM, 0, bytes(size))[:5]

    def make(stream: bytes, number: int) -> bytes:
        return b'%b%b%b%b%b%08x%b"}' % (before, stream, between, stream, name, number, stream.hex().encode())

    return Success(200, make, size)


def webpush_success() -> Success:
    """201 with a Location made of connection and stream."""
    block = frames.header_block(201, ((b"location", b"/m/" + b"0" * 16),))
    before = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, block)[:5]
    fields = block[:-16]
    return Success(
        201, lambda stream, number: b"%b%b%b%08x%b" % (before, stream, fields, number, stream.hex().encode()), 0
    )


def stub_success() -> Success:
    """200 without a body."""
    return apns_success(False)
