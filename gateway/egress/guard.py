"""Connects to hosts that a stranger named: at public addresses alone, and at those that were checked.

A name is resolved once and all addresses of the answer are checked, so that no second answer can differ from the one
that was looked at. The socket is connected to one of these, and who is at its other end is checked once more.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from gateway.egress.addresses import is_public

MOST_ADDRESSES = 16
"""Of an answer: more are not tried."""


class Forbidden(OSError):
    """A host is not at public addresses alone. Where it is, the message does not say: who named it might read that."""

    def __init__(self) -> None:
        super().__init__("the host is not on the public internet")


class Found(NamedTuple):
    """One address of an answer of `getaddrinfo`."""

    family: int
    kind: int
    protocol: int
    name: str
    address: tuple[Any, ...]
    """What `connect` takes; the IP address is its first part."""


Resolve = Callable[[str, int], Awaitable[list[Found]]]


async def resolve(host: str, port: int) -> list[Found]:
    """The system's answer.

    Raises:
        OSError: there is none.
    """
    answer = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Found(*found) for found in answer]


class Guard:
    """The one way to hosts that a stranger named."""

    def __init__(self, resolve: Resolve = resolve, public: Callable[[str], bool] = is_public) -> None:
        self._resolve = resolve
        self._public = public

    async def resolved(self, host: str, port: int) -> list[Found]:
        """The addresses of a host, all of them public.

        Raises:
            Forbidden: one of them is not, or there is none.
            OSError: it cannot be resolved.
        """
        answer = await self._resolve(host, port)
        if not answer or not all(self._public(found.address[0]) for found in answer):
            raise Forbidden
        return answer[:MOST_ADDRESSES]

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connected socket; the first address that answers is taken.

        Raises:
            Forbidden: as `resolved`.
            OSError: it cannot be resolved, or none of its addresses can be reached.
        """
        failure: OSError = Forbidden()
        for found in await self.resolved(host, port):
            try:
                return await self._connected(found)
            except OSError as error:
                failure = error
        raise failure

    def open(self, found: Found) -> socket.socket:
        """A socket that is about to be connected to an address.

        Raises:
            Forbidden: the address is not public.
        """
        if not self._public(found.address[0]):
            raise Forbidden
        sock = socket.socket(found.family, found.kind, found.protocol)
        sock.setblocking(False)
        return sock

    async def _connected(self, found: Found) -> socket.socket:
        sock = self.open(found)
        try:
            await asyncio.get_running_loop().sock_connect(sock, found.address)
            if not self._public(sock.getpeername()[0]):
                raise Forbidden
        except BaseException:
            sock.close()
            raise
        return sock
