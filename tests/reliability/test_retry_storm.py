"""A service that answers nothing but 503 for a while, and then works again: the dispatcher with its budgets, breakers
and governors on a clock that jumps, against a service in memory.

Notifications go on arriving all the time. The outage comes in two shapes: one in which every answer is a 503, which
the breaker meets, and one in which every other answer is good, so that nothing is held and the budget stands alone.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from typing import NamedTuple

import pytest

from bench.ledger import Balance, Ledger
from gateway.dispatch.governor import BURST_SECONDS, LEAST_RATE, LEAST_SHARE, LEAST_STEP, RAMP
from gateway.model import State
from tests.gateway.dispatch.test_dispatcher import World
from tests.gateway.virtual import Answer, VirtualLoop, virtual_loop, wall

from .conftest import Evidence

ROW = "R16"

STEADY = 100
"""Notifications a second, for as long as the test lasts."""
BEFORE = 20
"""Seconds before the outage."""
AFTER = 60
"""Seconds of the same traffic after it."""
SHARE, FLOOR = 0.2, 10.0
"""Of retries: the settings' defaults."""
STEP = max(LEAST_STEP, STEADY / RAMP)
SEED = 503


class Storm:
    """A service that fails for a while, and what it saw of it."""

    def __init__(self, seconds: int, failing: float) -> None:
        self.began = virtual_loop().time()
        self.outage = (self.began + BEFORE, self.began + BEFORE + seconds)
        self.taken: Counter[str] = Counter()
        self.first: Counter[int] = Counter()
        """By second."""
        self.retries: Counter[int] = Counter()
        self._failing = failing
        self._draw = random.Random(SEED)
        self._seen: set[str] = set()

    def answer(self, path: str) -> Answer:
        at = virtual_loop().time()
        second = int(at - self.began)
        (self.retries if path in self._seen else self.first)[second] += 1
        self._seen.add(path)
        if self.outage[0] <= at < self.outage[1] and self._draw.random() < self._failing:
            return Answer(503)
        self.taken[path] += 1
        return Answer()

    def allowed(self, second: int) -> float:
        """Retries until the end of a second, by what was sent for the first time and by time; a second's more for what
        is on its way."""
        sent = sum(count for at, count in self.first.items() if at <= second)
        return SHARE * (sent + STEADY) + FLOOR * (second + 2)

    def retried(self, second: int) -> int:
        return sum(count for at, count in self.retries.items() if at <= second)

    def rate(self, second: int) -> int:
        return self.first[second] + self.retries[second]


class Found(NamedTuple):
    storm: Storm
    balance: Balance
    seconds: int
    """Until everything was answered."""


async def weather(seconds: int, failing: float) -> Found:
    world, ledger = World(apps=["shop"]), Ledger()
    storm = Storm(seconds, failing)
    world.shop.behave = storm.answer
    async with world.run():
        jobs = []
        for second in range(BEFORE + seconds + AFTER):
            start = second * STEADY
            jobs.append(await world.submit(STEADY, start=start))
            ledger.accepted({f"token-{index}": f"/push/token-{index}" for index in range(start, start + STEADY)})
            await asyncio.sleep(1.0)
        for job in jobs:
            await world.complete(job, 3600.0)
        ended = int(virtual_loop().time() - storm.began)
        for job in jobs:
            for batch in world.queue.jobs[job].batches:
                for token, state in zip(batch.new.recipients.decode().split("\n"), batch.progress.states, strict=True):
                    ledger.receipt({"recipient": token, "id": token, "state": State(state).word})
    ledger.taken(storm.taken)
    return Found(storm, ledger.balance(), ended)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("failing", "shape"), [(1.0, "every"), (0.5, "every other")])
def test_an_outage_is_not_multiplied_and_its_end_is_a_slope(
    long: bool, evidence: Evidence, monkeypatch: pytest.MonkeyPatch, failing: float, shape: str
) -> None:
    seconds = 300 if long else 20
    with monkeypatch.context() as patched, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        wall(patched)
        found = runner.run(weather(seconds, failing))
    storm, end = found.storm, BEFORE + seconds
    recovery = [storm.rate(second) for second in range(end, found.seconds + 1)]
    during = range(BEFORE, end)
    evidence.record(
        f"{shape} answer a 503 for {seconds} s at {STEADY} notifications a second (virtual time)",
        {
            "seed": SEED,
            "first_sends_in_the_outage": sum(storm.first[second] for second in during),
            "retries_in_the_outage": sum(storm.retries[second] for second in during),
            "first_sends": storm.first.total(),
            "retries": storm.retries.total(),
            "steady_per_second": STEADY,
            "peak_per_second_after_it": max(recovery),
            "largest_rise_in_a_second": max(later - sooner for sooner, later in itertools.pairwise(recovery)),
            "seconds_to_catch_up": next(
                (at for at in range(len(recovery)) if max(recovery[at:]) <= 1.2 * STEADY), len(recovery)
            ),
        },
        found.balance,
    )
    assert found.balance.clean, found.balance
    assert found.balance.accepted == found.balance.receipts == storm.taken.total()
    for second in range(found.seconds + 1):
        assert storm.retried(second) <= storm.allowed(second), f"second {second}"
    if failing == 1.0:
        floor = max(LEAST_RATE, LEAST_SHARE * 2 * STEADY)
        for after, rate in enumerate(recovery):
            assert rate <= (floor + STEP * (after + 1)) * (1 + BURST_SECONDS), f"{after} s after the outage"
