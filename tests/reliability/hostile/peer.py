"""The server's side of a connection in raw frames: it takes requests honestly and answers as its case says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import hpack

from tests.gateway.http2 import wire
from tests.gateway.virtual import MemoryTransport, Service

Attack = Callable[["Peer", int], None]
"""What a server does about a whole request on a stream."""


class Hostile(Service):
    """Meets its first `bad` connections with `greeting` and `attack`, and those after them as a good server does.

    With `warms`, the first request of each connection has an honest answer, so that others are on their way when the
    attack begins.
    """

    def __init__(self, attack: Attack, greeting: bytes | None, *, bad: int, pongs: bool, warms: bool) -> None:
        super().__init__()
        self.attack = attack
        self.greeting = greeting
        self.bad = bad
        self.pongs = pongs
        self.warms = warms
        self.honoured: Counter[str] = Counter()
        """Requests that were answered with a status 200, by path."""

    def meet(self, transport: MemoryTransport) -> Peer:
        return Peer(self, transport, hostile=len(self.sessions) < self.bad)


class Peer:
    """One connection."""

    def __init__(self, service: Hostile, transport: MemoryTransport, *, hostile: bool) -> None:
        self.service = service
        self.transport = transport
        self.hostile = hostile
        self.requests = 0
        self.frames = 0
        """How many of the attack's are counted."""
        self.attacked = 0
        """Requests that were given over to the attack."""
        self.attacked_at = asyncio.get_running_loop().time()
        self.told: int | None = None
        """The error code of the client's GOAWAY."""
        self.resets: dict[int, int] = {}
        """The client's RST_STREAM, by stream."""
        self.paths: dict[int, str] = {}
        self._unread = b""
        self._headers = hpack.Decoder()
        greeting = service.greeting if hostile else wire.settings()
        if greeting is not None:
            self.say(greeting)

    def say(self, data: bytes) -> None:
        if not self.transport.closed:
            self.transport.deliver(data)

    def accept(self, stream_id: int) -> None:
        """An honest success."""
        self.honour(stream_id)
        self.say(wire.bare(stream_id))

    def honour(self, stream_id: int) -> None:
        """Take note that what is said about this stream means success."""
        self.service.honoured[self.paths[stream_id]] += 1

    def receive(self, data: bytes) -> None:
        for frame in self._frames(data):
            match frame.kind:
                case wire.HEADERS:
                    fields = dict(self._headers.decode(frame.payload))
                    self.paths[frame.stream_id] = fields[":path"]
                    if frame.stream_id == 1:
                        self.attacked_at = asyncio.get_running_loop().time()
                case wire.RST_STREAM:
                    self.resets[frame.stream_id] = int.from_bytes(frame.payload, "big")
                case wire.GOAWAY:
                    self.told = int.from_bytes(frame.payload[4:8], "big")
                case wire.PING if not frame.flags & wire.ACK and (self.service.pongs or not self.hostile):
                    self.say(wire.raw(wire.PING, wire.ACK, 0, frame.payload))
                case wire.DATA if frame.flags & wire.END_STREAM:
                    self._requested(frame.stream_id)
                case _:
                    pass

    def _requested(self, stream_id: int) -> None:
        self.service.paths[self.paths[stream_id]] += 1
        self.requests += 1
        if not self.hostile or (self.requests == 1 and self.service.warms):
            self.accept(stream_id)
            return
        if not self.attacked:
            self.attacked_at = asyncio.get_running_loop().time()
        self.attacked += 1
        self.service.attack(self, stream_id)

    def _frames(self, data: bytes) -> Iterator[wire.Frame]:
        self._unread = (self._unread + data).removeprefix(wire.PREFACE)
        while len(self._unread) >= 9 and len(self._unread) >= (size := 9 + int.from_bytes(self._unread[:3], "big")):
            (frame,) = wire.split(self._unread[:size])
            self._unread = self._unread[size:]
            yield frame
