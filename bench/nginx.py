"""Debian's nginx as a sink that is not of our making: HTTP/2 over TLS, every request answered 200.

Its access log is the service's side of the ledger.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from types import TracebackType

from bench.processes import Child, Missing, wait_until
from bench.simulators import Certificates

_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))

_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    log_format ledger '$http_apns_id $status';
    access_log {folder}/nginx-access.log ledger buffer=256k;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {tls.certificate_file};
        ssl_certificate_key {tls.key_file};
        http2_max_concurrent_streams 1000;
        keepalive_requests 1000000000;
        location / {{ return 200; }}
    }}
}}
"""
"""A thousand requests a connection is nginx's default, after which it says GOAWAY; push services keep theirs."""


class Nginx:
    """Use as a context. `process` is what it costs, `origin` where it listens."""

    def __init__(self, folder: Path, port: int, cpu: int | None) -> None:
        """
        Raises:
            Missing: nginx is not installed.
        """
        program = shutil.which("nginx", path=_PLACES)
        if program is None:
            raise Missing("nginx is not installed; Debian's will do: apt-get install nginx-core")
        self.origin = f"https://127.0.0.1:{port}"
        self._program = program
        self._folder = folder
        self._port = port
        self._cpu = cpu

    def __enter__(self) -> Nginx:
        tls = Certificates.make(self._folder)
        configuration = self._folder / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=self._folder, port=self._port, tls=tls))
        command = ["-c", str(configuration), "-p", str(self._folder)]
        self.process = Child("nginx", command, self._folder, cpu=self._cpu, program=self._program)
        wait_until((self._folder / "nginx.pid").exists, "ready", self.process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def taken(self) -> Counter[str]:
        """`apns-id` -> times answered 200, once it has ended: the log is written in portions."""
        lines = (self._folder / "nginx-access.log").read_text().splitlines()
        return Counter(line.removesuffix(" 200") for line in lines if line.endswith(" 200"))
