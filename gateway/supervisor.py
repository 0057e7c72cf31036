"""The parent of all workers: starts N equal processes, starts again what dies, replaces them, passes signals on.

It serves nothing and holds nothing but the listening sockets, so it is small and does not fail. Workers are separate
programs in process groups of their own: Ctrl-C reaches only the parent, which says it once. Each worker has a line to
the parent, a socket on which it says that it is ready, and each second that it lives; who falls silent is killed, as
it may hold what the others wait for. When the parent is gone, however that came, the line ends and the worker drains
and leaves.

A worker fills one of N places. What dies is started again with its number, and takes over at start what that one had
leased. SIGHUP replaces the workers one after the other: a new one is started, and only when it is ready its
predecessor is told to leave (SIGHUP to it) and waited for. Numbers are those from 0 that no living worker has, so
N + 1 are ever in use.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import structlog

_LOG = structlog.get_logger()

GRACE = 25.0
"""Seconds for workers to drain (20 of them for notifications in flight): Kubernetes kills after 30."""
START_DEADLINE = 30.0
"""Seconds for a replacement to be ready; after that the former worker stays."""
SETTLED = 5.0
"""A worker that lived this long had started well; what dies sooner is started again with back-off."""
SILENCE = 60.0
"""Seconds without a sign of life after which a worker hangs, in a loop without end or stopped with a lock in its hands,
and is killed."""
LOOKS = 60
"""At the signs of life, in so many seconds: what counts are looks, so that a parent that stood still itself, with the
whole machine or alone, kills nobody for it."""
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
HOPELESS = 5
"""Deaths at once, in a row and of every worker, with none ever settled or ready: a mistake that no restart cures."""
WRONG_USE = 2
"""A worker's exit status for settings or a queue that cannot be used, which it has told in words."""

_READY = b"r"
_ALIVE = b"."
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Worker:
    """A process, its line to us, and who fills its place after it."""

    def __init__(self, number: int, process: Process, line: socket.socket) -> None:
        self.number = number
        self._process = process
        self._line = line
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it said so; False once it ended instead."""
        self._listening = asyncio.ensure_future(self._listen())
        self._heard = False
        self._silent = 0
        self.exited = asyncio.ensure_future(self._wait())
        """Its exit status."""
        self.relieved: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        """Who fills its place from now on."""

    async def _listen(self) -> None:
        with suppress(OSError):
            while said := await asyncio.get_running_loop().sock_recv(self._line, 1024):
                self._heard = True
                if _READY in said:
                    self.ready.set_result(True)
        if not self.ready.done():
            self.ready.set_result(False)

    def look(self) -> int:
        """How many looks in a row, with this one, found that it had said nothing. Until it is ready it need not."""
        self._silent = 0 if self._heard or not self.ready.done() else self._silent + 1
        self._heard = False
        return self._silent

    async def _wait(self) -> int:
        status = await self._process.wait()
        await asyncio.wait([self._listening])  # its end of the line went with it
        self._line.close()
        return status

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it left, and nobody has noticed yet
            self._process.send_signal(number)


class Supervisor:
    """Keeps `workers` processes alive until told to stop.

    Args:
        command: from a worker's number and the file descriptor of its line (see `follow_parent`), its command line.
        workers: how many.
        listeners: sockets that every worker inherits, under the same descriptors. They are closed when stopping begins.
        renew: called by SIGHUP before anything is replaced; what is wrong with the new settings, or None.
        restarted: called for each death that is followed by a new start.
        tell: called with lines for systemd, and at least each second while this process goes round (see
            `gateway.systemd`).
        grace: seconds from the first signal until what still runs is killed.
        settled: see `SETTLED`.
        silence: see `SILENCE`.
        first_delay: see `FIRST_DELAY`; it doubles up to `LONGEST_DELAY`.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        workers: int,
        *,
        listeners: Sequence[socket.socket] = (),
        renew: Callable[[], str | None] = lambda: None,
        restarted: Callable[[], None] = lambda: None,
        tell: Callable[..., None] = lambda *_: None,
        grace: float = GRACE,
        settled: float = SETTLED,
        silence: float = SILENCE,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self._command = command
        self._listeners = listeners
        self._renew = renew
        self._restarted = restarted
        self._tell = tell
        self._grace = grace
        self._settled = settled
        self._silence = silence
        self._first_delay = first_delay
        self._places: list[_Worker | None] = [None] * workers
        self._alive: set[_Worker] = set()
        self._numbers: set[int] = set()
        self._failures = [0] * workers
        self._serving = False
        self._promising = False  # some worker settled or got ready: no mistake of ours that no restart cures
        self._stopping = asyncio.Event()
        self._replacing = asyncio.Event()
        self._signal = signal.SIGTERM
        self._status = 0

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; a second one kills at once. Call it in the main thread.

        Returns:
            The exit status: 0 when every worker left by itself in time; 128 + signal after a second signal; 1 when a
            worker had to be killed or failed while stopping; a worker's own status when none could be started.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._replacing.set)
        try:
            async with asyncio.TaskGroup() as group:
                others = [
                    group.create_task(each)
                    for each in (self._kill_late(), self._kill_silent(), self._replace_for_ever())
                ]
                await asyncio.gather(*(self._keep(place) for place in range(len(self._places))))
                if self._alive:  # those that were being replaced
                    await asyncio.wait([worker.exited for worker in self._alive])
                for task in others:
                    task.cancel()
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        return self._status

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on; at the second, kill."""
        if self._stopping.is_set():
            self._status = 128 + number
            self._send(signal.SIGKILL)
            return
        _LOG.info("gateway.draining", signal=number.name, workers=len(self._alive))
        self._begin_to_stop(number)

    def _begin_to_stop(self, number: signal.Signals) -> None:
        self._signal = number
        self._stopping.set()
        self._tell("STOPPING=1")
        for listener in self._listeners:  # from now on the workers' alone: the port ends with the last of them
            listener.close()
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._alive:
            worker.send(number)

    async def _kill_late(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._grace)
        for worker in self._alive:
            self._kill(worker, f"still running after {self._grace:g} s")

    async def _kill_silent(self) -> None:
        while True:
            await asyncio.sleep(self._silence / LOOKS)
            self._tell("WATCHDOG=1")
            for worker in self._alive:
                if worker.look() == LOOKS:
                    self._kill(worker, f"no sign of life for {self._silence:g} s")

    def _kill(self, worker: _Worker, reason: str) -> None:
        _LOG.warning("worker.killed", worker=worker.number, reason=reason)
        worker.send(signal.SIGKILL)

    # Keeping

    async def _keep(self, place: int) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            worker = await self._fill(place)
            status = worker.exited.result()
            if self._stopping.is_set():
                # A worker that had no handler yet went by the signal itself: it had nothing to finish.
                self._status = self._status or int(status not in (0, -self._signal))
                return
            lived = time.monotonic() - began
            _LOG.warning("worker.died", worker=worker.number, status=_words(status), after_seconds=round(lived, 1))
            settled = lived >= self._settled
            self._promising |= settled or worker.ready.result()
            self._failures[place] = 0 if settled else self._failures[place] + 1
            if self._hopeless(status):
                self._give_up(status)
                return
            await self._pause(self._failures[place])
            if not self._stopping.is_set():
                self._restarted()

    async def _fill(self, place: int) -> _Worker:
        """Start a worker for a place, and wait until who fills it, it or a successor, is dead; returns that."""
        worker = await self._start()
        while True:
            self._places[place] = worker
            await asyncio.wait((worker.exited, worker.relieved), return_when=asyncio.FIRST_COMPLETED)
            if not worker.relieved.done():
                self._places[place] = None
                return worker
            worker = worker.relieved.result()

    async def _start(self) -> _Worker:
        number = next(number for number in count() if number not in self._numbers)
        self._numbers.add(number)
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *self._command(number, theirs.fileno()),
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(), *(listener.fileno() for listener in self._listeners)),
                process_group=0,
            )
        worker = _Worker(number, process, ours)
        self._alive.add(worker)
        worker.exited.add_done_callback(lambda _: self._gone(worker))
        worker.ready.add_done_callback(self._serve)
        _LOG.info("worker.started", worker=number, pid=process.pid)
        if self._stopping.is_set():  # the signal came while it was being started, and did not reach it
            worker.send(self._signal)
        return worker

    def _serve(self, ready: asyncio.Future[bool]) -> None:
        """From the first worker that is ready on, the gateway serves."""
        if ready.result() and not self._serving:
            self._serving = True
            self._tell("READY=1")

    def _gone(self, worker: _Worker) -> None:
        self._alive.discard(worker)
        self._numbers.discard(worker.number)

    async def _pause(self, failures: int) -> None:
        if failures:
            delay = min(LONGEST_DELAY, self._first_delay * 2 ** (failures - 1))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    def _hopeless(self, status: int) -> bool:
        allowed = 1 if status == WRONG_USE else HOPELESS
        return not self._promising and min(self._failures) >= allowed

    def _give_up(self, status: int) -> None:
        _LOG.error("workers.give_up", reason=f"no worker lives longer than {self._settled:g} s", last=_words(status))
        self._status = status if status > 0 else 1
        self._begin_to_stop(signal.SIGTERM)

    # Replacing

    async def _replace_for_ever(self) -> None:
        while True:
            await self._replacing.wait()
            self._replacing.clear()
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            problem = self._renew()
            if problem is not None:
                _LOG.error("gateway.reload_refused", reason=problem)
                self._tell("READY=1", f"STATUS=Reload refused: {' '.join(problem.split())}")
            elif await self._replace_all():
                _LOG.info("gateway.reloaded", workers=len(self._places))
                self._tell("READY=1", f"STATUS=Reloaded {len(self._places)} workers")
            elif not self._stopping.is_set():
                _LOG.error("gateway.reload_failed", reason="a new worker did not get ready; the former ones stay")
                self._tell("READY=1", "STATUS=Reload failed: a new worker did not get ready; the former ones stay")

    async def _replace_all(self) -> bool:
        """One after the other, until one fails."""
        for place in range(len(self._places)):
            former = self._places[place]
            # Where there is none, it died, and whoever is started in its place reads the new settings anyway.
            if former is not None and not await self._replace(place, former):
                return False
        return True

    async def _replace(self, place: int, former: _Worker) -> bool:
        if self._stopping.is_set():
            return False
        successor = await self._start()
        await asyncio.wait([successor.ready], timeout=START_DEADLINE)
        ready = successor.ready.done() and successor.ready.result()
        if not ready or self._stopping.is_set() or self._places[place] is not former:
            successor.send(signal.SIGTERM)
            await self._left(successor)
            return ready
        former.relieved.set_result(successor)
        former.send(signal.SIGHUP)
        await self._left(former)
        return True

    async def _left(self, worker: _Worker) -> None:
        if not (await asyncio.wait([worker.exited], timeout=self._grace))[0]:
            self._kill(worker, f"still running after {self._grace:g} s")
            await asyncio.wait([worker.exited])


def _words(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


class Parent:
    """In a worker: the line to the supervisor."""

    def __init__(self, line: int, grace: float = GRACE) -> None:
        """Leave when the parent is gone, by SIGTERM to itself, and by SIGKILL if that does not end it."""
        os.set_inheritable(line, False)
        self._line = socket.socket(fileno=line)
        self._grace = grace
        threading.Thread(target=self._follow, name="follow-parent", daemon=True).start()

    def _follow(self) -> None:
        with suppress(OSError):
            self._line.recv(1)  # nothing is ever written: this returns when the other end is gone
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace)
        os.kill(os.getpid(), signal.SIGKILL)

    def say_ready(self) -> None:
        """This worker serves: whom it replaces may leave."""
        with suppress(OSError):  # the parent is gone, and this process leaves soon
            self._line.send(_READY)

    def say_alive(self) -> None:
        """Say so each second, from the loop that does the work. It waits for nobody."""
        with suppress(OSError):  # gone, or it has not listened for so long that there is no room
            self._line.send(_ALIVE, socket.MSG_DONTWAIT)
