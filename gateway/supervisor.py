"""The parent of `serve --workers N`: starts N equal processes, starts again what dies, passes signals on.

It serves nothing and holds nothing, so it is small and does not fail. Workers are separate programs in process groups
of their own: Ctrl-C reaches only the parent, which says it once. Each worker holds the read end of a pipe whose other
end is the parent's; when the parent is gone, however that came, the pipe ends and the worker drains and leaves.

A restarted worker has its predecessor's number, and takes over at start what that one had leased.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

_LOG = structlog.get_logger()

GRACE = 25.0
"""Seconds for workers to drain (20 of them for notifications in flight): Kubernetes kills after 30."""
SETTLED = 5.0
"""A worker that lived this long had started well; what dies sooner is started again with back-off."""
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
HOPELESS = 5
"""Deaths at once, in a row and of every worker, with none ever settled: a mistake that no restart cures."""


class Supervisor:
    """Keeps `workers` processes alive until told to stop.

    Args:
        command: from a worker's number and the file descriptor it is to give to `follow_parent`, its command line.
        workers: how many, numbered from 0.
        restarted: called for each death that is followed by a new start.
        grace: seconds from the first signal until what still runs is killed.
        settled: see `SETTLED`.
        first_delay: see `FIRST_DELAY`; it doubles up to `LONGEST_DELAY`.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        workers: int,
        *,
        restarted: Callable[[], None] = lambda: None,
        grace: float = GRACE,
        settled: float = SETTLED,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self._command = command
        self._restarted = restarted
        self._grace = grace
        self._settled = settled
        self._first_delay = first_delay
        self._processes: dict[int, Process] = {}
        self._failures = [0] * workers
        self._any_settled = False
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._status = 0

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; a second one kills at once. Call it in the main thread.

        Returns:
            The exit status: 0 when every worker left by itself in time; 128 + signal after a second signal; 1 when a
            worker had to be killed or failed while stopping; a worker's own status when none could be started.
        """
        loop = asyncio.get_running_loop()
        self._read_end, write_end = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number)
        try:
            async with asyncio.TaskGroup() as group:
                reaper = group.create_task(self._kill_late())
                await asyncio.gather(*(self._keep(worker) for worker in range(len(self._failures))))
                reaper.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            os.close(write_end)
            os.close(self._read_end)
        return self._status

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on; at the second, kill."""
        if self._stopping.is_set():
            self._status = 128 + number
            self._send(signal.SIGKILL)
            return
        _LOG.info("gateway.draining", signal=number.name, workers=len(self._processes))
        self._signal = number
        self._stopping.set()
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):  # it left, and its task has not run yet
                process.send_signal(number)

    async def _kill_late(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._grace)
        for worker in self._processes:
            _LOG.warning("worker.killed", worker=worker, reason=f"still running after {self._grace:g} s")
        self._send(signal.SIGKILL)

    async def _keep(self, worker: int) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._run_once(worker)
            if self._stopping.is_set():
                # A worker that had no handler yet went by the signal itself: it had nothing to finish.
                self._status = self._status or int(status not in (0, -self._signal))
                return
            lived = time.monotonic() - began
            _LOG.warning("worker.died", worker=worker, status=_words(status), after_seconds=round(lived, 1))
            if lived >= self._settled:
                self._any_settled, self._failures[worker] = True, 0
            else:
                self._failures[worker] += 1
            if self._hopeless():
                self._give_up(status)
                return
            await self._pause(self._failures[worker])
            if not self._stopping.is_set():
                self._restarted()

    async def _run_once(self, worker: int) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command(worker, self._read_end),
            stdin=DEVNULL,
            pass_fds=(self._read_end,),
            process_group=0,
        )
        self._processes[worker] = process
        _LOG.info("worker.started", worker=worker, pid=process.pid)
        if self._stopping.is_set():  # the signal came while it was being started, and did not reach it
            self._send(self._signal)
        try:
            return await process.wait()
        finally:
            del self._processes[worker]

    async def _pause(self, failures: int) -> None:
        if failures:
            delay = min(LONGEST_DELAY, self._first_delay * 2 ** (failures - 1))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    def _hopeless(self) -> bool:
        return not self._any_settled and min(self._failures) >= HOPELESS

    def _give_up(self, status: int) -> None:
        _LOG.error("workers.give_up", reason=f"no worker lives longer than {self._settled:g} s", last=_words(status))
        self._stopping.set()
        self._status = status if status > 0 else 1
        self._send(signal.SIGTERM)


def _words(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def follow_parent(read_end: int, grace: float = GRACE) -> None:
    """In a worker: leave when the parent is gone, by SIGTERM to itself, and by SIGKILL if that does not end it."""

    def wait() -> None:
        os.read(read_end, 1)  # nothing is ever written: this returns when the last writer is gone
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="follow-parent", daemon=True).start()
