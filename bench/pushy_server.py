"""pushy's benchmark server (Java) as a sink that is not of our making: every request answered 200.

`Sink.java` beside pushy's sender adds a journal of the ids that came in: the service's side of the ledger.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

from bench.peers import building
from bench.processes import Child, Missing
from bench.simulators import Certificates

_MAIN = "com.eatthepath.pushy.apns.server.Sink"


class PushyServer:
    """Use as a context. `process` is what it costs, `origin` where it listens."""

    def __init__(self, folder: Path, port: int, cpu: int | None) -> None:
        """
        Raises:
            Missing: Java or Maven is missing, or the program cannot be built.
        """
        try:
            self._program, *options, _ = building.maven("pushy")
        except building.CannotBuild as error:
            raise Missing(f"pushy's server cannot be built: {error}") from error
        self.origin = f"https://127.0.0.1:{port}"
        self._options = options
        self._journal = folder / "pushy-journal"
        self._folder = folder
        self._port = port
        self._cpu = cpu

    def __enter__(self) -> PushyServer:
        tls = Certificates.make(self._folder)
        arguments = [str(self._port), str(tls.certificate_file), str(tls.key_file), str(self._journal)]
        command = [*self._options, _MAIN, *arguments]
        self.process = Child("pushy", command, self._folder, announces=True, cpu=self._cpu, program=self._program)
        self.process.first_line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    def taken(self) -> Counter[str]:
        """`apns-id` -> times answered 200, once it has ended: the journal is written in portions."""
        return Counter(self._journal.read_text().splitlines())
