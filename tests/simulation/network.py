"""Connections between processes and services: bytes arrive in order, later, cut into pieces, or never."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Protocol

from tests.simulation.machine import Process

LOST = 1e12
"""When bytes arrive that never do."""


class Peer(Protocol):
    """The service's end of a connection."""

    def receive(self, data: bytes, sent_at: float) -> None: ...


class Listener(Protocol):
    """A service, as the network knows it."""

    refuses: bool
    silent: bool

    def connected(self, link: Link) -> Peer: ...


class Network:
    """Who listens where. `servers` is the process that all services run in."""

    def __init__(self, servers: Process, rng: random.Random) -> None:
        self.servers = servers
        self.rng = rng
        self.listeners: dict[str, Listener] = {}
        self.links: list[Link] = []
        self.latency = 0.02

    def delay(self) -> float:
        return self.latency * self.rng.uniform(0.5, 1.5)

    async def dial(self, process: Process, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Any:
        listener = self.listeners[host]
        await asyncio.sleep(3 * self.delay())  # TCP and TLS
        if listener.silent:
            await asyncio.sleep(LOST)
        if listener.refuses:
            raise ConnectionRefusedError(111, "Connection refused")
        protocol = factory()
        link = Link(self, process, protocol)
        self.links.append(link)
        protocol.connection_made(link)
        self.servers.call_io(process.time(), link.accept, listener)
        return link, protocol

    def open(self, process: Process | None = None) -> list[Link]:
        self.links = [link for link in self.links if not link.over]
        return [link for link in self.links if process is None or link.process is process]

    def killed(self, process: Process) -> None:
        """The kernel closes what the dead had open, and still sends what they had written."""
        for link in self.open(process):
            link.over = True
            link.upstream(link.peer_gone)


class Link(asyncio.Transport):
    """One connection, as its client's transport."""

    def __init__(self, network: Network, process: Process, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.process = process
        self.over = False
        """Whether the client's side is closed."""
        self.gone = False
        """Whether the service knows that it is."""
        self._network = network
        self._protocol = protocol
        self._peer: Peer | None = None
        self._up_at = self._down_at = process.time()
        self._frozen_until = 0.0

    # The client's side

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def write(self, data: Any) -> None:
        assert not self.over, "written to a closed transport"
        now = self.process.time()
        for piece in self._pieces(bytes(data)):
            self.upstream(self._arrived, piece, now)

    def close(self) -> None:
        if not self.over:
            self.over = True
            self.upstream(self.peer_gone)
            self.process.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.over

    # The service's side

    def accept(self, listener: Listener) -> None:
        if not self.gone:
            self._peer = listener.connected(self)

    def deliver(self, data: bytes, read: Callable[[], None] | None = None) -> None:
        """Send to the client; `read` is called when it has all been read."""
        pieces = self._pieces(data)
        for piece in pieces[:-1]:
            self._downstream(self._delivered, piece, None)
        self._downstream(self._delivered, pieces[-1], read)

    def hang_up(self) -> None:
        """The service closes, when what it sent has arrived."""
        self.gone = True
        self._downstream(self._ended)

    def cut(self) -> None:
        """Both ends lose it, with all that is on its way."""
        self.gone = True
        if not self.over:
            self.over = True
            error = ConnectionResetError("reset by the simulation")
            self.process.call_io(self.process.time(), self._protocol.connection_lost, error)

    def freeze(self, seconds: float) -> None:
        """Nothing arrives for so long, in either direction."""
        self._frozen_until = self.process.time() + seconds

    # On the way

    def upstream(self, callback: Callable[..., None], *args: Any) -> None:
        self._up_at = self._arrival(self._up_at)
        self._network.servers.call_io(self._up_at, callback, *args)

    def _downstream(self, callback: Callable[..., None], *args: Any) -> None:
        self._down_at = self._arrival(self._down_at)
        self.process.call_io(self._down_at, callback, *args)

    def _arrival(self, last: float) -> float:
        return max(last, self._frozen_until, self.process.time() + self._network.delay())

    def _pieces(self, data: bytes) -> list[bytes]:
        """TCP knows no messages."""
        rng = self._network.rng
        if len(data) < 2 or rng.random() < 0.8:
            return [data]
        cut = rng.randrange(1, len(data))
        return [data[:cut], data[cut:]]

    def _arrived(self, data: bytes, sent_at: float) -> None:
        if not self.gone and self._peer is not None:
            self._peer.receive(data, sent_at)

    def peer_gone(self) -> None:
        self.gone = True

    def _delivered(self, data: bytes, read: Callable[[], None] | None) -> None:
        if not self.over:
            self._protocol.data_received(data)
            if read is not None:
                read()

    def _ended(self) -> None:
        if not self.over:
            self._protocol.eof_received()
            self.over = True
            self.process.call_soon(self._protocol.connection_lost, None)
