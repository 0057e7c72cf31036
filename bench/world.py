"""A gateway and the simulators it talks to, started for a run and ended with it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

import aiohttp
import msgspec

from bench.api import Api
from bench.ledger import Ledger
from bench.processes import Child, wait_until
from bench.simulators import Script

RESTART_DEADLINE = 40.0
"""Seconds in which the workers of a killed parent have left."""


CONTROL_DEADLINE = 60.0
"""Seconds for the simulators to do what they are told."""


class World:
    """Use as a context: everything it starts is ended when it is left, whatever happened inside."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        mode: str,
        workers: int = 1,
        scripts: Mapping[str, Script] | None = None,
        simulator_options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        gateway_cpu: int | None = None,
        simulator_cpu: int | None = None,
        folder: Path | None = None,
        code: Path | None = None,
        serve: bool = True,
    ) -> None:
        """`environment` is added to the gateway's; `folder` is kept if given, else a temporary one is used.

        `code` is the project's root that the gateway runs from, this one's by default. Without `serve` there are the
        simulators alone.
        """
        self.services = tuple(services)
        self._mode = mode
        self.workers = workers
        self._scripts = scripts or {}
        self._options = tuple(simulator_options)
        self._environment = environment
        self._gateway_cpu = gateway_cpu
        self._simulator_cpu = simulator_cpu
        self._code = code
        self._serve = serve
        self._keep = folder is not None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="carillon-"))
        self.ready: dict[str, Any] = {}
        """What the simulators said of themselves: ports, endpoints, control address."""

    def __enter__(self) -> World:
        try:
            self.simulators = self._start_simulators()
            if self._serve:
                self.gateway = self._start_gateway()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("gateway", "simulators"):
            child = getattr(self, name, None)
            if child is not None:
                child.stop()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start_simulators(self) -> Child:
        command = ["-m", "bench.simulators", "--services", ",".join(self.services), "--mode", self._mode]
        command += ["--folder", str(self.folder), *self._options]
        child = Child("simulators", command, self.folder, announces=True, cpu=self._simulator_cpu)
        self.simulators = child
        self.ready = child.first_line()
        for service, script in self._scripts.items():
            self.play(service, script)
        return child

    def _start_gateway(self) -> Child:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = self.folder / "carillon.toml"
        port = self.url.rpartition(":")[2]
        ours = f'workers = {self.workers}\n[http]\nport = {port}\n[queue]\npath = "queue/carillon.db"\n'
        config.write_text(ours + (self.folder / "simulators.toml").read_text())
        self.gateway = self._serve_gateway()
        wait_until(lambda: _answers(f"{self.url}/readyz"), "ready", self.gateway)
        return self.gateway

    def _serve_gateway(self) -> Child:
        command = ["-m", "gateway", "serve", "--config", str(self.folder / "carillon.toml")]
        return Child(
            "gateway", command, self.folder, cpu=self._gateway_cpu, environment=self._environment, code=self._code
        )

    def restart_gateway(self, former: Sequence[int]) -> None:
        """Start the gateway again once all processes of the former one are gone: orphaned workers drain."""
        self.gateway.stop()
        end = time.monotonic() + RESTART_DEADLINE
        while any(_exists(pid) for pid in former):
            if time.monotonic() > end:
                raise self.gateway.failure(f"left workers behind that were not gone after {RESTART_DEADLINE:g} s")
            time.sleep(0.05)
        self.gateway = self._serve_gateway()
        wait_until(lambda: _answers(f"{self.url}/readyz"), "ready", self.gateway)

    def play(self, service: str, script: Script) -> None:
        """Have a simulator play another script from now on."""
        self.control("POST", f"script?service={service}", msgspec.json.encode(script))

    def control(self, method: str, path: str, body: bytes = b"", deadline: float = CONTROL_DEADLINE) -> bytes:
        """Ask the simulators' control listener; `deadline` is in seconds."""
        from urllib.request import Request

        request = Request(f"{self.ready['control']}/{path}", data=body or None, method=method)
        with urlopen(request, timeout=deadline) as response:
            answer: bytes = response.read()
        return answer

    def taken(self, service: str) -> tuple[int, int]:
        """How many a simulator accepted, by different keys, and how often it did so once more; for any number."""
        distinct = duplicates = 0
        with urlopen(f"{self.ready['control']}/ledger?service={service}", timeout=600) as lines:
            for line in lines:
                accepted = int(line.rpartition(b" ")[2])
                distinct += accepted > 0
                duplicates += max(0, accepted - 1)
        return distinct, duplicates

    def arrivals(self, service: str, keys: Iterable[str]) -> dict[str, float]:
        """Journal key -> when a simulator first saw it, in monotonic seconds."""
        lines = self.control("POST", f"arrivals?service={service}", "\n".join(keys).encode()).decode().splitlines()
        return {key: float(at) for key, _, at in (line.rpartition(" ") for line in lines)}

    def api(self, session: aiohttp.ClientSession) -> Api:
        return Api(self.url, session, self.credential)

    @property
    def key(self) -> str | None:
        """The gateway's first key; None where it asks for none."""
        file = self.folder / "queue/carillon.key"
        return file.read_text().strip() if file.exists() else None

    @property
    def credential(self) -> dict[str, str]:
        """The header that opens the gateway."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def enter_taken(self, ledger: Ledger) -> None:
        """Enter all the services' journals into a ledger."""
        for service in self.services:
            taken = {}
            for line in self.control("GET", f"ledger?service={service}").decode().splitlines():
                key, _, accepted = line.split(" ")
                if int(accepted):
                    taken[key] = int(accepted)
            ledger.taken(taken)


def cpus() -> tuple[int | None, int | None]:
    """One processor for the gateway and another for everything else, where there are two."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
