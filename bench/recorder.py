"""What a gateway's worker has on the wire, read from its flight recorder while it stands still."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from gateway.model import State
from gateway.queue import flight

STOP_DEADLINE = 2.0


def freeze(pid: int) -> int:
    """Stop a worker (SIGSTOP) and count what it has on the wire; 0 for a process that is gone or records nothing."""
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, signal.SIGSTOP)
        _wait_until_stopped(pid)
        return sum(_on_wire(path) for path in _recorders(pid))
    return 0


def kill(pid: int) -> int:
    """Freeze a process, kill it (SIGKILL), and return what it had on the wire."""
    on_wire = freeze(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return on_wire


def _recorders(pid: int) -> set[Path]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = Path(os.readlink(link))
            if "-flight-" in target.name:
                found.add(target)
    return found


def _wait_until_stopped(pid: int) -> None:
    """A signal takes effect when the process next leaves the kernel, which an fsync can delay."""
    end = time.monotonic() + STOP_DEADLINE
    while time.monotonic() < end and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
        time.sleep(0.0005)


def _on_wire(path: Path) -> int:
    return sum(states.count(State.SENT) for states in flight.read(path, dead=False).states.values())
