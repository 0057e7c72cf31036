"""One connection to an endpoint, to see whether it can be used: TCP, TLS, ALPN, and the time it has there."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.exceptions import ProtocolError

from gateway.http2.pool import tls_context
from providers.base import ClientCertificate

READS = 16
"""Reads until the head of the answer to one request has to be there."""


class Target(NamedTuple):
    """Where to connect, and how it is trusted."""

    origin: str
    """`https://host[:port]`"""
    ca_file: str | None = None
    client_certificate: ClientCertificate | None = None


class Reached(NamedTuple):
    """It can be used."""

    tls: str
    """The protocol's version, such as `TLSv1.3`."""
    seconds: float
    """TCP and TLS handshakes together."""
    skew: float | None
    """Our clock minus theirs in seconds; None if the answer bears no `Date`."""


class ProbeFailed(Exception):
    """It cannot be used."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail, remedy)
        self.detail = detail
        self.remedy = remedy


def probe(target: Target, timeout: float) -> Reached:
    """Connect as the gateway would, and ask for `/`. Blocks.

    Raises:
        ProbeFailed: saying at which step, and what to do.
    """
    url = urlsplit(target.origin)
    if url.scheme != "https" or not url.hostname:
        raise ProbeFailed("is not https://host[:port]", "correct `endpoint`")
    context = _context(target)
    began = time.monotonic()
    with _connected(url.hostname, url.port or 443, timeout) as plain, _secured(plain, context, url.hostname) as tls:
        seconds = time.monotonic() - began
        if tls.selected_alpn_protocol() != "h2":
            raise ProbeFailed(
                "does not speak HTTP/2 (no ALPN `h2`)",
                "something that inspects TLS may be in between; let this host through untouched",
            )
        return Reached(tls.version() or "TLS", seconds, _skew(tls, url.netloc))


def _context(target: Target) -> ssl.SSLContext:
    try:
        return tls_context(target.ca_file, target.client_certificate)
    except OSError as error:  # ssl.SSLError is one
        raise ProbeFailed(f"ca_file or certificate cannot be used: {error.strerror}", "name PEM files") from None


def _connected(host: str, port: int, timeout: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout)
    except socket.gaierror:
        raise ProbeFailed("its name is not found", "check this machine's DNS, and the spelling of `endpoint`") from None
    except TimeoutError:
        raise ProbeFailed(
            f"port {port} does not answer within {timeout:g} s", f"let TCP {port} out through the firewall"
        ) from None
    except OSError as error:
        raise ProbeFailed(
            f"port {port} refuses: {error.strerror}", "check `endpoint`, and that a firewall lets it out"
        ) from None


def _secured(plain: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise ProbeFailed(
            f"its certificate is not trusted: {error.verify_message}",
            "install the system's CA certificates, or name the endpoint's own with `ca_file`",
        ) from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or "the connection was closed"
        raise ProbeFailed(f"TLS failed: {reason}", "check `endpoint`, and what is between here and there") from None


def _skew(tls: ssl.SSLSocket, authority: str) -> float | None:
    """Our clock minus theirs, to the second; None if they do not say."""
    connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    connection.initiate_connection()
    request = [(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", "/")]
    connection.send_headers(1, request, end_stream=True)
    with suppress(OSError, ProtocolError, LookupError, ValueError):  # reached it is; the time is an extra
        tls.sendall(connection.data_to_send())
        for _ in range(READS):
            for event in connection.receive_data(tls.recv(65536)):
                if isinstance(event, ResponseReceived):
                    date = dict(event.headers)[b"date"].decode("latin-1")
                    return time.time() - parsedate_to_datetime(date).timestamp()
    return None
