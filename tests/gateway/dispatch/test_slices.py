"""What a worker gets of a rate that machines share, when it waits, and what it does without an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from gateway.dispatch.governor import Governor
from gateway.dispatch.slices import AHEAD, Slices
from gateway.shared.base import Ask, SharedUnavailable
from tests.gateway.virtual import virtual_loop

LOOPS = ("virtual",)
RATE = 1000.0


class Bucket:
    """One budget as the contract has it, in memory."""

    def __init__(self, members: int = 1) -> None:
        self.members = members
        self.asked: list[Ask] = []
        self.delay = 0.001
        self.gone = False
        self._tokens = RATE / 4
        self._at = virtual_loop().time()

    async def lease(self, asks: Sequence[Ask]) -> list[int]:
        await asyncio.sleep(self.delay)
        if self.gone:
            raise SharedUnavailable("gone")
        return [self._take(ask) for ask in asks]

    def _take(self, ask: Ask) -> int:
        self.asked.append(ask)
        now = virtual_loop().time()
        self._tokens = min(RATE / 4, self._tokens + (now - self._at) * ask.rate + ask.back)
        self._at = now
        granted = max(0, min(ask.want, int(self._tokens)))
        self._tokens -= granted
        return granted


class Worker:
    """Sends all that its governor lets through."""

    def __init__(self, bucket: Bucket, workers: int = 1) -> None:
        self.slices = Slices(bucket, workers, random.Random(1))
        self.woken = 0
        slice_ = self.slices.open("shop/fcm", RATE, self._wake)
        self.governor = Governor(RATE, virtual_loop().time(), random.Random(1), slice_)
        self.sent = 0
        self.greedy = True
        self.task = asyncio.create_task(self.slices.run())

    def _wake(self) -> None:
        self.woken += 1
        if self.greedy:
            self.send()

    def send(self, most: int = 10**9) -> int:
        count = min(most, self.governor.room(virtual_loop().time()))
        self.governor.spend(count)
        self.sent += count
        return count

    async def send_for(self, seconds: float, tick: Callable[[], object] = lambda: None) -> int:
        before, end = self.sent, virtual_loop().time() + seconds
        while virtual_loop().time() < end:
            tick()
            self.send()
            await asyncio.sleep(0.01)
        return self.sent - before

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_one_alone_gets_the_whole_rate() -> None:
    worker = Worker(Bucket())
    await worker.send_for(1.0)
    assert await worker.send_for(10.0) == pytest.approx(10 * RATE, rel=0.02)
    await worker.stop()


async def test_several_share_it() -> None:
    """Together never more than the rate and what may be caught up at once."""
    bucket = Bucket(3)
    workers = [Worker(bucket, 3) for _ in range(3)]
    await asyncio.gather(*(worker.send_for(1.0) for worker in workers))
    sent = await asyncio.gather(*(worker.send_for(20.0) for worker in workers))
    assert sum(sent) == pytest.approx(20 * RATE, rel=0.02)
    for worker in workers:
        await worker.stop()


async def test_what_an_idle_worker_holds_is_a_reserve_and_at_hand_at_once() -> None:
    bucket = Bucket()
    worker = Worker(bucket)
    worker.greedy = False
    await asyncio.sleep(2.0)
    asked = len(bucket.asked)
    await asyncio.sleep(5.0)
    assert len(bucket.asked) == asked, "who wants nothing asks for nothing"
    assert worker.send(10) == 10
    await worker.send_for(1.0)
    await asyncio.sleep(2.0)
    assert worker.governor.room(virtual_loop().time()) <= RATE * 0.05, "the rest was given back"
    assert sum(ask.back for ask in bucket.asked) > 0
    await worker.stop()


async def test_a_small_rate_is_not_hoarded_and_whoever_runs_out_is_woken() -> None:
    bucket = Bucket()
    slices = Slices(bucket, 1, random.Random(1))
    woken = asyncio.Event()
    slice_ = slices.open("bank/apns", 2.0, woken.set)
    task = asyncio.create_task(slices.run())
    await asyncio.sleep(1.0)
    assert not bucket.asked
    assert slice_.room(virtual_loop().time()) == 0
    began = virtual_loop().time()
    await woken.wait()
    assert virtual_loop().time() - began < 0.15
    assert slice_.room(virtual_loop().time()) == 1
    task.cancel()


async def test_without_an_answer_it_goes_on_with_its_fair_share() -> None:
    bucket = Bucket(4)
    worker = Worker(bucket, 4)
    await worker.send_for(1.0)
    bucket.gone = True
    await worker.send_for(0.5)
    assert await worker.send_for(20.0) == pytest.approx(20 * RATE / 4, rel=0.02)
    bucket.gone = False
    await worker.send_for(1.0)
    assert await worker.send_for(10.0) == pytest.approx(10 * RATE, rel=0.02)
    await worker.stop()


async def test_who_never_had_an_answer_shares_with_its_own_machine() -> None:
    bucket = Bucket(0)
    bucket.gone = True
    worker = Worker(bucket, workers=2)
    await worker.send_for(1.0)
    assert await worker.send_for(10.0) == pytest.approx(10 * RATE / 2, rel=0.02)
    await worker.stop()


async def test_answers_that_are_late_are_not_answers_more() -> None:
    """What is used on credit while an answer is on its way is paid with the next."""
    bucket = Bucket(2)
    bucket.delay = 0.3
    worker = Worker(bucket, 2)
    await worker.send_for(2.0)
    assert await worker.send_for(20.0) <= 20 * RATE * 1.02
    assert any(ask.back < 0 for ask in bucket.asked)
    await worker.stop()


async def test_at_the_end_everything_is_given_back() -> None:
    bucket = Bucket()
    worker = Worker(bucket)
    await worker.send_for(1.0)
    worker.greedy = False
    await asyncio.sleep(0.12)
    await worker.stop()
    held = worker.governor.slice.room(0.0) if worker.governor.slice else 0
    await worker.slices.give_back()
    assert bucket.asked[-1] == Ask("shop/fcm", RATE, 0, held)
    assert 0 < held <= RATE * AHEAD
