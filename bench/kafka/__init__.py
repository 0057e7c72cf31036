"""Apache Kafka itself, for tests and benchmarks: its jars from Maven Central, and brokers that a run starts and ends.

`kafka.sh` beside this does the work; the jars are fetched once into a cache folder, by the versions of `pom.xml`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from bench.processes import Missing

HERE = Path(__file__).parent
SCRIPT = HERE / "kafka.sh"
FIRST_PORT, LAST_PORT = 21_000, 30_000
"""Below those that outgoing connections are given."""
CONTROLLER = 1_000
"""From a broker's port to its controller's."""
HEAP = "384m"


def version() -> str:
    """Of the broker."""
    found = re.search(r"<kafka.version>(.+?)</kafka.version>", (HERE / "pom.xml").read_text())
    assert found is not None
    return found[1]


def library() -> Path:
    """Where the jars are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("KAFKA_LIB") or cache / "carillon" / f"kafka-{version()}")


def fetch() -> Path:
    """See that the jars are there; the first time that takes a minute.

    Raises:
        Missing: without Java, or where the jars are neither here nor can be fetched.
    """
    if shutil.which("java") is None:
        raise Missing("Kafka needs Java 17 or newer: apt-get install openjdk-17-jre-headless")
    lib = library()
    if not list(lib.glob("kafka_2.13-*.jar")):
        if shutil.which("mvn") is None:
            raise Missing("the jars of Kafka are fetched by Maven, which is not here: apt-get install maven")
        done = _run("fetch")
        if done.returncode:
            raise Missing(f"the jars of Kafka could not be fetched: {done.stderr[-500:]}")
    return lib


def _run(*arguments: str, heap: str = HEAP, extra: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "KAFKA_LIB": str(library()),
        "KAFKA_HEAP": heap,
        "KAFKA_EXTRA": extra,
        "KAFKA_OWNER": str(os.getpid()),
        "KAFKA_CPORT_OFFSET": str(CONTROLLER),
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, check=False
    )


class Brokers:
    """One broker, or a cluster of three of which any may die. Use as a context."""

    def __init__(self, folder: Path, nodes: int = 1, *, extra: str = "") -> None:
        """`extra` are lines of `server.properties`."""
        fetch()
        self._folder = folder
        self._extra = extra
        self.nodes = list(range(1, nodes + 1))
        self._port = _free_ports(nodes)
        self.servers = [f"127.0.0.1:{self._port + number - 1}" for number in self.nodes]

    def __enter__(self) -> Brokers:
        self._do("cluster-format", str(self._folder), str(self._port), str(len(self.nodes)))
        try:
            self._do("cluster-start", str(self._folder))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run("cluster-kill", str(self._folder))

    def kill(self, node: int) -> None:
        """End one at once; its data stays."""
        self._do("kill", str(self._folder / str(node)))

    def start(self, node: int) -> None:
        """Start one that was killed."""
        self._do("start", str(self._folder / str(node)))

    def pids(self) -> list[int]:
        """Of those that run."""
        files = [self._folder / str(node) / "pid" for node in self.nodes]
        return [int(file.read_text()) for file in files if file.exists()]

    def stored(self, prefix: str) -> dict[str, int]:
        """Bytes in the logs of the topics that begin so, by topic, over all replicas."""
        sizes: dict[str, int] = {}
        for log in self._folder.glob(f"*/data/{prefix}*/*.log"):
            topic = log.parent.name.rpartition("-")[0]
            sizes[topic] = sizes.get(topic, 0) + log.stat().st_size
        return sizes

    def _do(self, *arguments: str) -> None:
        done = _run(*arguments, extra=self._extra)
        if done.returncode:
            raise Missing(f"kafka.sh {arguments[0]} failed: {done.stderr[-1000:]}")


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on, nor on those of their controllers."""
    while True:
        first = random.randrange(FIRST_PORT, LAST_PORT - count)
        if all(_free(first + number + offset) for number in range(count) for offset in (0, CONTROLLER)):
            return first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
