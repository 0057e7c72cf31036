"""A TCP proxy that does to its first connections what networks do: the eight faults of toxiproxy, at three moments."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, get_args

Fault = Literal["latency", "down", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

Moment = Literal["connect", "mid-request", "mid-response"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

BEGUN = 4000
"""Bytes from the client after which a connection is past its handshake and has requests on its way."""

LATENCY = 0.5
BYTES_A_SECOND = 20_000
SLICE = 40
HOLD = 2.0
"""Seconds until a connection that lets nothing through, or whose other end is gone, is closed."""

NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Listens for one service. Once told to, the fault strikes on some connections; those behind them are well."""

    def __init__(self, upstream: int, fault: Fault, moment: Moment) -> None:
        self.port = 0
        self.struck = 0
        """Connections that the fault was done to."""
        self._upstream = upstream
        self._fault: Fault = fault
        self._moment: Moment = moment
        self._bad = 0
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._end()

    async def strike(self, bad: int) -> None:
        """End the connections there are, and strike on the next `bad`."""
        self._bad = bad
        await self._end()

    async def _end(self) -> None:
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faulty = self._bad > 0
        self._bad -= faulty
        task = asyncio.ensure_future(self._link(reader, writer, faulty))
        self._links.add(task)
        task.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faulty: bool) -> None:
        link = Link(writer, self._fault, self._moment) if faulty else Link(writer, None, "connect")
        with suppress(OSError):
            try:
                await link.carry(reader, self._upstream)
            finally:
                self.struck += link.struck
                link.abort()


class Link:
    """One connection with both its ends."""

    def __init__(self, client: asyncio.StreamWriter, fault: Fault | None, moment: Moment) -> None:
        self.struck = False
        self._client = client
        self._service: asyncio.StreamWriter | None = None
        self._fault = fault
        self._moment = moment
        self._up = 0  # bytes from the client

    async def carry(self, reader: asyncio.StreamReader, upstream: int) -> None:
        """Until both directions have ended, or the fault ends them."""
        answers, self._service = await asyncio.open_connection("127.0.0.1", upstream)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pump(reader, self._service, "mid-request"))
            both.create_task(self._pump(answers, self._client, "mid-response"))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Moment) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                self._up += len(data) if direction == "mid-request" else 0
                if self._strikes(direction):
                    self.struck = True
                    await _FAULTS[self._fault](self, data, sink)  # type: ignore[index]
                else:
                    sink.write(data)
                await sink.drain()
            if self._fault == "slow_close":
                await asyncio.sleep(HOLD)
            sink.close()

    def _strikes(self, direction: Moment) -> bool:
        """At connect, both directions from the first byte on; later, one of them once requests are on their way."""
        if self._fault is None or self._moment == "connect":
            return self._fault is not None
        return direction == self._moment and self._up > BEGUN

    def abort(self) -> None:
        for end in (self._client, self._service):
            if end is not None:
                end.transport.abort()

    # The faults: what becomes of data that is on its way to `sink`

    async def latency(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        await asyncio.sleep(LATENCY)
        sink.write(data)

    async def down(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        self.abort()

    async def bandwidth(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        await asyncio.sleep(len(data) / BYTES_A_SECOND)
        sink.write(data)

    async def slow_close(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        """The service's end is gone, and the client is told late."""
        if self._service is not None:
            self._service.transport.abort()
        await asyncio.sleep(HOLD)
        self.abort()

    async def timeout(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        await asyncio.sleep(HOLD)
        self.abort()

    async def reset_peer(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        peer: socket.socket = self._client.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.abort()

    async def slicer(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        for start in range(0, len(data), SLICE):
            sink.write(data[start : start + SLICE])
            await sink.drain()
            await asyncio.sleep(0.001)

    async def limit_data(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        """A part of it goes through, and then the end."""
        sink.write(data[: len(data) // 2])
        await sink.drain()
        await asyncio.sleep(0.01)
        self.abort()


_FAULTS: dict[Fault, Callable[[Link, bytes, asyncio.StreamWriter], Awaitable[None]]] = {
    "latency": Link.latency,
    "down": Link.down,
    "bandwidth": Link.bandwidth,
    "slow_close": Link.slow_close,
    "timeout": Link.timeout,
    "reset_peer": Link.reset_peer,
    "slicer": Link.slicer,
    "limit_data": Link.limit_data,
}
