"""Gateways in one group on a real Kafka, with the simulators they send to and the Redis they share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.request import Request, urlopen

import aiohttp

from bench.api import Api
from bench.kafka import Brokers
from bench.processes import Child, Missing, wait_until
from bench.simulators import Script
from bench.world import World, free_port

REDIS = ("redis-server", "valkey-server")


class Group:
    """Use as a context. Gateways are named by numbers from 0; none is started before `start`."""

    def __init__(
        self,
        folder: Path,
        services: Sequence[str],
        *,
        mode: str,
        nodes: int = 1,
        partitions: int = 12,
        scripts: Mapping[str, Script] | None = None,
        simulator_options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        simulator_cpu: int | None = None,
    ) -> None:
        """`environment` is added to every gateway's."""
        self.folder = folder
        self.prefix = f"g-{uuid.uuid4().hex[:8]}"
        self.world = World(
            services,
            mode=mode,
            scripts=scripts,
            simulator_options=simulator_options,
            simulator_cpu=simulator_cpu,
            folder=folder,
            serve=False,
        )
        self.brokers = Brokers(folder / "kafka", nodes)
        self._replication = min(nodes, 3)
        self._partitions = partitions
        self._more = environment or {}
        self._cpus: dict[int, int | None] = {}
        self.gateways: dict[int, Child] = {}
        self.urls: dict[int, str] = {}

    def __enter__(self) -> Group:
        try:
            self._redis_port, self.redis = self._start_redis()
            self.brokers.__enter__()
            self.world.__enter__()
            self.carillon("topics", "create")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for gateway in self.gateways.values():
            if gateway.running:
                self._signal(gateway, signal.SIGCONT)
            gateway.stop()
        self.world.__exit__(None, None, None)
        self.brokers.__exit__(None, None, None)
        if (redis := getattr(self, "redis", None)) is not None:
            redis.stop()

    def carillon(self, *arguments: str) -> str:
        """What the command line says, on these brokers.

        Raises:
            Missing: it failed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment()},
            check=False,
        )
        if done.returncode:
            raise Missing(f"carillon {' '.join(arguments)}: {done.stderr[-1000:]}")
        return done.stdout

    def environment(self, name: str = "bench") -> dict[str, str]:
        """Of the gateway with this name."""
        return {
            "CARILLON_KAFKA__SERVERS": json.dumps(self.brokers.servers),
            "CARILLON_KAFKA__PREFIX": self.prefix,
            "CARILLON_KAFKA__INSTANCE": name,
            "CARILLON_KAFKA__PARTITIONS": str(self._partitions),
            "CARILLON_KAFKA__REPLICATION": str(self._replication),
            "CARILLON_KAFKA__MIN_INSYNC": str(max(1, self._replication - 1)),
            "CARILLON_REDIS__URL": f"redis://127.0.0.1:{self._redis_port}",
            **self._more,
        }

    def start(self, number: int, cpu: int | None = None) -> None:
        """Start a gateway, on its former processor and with what it left if it is not the first time."""
        folder = self.folder / f"gateway-{number}"
        if number not in self.urls:
            folder.mkdir()
            self.urls[number] = f"http://127.0.0.1:{free_port()}"
            self._cpus[number] = cpu
            port = self.urls[number].rpartition(":")[2]
            ours = f'[http]\nport = {port}\n[queue]\npath = "queue/carillon.db"\n'
            apps = (self.folder / "simulators.toml").read_text()
            (folder / "carillon.toml").write_text(ours + apps)
        command = ["-m", "gateway", "serve", "--config", str(folder / "carillon.toml")]
        self.gateways[number] = Child(
            f"gateway-{number}",
            command,
            self.folder,
            cpu=self._cpus[number],
            environment=self.environment(f"gateway-{number}"),
        )

    def await_group(self, numbers: Sequence[int], deadline: float = 60.0) -> None:
        """Wait until these gateways serve and have read their partitions."""
        for number in numbers:
            url, child = self.urls[number], self.gateways[number]
            wait_until(
                lambda url=url, number=number: _in_group(url, self.credential(number)), "in the group", child, deadline
            )

    def leave(self, number: int) -> None:
        """Stop one as an operator does."""
        self.gateways[number].stop()

    def kill(self, number: int) -> None:
        """kill -9 of all its processes."""
        child = self.gateways[number]
        for pid in child.family():
            os.kill(pid, signal.SIGKILL)
        child.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in child.family()):
            time.sleep(0.01)

    def pause(self, number: int) -> None:
        """SIGSTOP to all its processes."""
        self._signal(self.gateways[number], signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        self._signal(self.gateways[number], signal.SIGCONT)

    def api(self, number: int, session: aiohttp.ClientSession) -> Api:
        return Api(self.urls[number], session, self.credential(number))

    def credential(self, number: int) -> dict[str, str]:
        """The header that opens a gateway: each machine has its own first key."""
        file = self.folder / f"gateway-{number}/queue/carillon.key"
        return {"Authorization": f"Bearer {file.read_text().strip()}"} if file.exists() else {}

    def _signal(self, child: Child, number: signal.Signals) -> None:
        for pid in child.family():
            os.kill(pid, number)

    def _start_redis(self) -> tuple[int, Child]:
        program = next((found for name in REDIS if (found := shutil.which(name))), None)
        if program is None:
            raise Missing("gateways in a group share a Redis, which is not here: apt-get install redis-server")
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        child = Child("redis", [*options, "--appendonly", "no"], self.folder, program=program)
        wait_until(lambda: _listens(port), "listening", child)
        return port, child


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _in_group(url: str, credential: Mapping[str, str]) -> bool:
    try:
        with urlopen(Request(f"{url}/readyz", headers=dict(credential)), timeout=2) as response:
            parts = json.load(response)["parts"]
    except OSError:
        return False
    return bool(parts.get("kafka", {}).get("ok"))
