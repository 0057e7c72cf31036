"""One connection to an endpoint: what is found out, and what is said when it fails."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from h2.exceptions import ProtocolError

from gateway.probe import ProbeFailed, Target, probe

TIMEOUT = 5.0


def answer(date: str | None) -> Callable[[ssl.SSLSocket], None]:
    """A server that answers every request with this `Date`."""

    def serve(tls: ssl.SSLSocket) -> None:
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        while data := tls.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived) and event.stream_id is not None:
                    headers = [(":status", "404"), *([("date", date)] if date else [])]
                    connection.send_headers(event.stream_id, headers, end_stream=True)
            tls.sendall(connection.data_to_send())

    return serve


@contextmanager
def server(context: ssl.SSLContext, serve: Callable[[ssl.SSLSocket], None]) -> Iterator[int]:
    """Answers connections on a free port, one after the other, in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            try:
                with plain, context.wrap_socket(plain, server_side=True) as tls:
                    serve(tls)
            except (OSError, ProtocolError):
                continue

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def context(authority: trustme.CA, *protocols: str, name: str = "localhost") -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(made)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def failure(target: Target) -> ProbeFailed:
    with pytest.raises(ProbeFailed) as caught:
        probe(target, TIMEOUT)
    return caught.value


def test_what_can_be_used_is_reached(authority: trustme.CA, ca_file: str) -> None:
    """TLS version, time taken, and how far our clock is from theirs."""
    with server(context(authority, "h2"), answer(formatdate(time.time() - 600, usegmt=True))) as port:
        reached = probe(Target(f"https://localhost:{port}", ca_file), TIMEOUT)
    assert reached.tls.startswith("TLSv1.")
    assert 0 < reached.seconds < TIMEOUT
    assert reached.skew == pytest.approx(600, abs=5)


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_without_a_readable_date_it_is_reached_all_the_same(
    authority: trustme.CA, ca_file: str, date: str | None
) -> None:
    """The clock is an extra."""
    with server(context(authority, "h2"), answer(date)) as port:
        assert probe(Target(f"https://localhost:{port}", ca_file), TIMEOUT).skew is None


def test_one_that_hangs_up_after_tls_is_reached(authority: trustme.CA, ca_file: str) -> None:
    """As a service may that wants a client's certificate."""
    with server(context(authority, "h2"), lambda tls: None) as port:
        assert probe(Target(f"https://localhost:{port}", ca_file), TIMEOUT).skew is None


def test_http1_alone_will_not_do(authority: trustme.CA, ca_file: str) -> None:
    """Without ALPN `h2` there is no HTTP/2: typically something inspects TLS on the way."""
    with server(context(authority, "http/1.1"), lambda tls: None) as port:
        error = failure(Target(f"https://localhost:{port}", ca_file))
    assert "HTTP/2" in error.detail or "TLS failed" in error.detail
    with server(context(authority), lambda tls: None) as port:
        error = failure(Target(f"https://localhost:{port}", ca_file))
    assert "HTTP/2" in error.detail
    assert "inspects TLS" in error.remedy


def test_an_untrusted_certificate_is_refused(authority: trustme.CA) -> None:
    """The system's authorities do not know the simulator's: `ca_file` names it."""
    with server(context(authority, "h2"), answer(None)) as port:
        error = failure(Target(f"https://localhost:{port}"))
    assert "not trusted" in error.detail
    assert "ca_file" in error.remedy


def test_another_hosts_certificate_is_refused(authority: trustme.CA, ca_file: str) -> None:
    """The name is verified too."""
    with server(context(authority, "h2", name="elsewhere.example"), answer(None)) as port:
        error = failure(Target(f"https://localhost:{port}", ca_file))
    assert "not trusted" in error.detail


def test_what_speaks_no_tls_is_told(ca_file: str) -> None:
    """A plain port is not an endpoint."""

    def refuse(_tls: ssl.SSLSocket) -> None:
        raise AssertionError("no TLS comes about")

    with server(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), refuse) as port:  # it has no certificate to show
        assert "TLS failed" in failure(Target(f"https://localhost:{port}", ca_file)).detail


def test_a_closed_port_is_told(ca_file: str) -> None:
    """With the port, which a firewall has to let out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failure(Target(f"https://127.0.0.1:{port}", ca_file))
    assert f"port {port} refuses" in error.detail


def test_an_unknown_name_is_told() -> None:
    """Names under `.invalid` never exist (RFC 6761)."""
    assert "DNS" in failure(Target("https://push.invalid")).remedy


@pytest.mark.parametrize("origin", ["http://localhost", "localhost:443", "https://"])
def test_what_is_no_https_origin_is_told(origin: str) -> None:
    """Nothing is connected to."""
    assert "https" in failure(Target(origin)).detail


def test_unusable_files_are_told(tmp_path: Path) -> None:
    """A missing or malformed PEM file is the configuration's mistake, not the endpoint's."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    assert "ca_file" in failure(Target("https://localhost:1", str(tmp_path / "missing.pem"))).detail
    assert "ca_file" in failure(Target("https://localhost:1", str(empty))).detail
