"""What machines share, on a real Redis: each test's states are as many machines."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from gateway.model import Route
from gateway.queue.base import DeadTarget, Idempotency, LeaseLost, Replay, Twin
from gateway.shared import claims, dead, redis
from gateway.shared.base import Ask, Orphan, SharedUnavailable
from gateway.shared.redis import RedisState
from tests.gateway.shared.conftest import Opener
from tests.redis_server import RedisServer

KEY = Idempotency("shop/order-1", b"f" * 32)
ROUTE = Route("shop", "apns")
HOUR = 3600.0


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.02)


class TestIdempotency:
    async def test_a_key_is_held_by_one_and_answered_alike_afterwards(self, machine: Opener) -> None:
        one, other = machine(), machine()
        assert await one.begin("job_1", KEY) is None
        assert await other.begin("job_2", KEY) is Twin.IN_FLIGHT
        await one.settle("job_1", KEY, b"answer")
        assert await other.begin("job_3", KEY) == Replay("job_1", KEY.fingerprint, b"answer")
        assert await one.begin("job_4", KEY) == Replay("job_1", KEY.fingerprint, b"answer")

    async def test_of_many_at_once_one_gets_it(self, machine: Opener) -> None:
        states = [machine() for _ in range(3)]
        answers = await asyncio.gather(*(states[i % 3].begin(f"job_{i}", KEY) for i in range(60)))
        assert answers.count(None) == 1
        assert answers.count(Twin.IN_FLIGHT) == 59

    async def test_keys_of_apps_are_apart(self, machine: Opener) -> None:
        state = machine()
        assert await state.begin("job_1", Idempotency("shop/k", b"")) is None
        assert await state.begin("job_2", Idempotency("acme/shop/k", b"")) is None

    async def test_a_released_key_is_free_and_a_settled_one_is_not_released(self, machine: Opener) -> None:
        one, other = machine(), machine()
        await one.begin("job_1", KEY)
        await other.release("job_2", KEY.key)
        assert await other.begin("job_2", KEY) is Twin.IN_FLIGHT
        await one.release("job_1", KEY.key)
        assert await other.begin("job_2", KEY) is None
        await other.settle("job_2", KEY, b"answer")
        await other.release("job_2", KEY.key)
        assert isinstance(await one.begin("job_3", KEY), Replay)

    async def test_a_stream_s_fingerprint_is_known_when_it_is_settled(self, machine: Opener) -> None:
        state = machine()
        await state.begin("job_1", Idempotency("shop/k", b""))
        await state.settle("job_1", Idempotency("shop/k", b"whole"), b"answer")
        assert await state.begin("job_2", Idempotency("shop/k", b"")) == Replay("job_1", b"whole", b"answer")

    async def test_who_falls_silent_leaves_an_orphan_to_one(
        self, machine: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody begins anew before it is clear what became of the job; who held it before is refused then."""
        monkeypatch.setattr(claims, "SILENCE", 0.2)
        one, other, third = machine(), machine(), machine()
        await one.begin("job_1", KEY)

        async def orphaned() -> bool:
            answer = await other.begin("job_2", KEY)
            assert answer in (Twin.IN_FLIGHT, Orphan("job_1"))
            return answer == Orphan("job_1")

        await eventually(orphaned)
        assert await third.begin("job_3", KEY) is Twin.IN_FLIGHT
        await other.release("job_1", KEY.key)
        assert await other.begin("job_2", KEY) is None
        assert await one.begin("job_1", KEY) is Twin.IN_FLIGHT
        with pytest.raises(LeaseLost):
            await one.settle("job_1", KEY, b"answer")

    async def test_a_living_holder_s_key_is_no_orphan(self, machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claims, "SILENCE", 0.6)
        monkeypatch.setattr(redis, "RENEW", 0.1)
        monkeypatch.setattr(redis, "LOOK", 0.05)
        one, other = machine(), machine()
        await one.open()
        await one.begin("job_1", KEY)
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            assert await other.begin("job_2", KEY) is Twin.IN_FLIGHT
            await asyncio.sleep(0.1)

    async def test_a_key_is_forgotten_after_a_day(self, machine: Opener) -> None:
        state = machine()
        await state.begin("job_1", KEY)
        await state.settle("job_1", KEY, b"answer")
        left = await state._link.call("PTTL", b"test:idempotency:shop/order-1")
        assert 86_390_000 < left <= 86_400_000

    async def test_without_redis_it_is_refused(self, machine: Opener, server: RedisServer) -> None:
        state = machine()
        server.kill()
        with pytest.raises(SharedUnavailable, match=r"Redis at 127\.0\.0\.1:\d+ cannot be reached"):
            await state.begin("job_1", KEY)


class TestCancellations:
    async def test_everybody_learns_of_each_once_and_late_comers_of_all(self, machine: Opener) -> None:
        one, other = machine(), machine()
        until = time.time() + HOUR
        await one.cancel("job_1", until)
        cursor, jobs = await other.cancelled(0)
        assert jobs == ["job_1"]
        assert await other.cancelled(cursor) == (cursor, [])
        await asyncio.gather(*(one.cancel(f"job_{number}", until) for number in range(2, 40)))
        _, jobs = await other.cancelled(cursor)
        assert sorted(jobs) == sorted(f"job_{number}" for number in range(2, 40))
        _, jobs = await machine().cancelled(0)
        assert len(jobs) == 39

    async def test_pages_are_bounded_and_lose_nothing(self, machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis, "CANCELLED_AT_ONCE", 7)
        state, seen, cursor = machine(), [], 0
        for number in range(30):
            await state.cancel(f"job_{number}", time.time() + HOUR)
        while True:
            cursor, jobs = await state.cancelled(cursor)
            if not jobs:
                break
            assert len(jobs) <= 7
            seen += jobs
        assert seen == [f"job_{number}" for number in range(30)]

    async def test_a_cancellation_is_forgotten_when_nothing_of_the_job_can_be_left(self, machine: Opener) -> None:
        state = machine()
        await state.cancel("job_1", time.time() - 1.0)
        await state.cancel("job_2", time.time() + HOUR)
        assert (await state.cancelled(0))[1] == ["job_2"]

    async def test_after_a_loss_of_data_the_next_one_is_behind_all_cursors(
        self, machine: Opener, server: RedisServer
    ) -> None:
        state = machine()
        await state.cancel("job_1", time.time() + HOUR)
        cursor, _ = await state.cancelled(0)
        await state._link.call("FLUSHALL")
        await state.cancel("job_2", time.time() + HOUR)
        assert (await state.cancelled(cursor))[1] == ["job_2"]


class TestDeadTargets:
    async def test_a_target_is_dead_for_all_machines(self, machine: Opener) -> None:
        one, other = machine(), machine()
        await one.add_dead(ROUTE, [DeadTarget(b"a", 10.5, "Unregistered"), DeadTarget(b"b", 11.0, "Gone, really")])
        known = {b"a": DeadTarget(b"a", 10.5, "Unregistered"), b"b": DeadTarget(b"b", 11.0, "Gone, really")}
        for state in (one, other):
            assert await state.dead_targets(ROUTE, [b"a", b"b", b"c"]) == known
        assert await one.dead_targets(Route("shop", "fcm"), [b"a"]) == {}
        assert await one.dead_targets(Route("acme/shop", "apns"), [b"a"]) == {}

    async def test_the_latest_word_counts(self, machine: Opener) -> None:
        state = machine()
        for since, reason in ((10.0, "old"), (30.0, "new"), (20.0, "between")):
            await state.add_dead(ROUTE, [DeadTarget(b"a", since, reason)])
        assert await state.dead_targets(ROUTE, [b"a"]) == {b"a": DeadTarget(b"a", 30.0, "new")}

    async def test_once_the_filter_is_filled_the_living_are_not_asked_for(
        self, machine: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis, "LOOK", 0.01)
        one, other = machine(), machine()
        await one.add_dead(ROUTE, [DeadTarget(b"dead-%d" % number, 1.0, "Unregistered") for number in range(2500)])
        await other.open()
        await other.dead_targets(ROUTE, [b"alive"])
        await eventually(lambda: _filled(other))
        calls = await _calls(other)
        assert await other.dead_targets(ROUTE, [b"alive-%d" % number for number in range(1000)]) == {}
        assert await _calls(other) - calls <= 1 + 15  # that look itself, and what the feed's reader did meanwhile
        assert len(await other.dead_targets(ROUTE, [b"dead-%d" % number for number in range(1000)])) == 1000

        await one.add_dead(ROUTE, [DeadTarget(b"late", 2.0, "Unregistered")])

        async def known() -> bool:
            return bool(await other.dead_targets(ROUTE, [b"late"]))

        await eventually(known, 1.0)

    async def test_who_misses_a_part_of_the_feed_reads_all(
        self, machine: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The feed is trimmed in whole blocks of a hundred entries."""
        monkeypatch.setattr(dead, "FEED_KEPT", 100)
        one, other = machine(), machine()
        await one.add_dead(ROUTE, [DeadTarget(b"first", 1.0, "x")])
        other._dead.used = True
        await other._dead.follow()
        for number in range(1000):
            await one.add_dead(ROUTE, [DeadTarget(b"dead-%d" % number, 1.0, "x")])
        await other._dead.follow()
        keys = [b"first", *(b"dead-%d" % number for number in range(1000))]
        assert len(await other.dead_targets(ROUTE, keys)) == 1001

    async def test_it_goes_on_after_redis_lost_its_data(self, machine: Opener) -> None:
        one, other = machine(), machine()
        await one.add_dead(ROUTE, [DeadTarget(b"%d" % number, 1.0, "x") for number in range(9)])
        await other._dead.follow()
        await one._link.call("FLUSHALL")
        await other._dead.follow()
        await one.add_dead(ROUTE, [DeadTarget(b"again", 1.0, "x")])
        await other._dead.follow()
        assert set(await other.dead_targets(ROUTE, [b"1", b"again"])) == {b"again"}


async def _filled(state: RedisState) -> bool:
    return state._dead._filled


async def _calls(state: RedisState) -> int:
    stats = await state._link.call("INFO", "stats")
    return int(stats.split(b"total_commands_processed:")[1].split(b"\r")[0])


class TestBudgets:
    async def test_nobody_gets_more_than_the_bucket_holds(self, machine: Opener) -> None:
        """A full bucket is a quarter of a second; what is taken by one is gone for the other."""
        one, other = machine(), machine()
        assert await one.lease([Ask("b", 1.0, 5)]) == [1]
        assert await other.lease([Ask("b", 1.0, 5)]) == [0]
        assert await one.lease([Ask("c", 400.0, 60), Ask("d", 400.0, 1000)]) == [60, 100]
        (left,) = await other.lease([Ask("c", 400.0, 1000)])
        assert 40 <= left <= 60

    async def test_what_comes_back_can_be_had_by_others(self, machine: Opener) -> None:
        one, other = machine(), machine()
        await one.lease([Ask("b", 1.0, 1)])
        await one.lease([Ask("b", 1.0, 0, back=1)])
        assert await other.lease([Ask("b", 1.0, 1)]) == [1]

    async def test_what_was_taken_on_credit_is_paid(self, machine: Opener) -> None:
        state = machine()
        assert await state.lease([Ask("b", 100.0, 30, back=-25)]) == [0]
        assert await state.lease([Ask("b", 100.0, 30, back=-1000)]) == [0]
        tokens = float(await state._link.call("HGET", b"test:rate:b", "tokens"))
        assert -25.0 <= tokens <= -24.0, "a debt is at most what a full bucket would be worth"

    async def test_a_hungry_member_leaves_the_others_their_part(self, machine: Opener) -> None:
        one, other, third = machine(), machine(), machine()
        await one.lease([Ask("b", 1000.0, 10_000)])
        for state in (other, third):
            await state.lease([Ask("b", 1000.0, 10_000)])
        await asyncio.sleep(0.1)
        (part,) = await one.lease([Ask("b", 1000.0, 10_000)])
        assert 25 <= part <= 90, "a third of some 100, on a machine that may be late"

    async def test_members_are_those_who_asked_lately(self, machine: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis, "MEMBER_KEPT", 0.3)
        one, other, third = machine(), machine(), machine()
        for state in (one, other, third):
            await state.lease([])
        assert third.members == 3
        await third.close()
        await asyncio.sleep(0.2)
        await one.lease([])
        assert one.members == 2, "who leaves says so"
        await asyncio.sleep(0.2)
        await one.lease([])
        assert one.members == 1, "who is killed does not"


class TestOutages:
    async def test_it_says_so_once_fails_at_once_and_comes_back(self, machine: Opener, server: RedisServer) -> None:
        told: list[str] = []
        state = machine(changed=told.append, jitter=random.Random(1))
        await state.lease([])
        server.kill()
        for _ in range(20):
            with pytest.raises(SharedUnavailable):
                await state.lease([])
        assert told[0] == ""
        assert "cannot be reached" in told[1]
        assert len(told) == 2
        began = time.perf_counter()
        for _ in range(100):
            with pytest.raises(SharedUnavailable):
                await state.lease([])
        assert time.perf_counter() - began < 0.1, "a dead Redis is not dialled by each call"
        server.start()

        async def back() -> bool:
            try:
                await state.lease([])
            except SharedUnavailable:
                return False
            return True

        await eventually(back)
        assert told[2:] == [""]

    async def test_one_that_hangs_costs_its_deadline(self, machine: Opener, server: RedisServer) -> None:
        state = machine()
        await state.lease([])
        server.signal(signal.SIGSTOP)
        try:
            began = time.perf_counter()
            with pytest.raises(SharedUnavailable, match="does not answer in time"):
                await state.lease([])
            assert time.perf_counter() - began < 3.0
        finally:
            server.signal(signal.SIGCONT)

    async def test_a_sentence_shows_no_password(self, server: RedisServer, tmp_path: object) -> None:
        told: list[str] = []
        url = f"redis://user:s3cret@127.0.0.1:{server.port}"
        state = RedisState(url, prefix="test", changed=told.append)
        with pytest.raises(SharedUnavailable) as failure:
            await state.lease([])
        await state.close()
        assert told == [f"Redis at 127.0.0.1:{server.port} refuses the name or password in `redis.url`"]
        assert "s3cret" not in f"{failure.value!r}{state!r}{told}"
