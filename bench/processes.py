"""The processes of a run: started, waited for, measured by the operating system's accounting, and ended.

Needs Linux: CPU times and sizes are read from /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20

_SCHEDULED = 2
"""CPUCLOCK_SCHED of the kernel: user and system time of all threads."""

START_DEADLINE = 30.0
STOP_DEADLINE = 30.0


class ProcessFailed(Exception):
    """A process did not do what it was started for; the message shows the end of what it printed."""


class Missing(Exception):
    """This machine lacks something that the run needs; the message says what, and how to get it."""


class Child:
    """A process of ours with all processes that it started."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        announces: bool = False,
        cpu: int | None = None,
        environment: Mapping[str, str] | None = None,
        code: Path | None = None,
        program: str = sys.executable,
    ) -> None:
        """Start it, bound to processor `cpu` if given; what it prints goes to `NAME.log` in the folder.

        With `announces`, its standard output is kept for `first_line`. `code` is the folder that Python's `-m` finds
        modules in before any other; by default the working directory. `program` is Python unless said otherwise.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, *command],
                cwd=code,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if announces else log,
                stderr=log,
                # Its own group: Ctrl-C reaches this process alone, which then ends its children in order.
                process_group=0,
                env={**os.environ, **(environment or {})},
                preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def first_line(self) -> dict[str, Any]:
        """The JSON line with which it says that it is ready.

        Raises:
            ProcessFailed: it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self.failure("ended before it was ready")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def failure(self, what: str) -> ProcessFailed:
        tail = self.log.read_text("utf-8", "replace").splitlines()[-15:]
        return ProcessFailed("\n".join([f"{self.name} {what}; the end of its log:", *tail]))

    def family(self) -> list[int]:
        """Its process id and those of all its descendants that live."""
        return [self.pid, *_descendants(self.pid)]

    def usage(self) -> Usage:
        return usage(self.family())

    def wait(self) -> int:
        """Wait until it has ended by itself, and return its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            for pid in self.family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Usage(NamedTuple):
    """What processes have used so far."""

    cpu_seconds: float
    """User and system, dead children that were waited for included."""
    rss_mib: float
    """Resident now, of the largest process."""
    peak_mib: float
    """Resident at most, of the largest process."""


def usage(pids: Sequence[int]) -> Usage:
    cpu = 0.0
    resident: list[float] = [0.0]
    peak: list[float] = [0.0]
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):  # gone, or dead and not yet waited for
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # A process's own CPU clock (clock_getcpuclockid(3)) counts nanoseconds, where stat counts hundredths.
            cpu += time.clock_gettime((~pid << 3) | _SCHEDULED) + sum(map(int, fields[13:15])) / TICKS
            resident.append(int(fields[21]) * PAGE_MIB)
            status = Path(f"/proc/{pid}/status").read_text()
            peak.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
    return Usage(cpu, max(resident), max(peak))


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def wait_until(condition: Any, what: str, child: Child, deadline: float = START_DEADLINE) -> Any:
    """Ask again and again until the answer is true, and return it.

    Raises:
        ProcessFailed: the process ended, or the deadline passed.
    """
    end = time.monotonic() + deadline
    while True:
        answer = condition()
        if answer:
            return answer
        if not child.running:
            raise child.failure("ended")
        if time.monotonic() > end:
            raise child.failure(f"was not {what} within {deadline:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: with everything cleaned up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
