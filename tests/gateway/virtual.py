"""A loop whose clock jumps to the next timer, and a network in memory with services of the library `h2` on it.

Seconds pass at once and in the same order each time, so that timeouts, holds and back-off are tested by value. Nothing
here reads the real clock; `wall` makes `time.time` follow the loop's.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest
from h2.settings import SettingCodes

EPOCH = 1_800_000_000.0
"""UNIX seconds at the loop's zero."""


class Answer(NamedTuple):
    """What a service answers, and how many seconds later."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0


class Fault(NamedTuple):
    """What a service does instead of answering: hang, refuse, reset, cut, or goaway (not having processed it)."""

    kind: str


Behaviour = Callable[[str], "Answer | Fault"]


class Service:
    """Listens at an address; answers requests by what `behave` says of their paths."""

    def __init__(self, behave: Behaviour | None = None, *, streams: int = 100, latency: float = 0.01) -> None:
        self.behave: Behaviour = behave or (lambda path: Answer())
        self.streams = streams
        self.latency = latency
        self.refuses: Exception | None = None
        """Raised to whoever connects."""
        self.silent = False
        """Whoever connects waits for ever."""
        self.alpn: str | None = "h2"
        self.settles = True
        """Whether SETTINGS are sent."""
        self.answers_pings = True
        self.keys: set[str] | None = None
        """Bearer keys that are taken; the others' requests are answered with `refusal`. None for all."""
        self.refusal = Answer(401)
        self.signed: Counter[str] = Counter()
        """Requests by their bearer key."""
        self.dials: list[float] = []
        self.paths: Counter[str] = Counter()
        """Requests taken, each time."""
        self.bodies: list[bytes] = []
        self.arrivals: list[float] = []
        self.sessions: list[Any] = []
        """A `Session` for each connection, or what `meet` makes instead."""

    def meet(self, transport: MemoryTransport) -> Any:
        """The server's side of a new connection."""
        return Session(self, transport)

    @property
    def taken(self) -> int:
        return self.paths.total()

    @property
    def open(self) -> list[Any]:
        return [session for session in self.sessions if not session.transport.closed]


class Session:
    """One connection, the server's side."""

    def __init__(self, service: Service, transport: MemoryTransport) -> None:
        self.service = service
        self.transport = transport
        self.resets: list[int] = []
        self.goaway_received = False
        self._loop = asyncio.get_running_loop()
        self._last_stream = 2**31 - 1
        self._paths: dict[int, str] = {}
        self._keys: dict[int, str] = {}
        self._bodies: dict[int, bytes] = {}
        self.unanswered: set[int] = set()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: service.streams}
        )
        self.h2.initiate_connection()
        if service.settles:
            self.flush()

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    headers = dict(event.headers or ())
                    path = headers.get(":path", headers.get(b":path"))
                    self._paths[event.stream_id or 0] = path.decode() if isinstance(path, bytes) else str(path)
                    signed = headers.get("authorization", headers.get(b"authorization", b""))
                    self._keys[event.stream_id or 0] = (
                        str(signed, "ascii") if isinstance(signed, bytes) else str(signed)
                    )
                    self._bodies[event.stream_id or 0] = b""
                case h2.events.DataReceived():
                    self._bodies[event.stream_id or 0] += event.data or b""
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                case h2.events.StreamEnded():
                    self._requested(event.stream_id or 0)
                case h2.events.StreamReset():
                    self.resets.append(event.stream_id or 0)
                    self.unanswered.discard(event.stream_id or 0)
                case h2.events.ConnectionTerminated():
                    self.goaway_received = True
                case _:
                    pass
        if self.service.answers_pings and self.service.settles:
            self.flush()

    def _requested(self, stream_id: int) -> None:
        path, service = self._paths.pop(stream_id), self.service
        if stream_id > self._last_stream:
            return  # behind a GOAWAY that says so
        service.paths[path] += 1
        service.bodies.append(self._bodies.pop(stream_id))
        service.arrivals.append(self._loop.time())
        self.unanswered.add(stream_id)
        key = self._keys.pop(stream_id).removeprefix("Bearer ")
        service.signed[key] += 1
        refused = service.keys is not None and key not in service.keys
        behaviour = service.refusal if refused else service.behave(path)
        if isinstance(behaviour, Answer):
            self._loop.call_later(behaviour.delay, self.answer, stream_id, behaviour)
            return
        match behaviour.kind:
            case "hang":
                pass
            case "refuse" | "reset":
                code = h2.errors.ErrorCodes.REFUSED_STREAM if behaviour.kind == "refuse" else 2
                service.paths[path] -= behaviour.kind == "refuse"
                self.unanswered.discard(stream_id)
                self.h2.reset_stream(stream_id, code)
            case "goaway":
                service.paths[path] -= 1
                self.unanswered.discard(stream_id)
                self.goaway(stream_id - 2)
            case "cut":
                self.transport.cut()
            case kind:
                raise AssertionError(kind)

    def answer(self, stream_id: int, answer: Answer = Answer()) -> None:
        if self.transport.closed or stream_id not in self.unanswered:
            return
        self.unanswered.discard(stream_id)
        headers = [(":status", str(answer.status)), *answer.headers]
        self.h2.send_headers(stream_id, headers, end_stream=not answer.body)
        if answer.body:
            self.h2.send_data(stream_id, answer.body, end_stream=True)
        self.flush()

    def goaway(self, last_stream_id: int, code: int = 0) -> None:
        """Without closing: `h2` would take no more of what is under way."""
        self._last_stream = max(0, last_stream_id)
        payload = self._last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.flush()
        self.transport.deliver(len(payload).to_bytes(3, "big") + b"\x07\x00\x00\x00\x00\x00" + payload)

    def flush(self) -> None:
        self.transport.deliver(self.h2.data_to_send())


class MemoryTransport:
    """A client's transport; what is written arrives `latency` seconds later at the service, and the other way."""

    def __init__(self, service: Service, protocol: asyncio.Protocol) -> None:
        self.closed = False
        self.closed_at = 0.0
        self._severed = False
        self.written = 0
        self._loop = asyncio.get_running_loop()
        self._latency = service.latency
        self._alpn = service.alpn
        self._protocol = protocol
        self._up: deque[bytes] = deque()  # timers of the same moment fire in any order, bytes arrive in theirs
        self._down: deque[bytes] = deque()
        self.session = service.meet(self)

    def get_extra_info(self, name: str) -> Any:
        return self

    def selected_alpn_protocol(self) -> str | None:
        return self._alpn

    def set_write_buffer_limits(self, high: int) -> None:
        return

    def pause(self) -> None:
        """The service reads no more: from now on all that is written waits."""
        self._loop.call_soon(self._protocol.pause_writing)

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += len(data)
        self._up.append(data)
        self._loop.call_later(self._latency, self._arrived)

    def _arrived(self) -> None:
        data = self._up.popleft()
        if not self._severed:
            self.session.receive(data)

    def deliver(self, data: bytes) -> None:
        if data:
            self._down.append(data)
            self._loop.call_later(self._latency, self._delivered)

    def _delivered(self) -> None:
        data = self._down.popleft()
        if not self.closed:
            self._protocol.data_received(data)

    def close(self) -> None:
        """What was written still arrives."""
        self._end(None)

    abort = close

    def cut(self) -> None:
        """The service's end of the connection is gone, with all that was on its way."""
        self._severed = True
        self._end(ConnectionResetError("reset by the test"))

    def _end(self, cause: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.closed_at = self._loop.time()
            self._loop.call_soon(self._protocol.connection_lost, cause)


class _Jumping(selectors.SelectSelector):
    """Waits by moving the loop's clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise AssertionError("everybody waits, and no timer is set")
            self.loop.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module's docstring."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.services: dict[tuple[str, int], Service] = {}
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def serve(self, host: str, service: Service, port: int = 443) -> Service:
        """Make a service known under an address; where there is none, connections are refused."""
        self.services[host, port] = service
        return service

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        service = self.services.get((host, port))
        if service is None:
            await asyncio.sleep(0.001)
            raise ConnectionRefusedError(111, "Connection refused")
        service.dials.append(self.now)
        if service.silent:
            await asyncio.sleep(3600)
        await asyncio.sleep(3 * service.latency)  # TCP and TLS
        if service.refuses is not None:
            raise service.refuses
        protocol = factory()
        transport = MemoryTransport(service, protocol)
        service.sessions.append(transport.session)
        protocol.connection_made(transport)
        return transport, protocol


def virtual_loop() -> VirtualLoop:
    """The running loop."""
    return cast(VirtualLoop, asyncio.get_running_loop())


def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let UNIX time follow the loop's."""
    monkeypatch.setattr(time, "time", lambda: EPOCH + asyncio.get_running_loop().time())


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Let time pass in small steps until something is so.

    Raises:
        AssertionError: it is not, after so many seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.01)
