"""One run of a peer's program against a sink of its own, measured between the marks that it prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.request import urlopen

import jwt

from bench.campaign import MESSAGE
from bench.peers.building import ROOT
from bench.peers.catalogue import Peer
from bench.processes import Child, ProcessFailed, usage
from bench.simulators.targets import targets

DEADLINE = 600.0
"""Seconds from a program's start to its end."""

VALUES = {"product": "Running shoes 123", "pct": "25", "sku": "A123456"}


class Measured(NamedTuple):
    """What one run showed."""

    cpu_us: float
    """User and system, per notification."""
    per_second: float
    rss_mib: float
    """Resident at most."""
    sent: int
    accepted: int
    """By what the program says."""
    taken: int
    """By what the sink says, the warm-up not counted."""
    sink_utilisation: float

    @property
    def complete(self) -> bool:
        """Whether both sides saw every notification, once."""
        return self.sent == self.accepted == self.taken


def run(peer: Peer, command: Sequence[str], count: int, *, cpu: int | None, sink_cpu: int | None) -> Measured:
    """Run it with `count` notifications after its warm-up.

    Raises:
        ProcessFailed: the program or the sink ended early, or took too long.
    """
    folder = Path(tempfile.mkdtemp(prefix="carillon-peer-"))
    options = ["--services", peer.service, "--mode", peer.mode, "--folder", str(folder), "--decrypt-every", "0"]
    try:
        sink = Child("simulators", ["-m", "bench.simulators", *options], folder, announces=True, cpu=sink_cpu)
        try:
            ready = sink.first_line()
            environment = _environment(peer, folder, ready, count)
            with Program(peer.name, command, folder, environment, cpu) as program:
                return _measure(peer, program, sink, ready["control"], count)
        finally:
            sink.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(peer: Peer, program: Program, sink: Child, control: str, count: int) -> Measured:
    program.expect("ready")
    before, sink_before = program.cpu_seconds(), sink.usage().cpu_seconds
    taken_before = _taken(control, peer.service)
    began = time.monotonic()
    program.proceed()
    accepted, *driven_mib = program.expect("done").split()
    wall = time.monotonic() - began
    cpu = program.cpu_seconds() - before
    rss = float(driven_mib[0]) if driven_mib else program.peak_mib()
    sink_cpu = sink.usage().cpu_seconds - sink_before
    taken = _taken(control, peer.service) - taken_before
    program.proceed()
    return Measured(cpu / count * 1e6, count / wall, rss, count, int(accepted), taken, sink_cpu / wall)


class Program:
    """A peer's process. It says `ready` when it is warm, is told to go on, and says `done N` for N accepted.

    One that has another program send adds that one's MiB.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], cpu: int | None
    ) -> None:
        self._name = name
        self._log = folder / "peer.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **environment},
                text=True,
                preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
            )
        self._watchdog = threading.Timer(DEADLINE, self._process.kill)
        self._watchdog.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()

    def expect(self, mark: str) -> str:
        """Wait for a mark and return what follows it on its line.

        Raises:
            ProcessFailed: it ended before, or was ended for taking too long.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, rest = line.rstrip().partition(" ")
            if word == mark:
                return rest
        tail = self._log.read_text("utf-8", "replace").splitlines()[-15:]
        raise ProcessFailed("\n".join([f"{self._name} ended before it was {mark}; the end of its log:", *tail]))

    def proceed(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def cpu_seconds(self) -> float:
        return usage([self._process.pid]).cpu_seconds

    def peak_mib(self) -> float:
        return usage([self._process.pid]).peak_mib


def _environment(peer: Peer, folder: Path, ready: dict[str, Any], count: int) -> dict[str, str]:
    """The workload as `README.md` describes it."""
    described = json.loads((folder / "simulators.json").read_text())["services"][peer.service]
    settings, endpoint = described["settings"], described["endpoints"][0]
    host, _, port = endpoint.removeprefix("https://").rpartition(":")
    (folder / "targets").write_bytes(b"\n".join(_targets(peer, peer.warm_up + count, endpoint)))
    (folder / "payload").write_text(payload(peer.service))
    environment = {
        "SINK": f"{host}:{port}",
        "SINK_HOST": host,
        "SINK_PORT": port,
        "CA_FILE": ready["ca_file"],
        "SSL_CERT_FILE": ready["ca_file"],
        "REQUESTS_CA_BUNDLE": ready["ca_file"],
        "TARGETS": str(folder / "targets"),
        "PAYLOAD": str(folder / "payload"),
        "WARM_UP": str(peer.warm_up),
        "PYTHONPATH": str(ROOT),
    }
    return environment | _CREDENTIALS[peer.service](settings)


def _targets(peer: Peer, count: int, endpoint: str) -> list[bytes]:
    members = targets(peer.service, count, 1, endpoints=[endpoint])
    if peer.service == "webpush":
        return [member.removeprefix(b'"subscription":') for member in members]
    return [member.removeprefix(b'"token":').strip(b'"') for member in members]


def payload(service: str) -> str:
    """The message of our own campaigns for one recipient, some 270 bytes as the service takes it."""
    text = json.dumps(MESSAGE)
    for name, value in VALUES.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    message = json.loads(text)
    alert = {"title": message["title"], "body": message["body"]}
    data = {**message["data"], "link": message["link"]}
    documents = {
        "apns": {"aps": {"alert": alert}, **data},
        "fcm": {"notification": alert, "data": data},
        "webpush": {**alert, **data},
    }
    return json.dumps(documents[service], separators=(",", ":"))


def _apns(settings: dict[str, str]) -> dict[str, str]:
    claims = {"iss": settings["team_id"], "iat": int(time.time())}
    key = Path(settings["key_file"]).read_text()
    token = jwt.encode(claims, key, algorithm="ES256", headers={"kid": settings["key_id"]})
    return {
        "KEY_FILE": settings["key_file"],
        "KEY_ID": settings["key_id"],
        "TEAM_ID": settings["team_id"],
        "TOPIC": settings["topic"],
        "PROVIDER_TOKEN": token,
    }


_CREDENTIALS: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "apns": _apns,
    "fcm": lambda settings: {"SERVICE_ACCOUNT": settings["service_account_file"]},
    "webpush": lambda settings: {"VAPID_KEY_FILE": settings["vapid_key_file"], "SUBJECT": settings["subject"]},
}


def _taken(control: str, service: str) -> int:
    with urlopen(f"{control}/stats", timeout=60) as response:
        stats = json.load(response)
    return int(stats["services"][service]["requests"])
