"""A worker's slices of rates that all machines share, fetched ahead so that nothing sent ever waits for them.

A slice is tokens that are this worker's own. It asks for more some ten times a second, in one round trip for all
budgets, by what was spent lately: at most what the whole rate is worth for a fifth of a second. An idle worker keeps
a twentieth of a second of its fair part, so that a one-time code need not wait for an answer, and gives the rest back.

When no answer comes in time, the slice grows by its fair part of the rate as last known. If the answer was only late,
that was on credit, and is paid with the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterable

from gateway.dispatch.governor import BURST_SECONDS
from gateway.queue.base import QueueError
from gateway.shared.base import Ask, RateBudgets, SharedUnavailable

PERIOD = 0.1
AHEAD = 0.2
"""Seconds of the whole rate: for the time until the next answer, and the one after it."""

LATE = 0.1
"""Seconds without an answer, from which on the fair part is used."""

RESERVE = 0.05
HEARTBEAT = 1.0
"""Seconds between asks of a worker that wants nothing: it is still one of the members."""

SOONEST = 0.005
"""Seconds between asks of one that got all that it wanted, and wants more already."""

AT_ONCE = 200
"""Budgets in one ask: Redis does nothing else meanwhile."""


class Slice:
    """Tokens of one budget. Times are the loop's, in seconds."""

    def __init__(self, name: str, rate: float, members: Callable[[], int], hungry: Callable[[], None]) -> None:
        """`members` is how many share the rate; `hungry` is called when the slice runs out."""
        self.name = name
        self.rate = rate
        self.starved = False
        """Whether it ran out since the last ask."""
        self._members = members
        self._hungry = hungry
        self._held = 0.0
        self._spent = 0
        self._credit = 0.0
        self._alone_at: float | None = None

    @property
    def fair_rate(self) -> float:
        """Tokens a second that are this worker's if all want some."""
        return self.rate / self._members()

    def room(self, now: float) -> int:
        """How many tokens there are."""
        if self._alone_at is not None:
            grown = (now - self._alone_at) * self.fair_rate
            self._alone_at = now
            grown = min(grown, max(0.0, max(1.0, self.fair_rate * BURST_SECONDS) - self._held))
            self._held += grown
            self._credit += grown
        if self._held < 1.0 and not self.starved:
            self.starved = True
            self._hungry()
        return max(0, int(self._held))

    def spend(self, count: int) -> None:
        """So many are used; of a negative number, they were not after all."""
        self._held -= count
        self._spent += count

    def ask(self) -> Ask | None:
        """What it wants now; None if nothing. What it gives back is gone from it."""
        target = self._spent * AHEAD / PERIOD
        if self.starved:
            target = max(1.0, self.rate * AHEAD)
        target = max(min(target, self.rate * AHEAD), float(int(self.fair_rate * RESERVE)))
        idle = not self._spent and not self.starved
        spare = int(max(0.0, self._held - target)) if idle else 0
        want = max(0, math.ceil(target - self._held))
        self._held -= spare
        self._spent = 0
        back, self._credit = spare - int(self._credit), self._credit % 1.0
        return Ask(self.name, self.rate, want, back) if want or back else None

    def grant(self, tokens: int) -> None:
        """An answer came."""
        self._alone_at = None
        self._held += tokens
        self.starved = self.starved and self._held < 1.0

    def on_its_own(self, now: float, *, credit: bool) -> None:
        """No answer is there: go on with the fair part; without `credit`, nobody will want to know what it used."""
        if self._alone_at is None:
            self._alone_at = now
        if not credit:
            self._credit = 0.0


class Slices:
    """All slices of a worker."""

    def __init__(self, budgets: RateBudgets, workers: int, jitter: random.Random) -> None:
        """`workers` share a rate as long as nobody ever said how many do."""
        self._budgets = budgets
        self._workers = workers
        self._jitter = jitter
        self._slices: dict[Slice, Callable[[], None]] = {}
        self._run_out = asyncio.Event()
        self._heartbeat_at = 0.0

    def open(self, name: str, rate: float, wake: Callable[[], None]) -> Slice:
        """A slice of a budget; `wake` is called when one that had run out has tokens again."""
        made = Slice(name, rate, self._members, self._run_out.set)
        self._slices[made] = wake
        return made

    def close(self, slice_: Slice) -> None:
        """Forget a slice: its tokens are few, and lost."""
        self._slices.pop(slice_, None)

    def _members(self) -> int:
        return self._budgets.members or self._workers

    async def run(self) -> None:
        """Keep the slices filled, until cancelled."""
        satisfied = False
        while True:
            await self._pause(satisfied)
            satisfied = await self._ask()

    async def give_back(self) -> None:
        """Return what is held, once nothing is sent any more."""
        asks = [Ask(each.name, each.rate, 0, tokens) for each in self._slices if (tokens := each.room(0.0))]
        with contextlib.suppress(QueueError):
            for some in _parts(asks):
                await self._budgets.lease(some)

    async def _pause(self, satisfied: bool) -> None:
        if satisfied:
            await asyncio.sleep(SOONEST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD * self._jitter.uniform(0.7, 1.0)):
                    await self._run_out.wait()
        else:
            await asyncio.sleep(PERIOD * self._jitter.uniform(0.7, 1.0))
        self._run_out.clear()

    async def _ask(self) -> bool:
        """One round trip, if anything is wanted. False if somebody got less than it wants."""
        loop = asyncio.get_running_loop()
        asking = [(slice_, ask) for slice_ in self._slices if (ask := slice_.ask()) is not None]
        if not asking and loop.time() < self._heartbeat_at:
            return True
        self._heartbeat_at = loop.time() + HEARTBEAT
        late = loop.call_later(LATE, self._go_alone, True)
        try:
            granted = [
                tokens for asks in _parts([ask for _, ask in asking]) for tokens in await self._budgets.lease(asks)
            ]
        except SharedUnavailable:
            self._go_alone(False)
            return False
        finally:
            late.cancel()
        for slice_ in self._slices:
            slice_.grant(0)
        for (slice_, _), tokens in zip(asking, granted, strict=True):
            slice_.grant(tokens)
            if tokens and (wake := self._slices.get(slice_)) is not None:
                wake()
        return all(tokens >= ask.want for (_, ask), tokens in zip(asking, granted, strict=True))

    def _go_alone(self, credit: bool) -> None:
        for slice_, wake in self._slices.items():
            slice_.on_its_own(asyncio.get_running_loop().time(), credit=credit)
            wake()


def _parts(asks: list[Ask]) -> Iterable[list[Ask]]:
    """At least one, if only to be counted."""
    return itertools.chain([asks[:AT_ONCE]], (asks[at : at + AT_ONCE] for at in range(AT_ONCE, len(asks), AT_ONCE)))
