"""The listening sockets of the HTTP side: bound by the parent, inherited by every worker.

They belong to no worker. What the kernel has taken in for one that dies or is replaced is accepted by another, so no
connection is lost with a process; and while any of them runs, there is somebody to accept.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

BACKLOG = 1024
"""Connections that wait to be accepted, while all workers are busy or being started again."""


def bind(host: str, port: int) -> list[socket.socket]:
    """A socket for every address of the host, all on one port; 0 takes a free one. They listen once a worker does.

    Raises:
        OSError: the address is taken or not one of this machine; the message names it.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            sockets.append(each := socket.socket(family, kind, protocol))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((address[0], port or address[1], *address[2:]))
            port = port or each.getsockname()[1]
    except OSError as error:
        for each in sockets:
            each.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sockets


def _addresses(host: str, port: int) -> Sequence[tuple[int, int, int, str, tuple]]:  # type: ignore[type-arg]
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))


def inherited(descriptors: Sequence[int]) -> list[socket.socket]:
    """In a worker: the sockets behind the descriptors that it was given."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]
