"""The listening sockets of the HTTP side: bound by the parent, inherited by every worker.

They belong to no worker. What the kernel has taken in for one that dies or is replaced is accepted by another, so no
connection is lost with a process; and while any of them runs, there is somebody to accept.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

BACKLOG = 1024
"""Connections that wait to be accepted, while all workers are busy or being started again."""


def require_parser() -> None:
    """Requests of strangers are read by the compiled parser, which is the one that is attacked and mended most.

    Raises:
        OSError: it is not there, or switched off.
    """
    from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy  # the parent needs no more of aiohttp

    if HttpRequestParser is HttpRequestParserPy:
        raise OSError(
            "aiohttp's compiled HTTP parser is missing, and the one in Python is not let near the network: "
            "unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp for this platform"
        )


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


def server_context(
    certificate: Path, key: Path | None, client_authorities: Path | None, *, required: bool
) -> ssl.SSLContext:
    """TLS 1.2 or newer for who connects; with `client_authorities`, callers' certificates are asked for.

    Raises:
        OSError: a file cannot be read, or is not what it should be; the message names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        files = f"{certificate}{f' with {key}' if key else ''}"
        raise OSError(error.errno, f"{files} cannot be used as the listener's certificate: {error.strerror}") from error
    if client_authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(client_authorities)
        except OSError as error:
            reason = f"{client_authorities} cannot be used as http.client_ca_file: {error.strerror}"
            raise OSError(error.errno, reason) from error
    return context


def inherited(descriptors: Sequence[int]) -> list[socket.socket]:
    """In a worker: the sockets behind the descriptors that it was given."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]
