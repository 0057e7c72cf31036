"""Virtual time, and the processes that live in it.

Everything that will happen is in one heap, by time and then by the order in which it was asked for. Each process has an
event loop of its own, so that it can be killed (nothing of it ever runs again, no clean-up either) or stopped for a
while (what happened to it meanwhile happens when it wakes). Threads do not exist: what is handed to an executor is done
on the spot.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import Any

EPOCH = 1_800_000_000.0
"""UNIX seconds at the machine's zero."""


BURIALS = 5
"""How often a task is cancelled that goes on."""


class Machine:
    """The clock and what is to come. `wall_offset` is by how many seconds the wall clock is wrong."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall_offset = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, events.Handle]] = []
        self._numbers = itertools.count()

    def wall(self) -> float:
        return EPOCH + self.now + self.wall_offset

    def push(self, when: float, handle: events.Handle) -> None:
        heapq.heappush(self._heap, (max(when, self.now), next(self._numbers), handle))

    def run(self, done: Callable[[], bool], deadline: float) -> bool:
        """Let things happen until `done`; False if the clock reaches `deadline` first."""
        while not done():
            if not self._heap or self._heap[0][0] > deadline:
                return False
            when, _, handle = heapq.heappop(self._heap)
            self.now = when
            process: Process = handle._loop  # type: ignore[attr-defined]
            if process.alive and not handle.cancelled() and not process.withhold(handle):
                self.steps += 1
                events._set_running_loop(process)
                try:
                    handle._run()
                finally:
                    events._set_running_loop(None)
        return True


class Process(asyncio.BaseEventLoop):
    """The event loop of a process."""

    def __init__(self, machine: Machine, name: str, dial: Callable[..., Any], failed: Callable[[str], None]) -> None:
        """`dial` makes its connections; `failed` is told of exceptions that nobody caught."""
        super().__init__()
        self.machine = machine
        self.name = name
        self.alive = True
        self.asleep = False
        self.steady = True
        """Whether it has always been there: not killed, not stopped, and not kept from holding on to what it had."""
        self._withheld: list[events.Handle] = []
        self._dial = dial
        self._failed = failed
        self.set_exception_handler(Process._uncaught)

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    # Being killed, stopped and woken

    def kill(self) -> None:
        self.alive = self.steady = False

    def robbed(self) -> None:
        """It lived, and could not extend a lease in time, or store at its end what it had: its disk was full for too
        long."""
        self.steady = False

    def bury(self) -> None:
        """Unwind what is left of a process, unseen, when nothing matters any more."""
        self.alive, self.asleep, self._failed = True, False, lambda _: None
        tasks = asyncio.all_tasks(self)
        for _ in range(BURIALS):
            for task in tasks:
                task.cancel()
            self.machine.run(lambda: all(task.done() for task in tasks), self.machine.now + 1.0)
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self.alive = False
        self.close()

    def sleep(self) -> None:
        self.asleep, self.steady = True, False

    def wake(self, timers_first: bool) -> None:
        """Go on. uvloop's timers fire before what came from the network is read, asyncio's after it."""
        self.asleep = False
        withheld, self._withheld = self._withheld, []
        if timers_first:
            withheld.sort(key=lambda handle: not isinstance(handle, events.TimerHandle))
        else:
            withheld.sort(key=lambda handle: isinstance(handle, events.TimerHandle))
        for handle in withheld:
            self.machine.push(self.machine.now, handle)

    def withhold(self, handle: events.Handle) -> bool:
        if self.asleep:
            self._withheld.append(handle)
        return self.asleep

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.machine.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self.machine.push(self.machine.now, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> events.TimerHandle:
        handle = events.TimerHandle(when, callback, args, self, context)
        self.machine.push(when, handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> events.TimerHandle:
        return self.call_at(self.machine.now + delay, callback, *args, context=context)

    def call_io(self, when: float, callback: Any, *args: Any) -> None:
        """Something comes from outside: to a process that sleeps, when it wakes."""
        self.machine.push(when, events.Handle(callback, args, self))

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return await self._dial(self, factory, host, port)

    def _uncaught(self, context: dict[str, Any]) -> None:
        if self.alive:
            self._failed(f"{self.name}: {context.get('message')} {context.get('exception')!r}")

    def _process_events(self, event_list: Any) -> None:
        """There is no selector."""


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
