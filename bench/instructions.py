"""Instructions that processes execute, counted by the processor where it lets us: `perf stat`.

They hardly depend on what else the machine does, which is why `bench.guard` likes them better than seconds. Virtual
machines often have no such counter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence

EVENT = "instructions"


def available(event: str = EVENT) -> bool:
    """Whether this machine counts them, and lets us."""
    if shutil.which("perf") is None:
        return False
    counting = Counting([os.getpid()], event)
    return counting.stop() is not None


class Counting:
    """Counts from its making until `stop`, in all threads of the processes."""

    def __init__(self, pids: Sequence[int], event: str = EVENT) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._result = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `stop` reads and closes it
        command = ["perf", "stat", "-x,", "-e", event, "-p", ",".join(map(str, pids))]
        # It starts disabled and answers to orders, so that what is counted begins and ends where we say.
        command += ["--delay=-1", f"--control=fd:{orders},{answers}", f"--log-fd={self._result.fileno()}"]
        self._process = subprocess.Popen(
            command, pass_fds=(orders, answers, self._result.fileno()), stderr=subprocess.DEVNULL
        )
        os.close(orders)
        os.close(answers)
        self._order(b"enable\n")

    def stop(self) -> float | None:
        """What was counted, or None where the event cannot be."""
        self._order(b"disable\n")
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        os.close(self._orders)
        os.close(self._answers)
        with self._result as result:
            result.seek(0)
            return parse(result.read())

    def _order(self, order: bytes) -> None:
        try:
            os.write(self._orders, order)
            os.read(self._answers, 16)  # "ack", or nothing once perf has ended
        except BrokenPipeError:
            pass  # it refused the event; `parse` finds no number


def parse(text: str) -> float | None:
    """The sum of `perf stat -x,`: value, unit, event and more on each line; `<not supported>` is no value."""
    values = [line.split(",")[0] for line in text.splitlines() if "," in line]
    try:
        return sum(map(float, values)) if values else None
    except ValueError:
        return None
