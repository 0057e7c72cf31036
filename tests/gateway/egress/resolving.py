"""Resolvers whose answers a test decides, and who is found at the addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Self

from gateway.egress.guard import Found


class Resolver:
    """Gives one answer after the other, and the last one again and again; remembers who asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[Found]:
        self.asked.append((host, port))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return list(_found(answer, port))


def _found(addresses: list[str], port: int) -> Iterator[Found]:
    for address in addresses:
        if ":" in address:
            yield Found(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
        else:
            yield Found(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))


INTERNET = "127.0.0.2"
"""Plays a host of the internet; all of 127.0.0.0/8 is this machine's."""


def public(address: str) -> bool:
    return address == INTERNET


class Listener:
    """Counts who connects, keeps what they say first, and hangs up."""

    def __init__(self, host: str, port: int = 0) -> None:
        self._host = host
        self.port = port
        self.callers = 0
        self.received = b""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.callers += 1
        self.received += await reader.read(4096)
        writer.close()
