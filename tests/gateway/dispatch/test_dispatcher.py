"""One worker's dispatch, between a queue in memory and services in memory, on a clock that jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import structlog

from gateway.credentials.store import CredentialStore
from gateway.dispatch import breaker as breaker_rules
from gateway.dispatch import dispatcher as rules
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.returns import STORE_DEADLINE
from gateway.model import Job, Lane, Route, State, new_batch_id, new_job_id
from gateway.observe.health import Readiness
from gateway.queue.base import BATCH_LOAD, DeadTarget, Lease, LeaseLost, NewBatch, QueueError, QueueFull
from gateway.settings import Settings
from providers import PROVIDERS
from providers.base import Message, Rendered, Rows
from providers.stub.request import StubPlan
from tests.gateway.dispatch.scripted import Silent
from tests.gateway.fakes import MemoryQueue
from tests.gateway.virtual import EPOCH, Answer, Behaviour, Fault, Service, until, virtual_loop

LOOPS = ("virtual",)

STUB: Any = type(PROVIDERS["stub"])
SHOP = Route("shop", "stub")
GONE = Answer(410, b'{"reason":"gone"}')


def now() -> float:
    return EPOCH + virtual_loop().time()


class FaultyQueue(MemoryQueue):
    """Raises what it is told to, while it is told to."""

    def __init__(self) -> None:
        super().__init__(lease_seconds=30.0)
        self.fails: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.leases: list[Lease] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]

    async def lease(self, *args: Any) -> list[Lease]:
        self._call("lease")
        leased = await super().lease(*args)
        self.leases += leased
        return leased

    async def checkpoint(self, *args: Any) -> None:
        self._call("checkpoint")
        await super().checkpoint(*args)

    async def complete(self, lease: Lease, dead: Sequence[DeadTarget], when: float) -> None:
        self._call("complete")
        assert all(state >= State.ACCEPTED for state in bytes(lease.progress.states))
        await super().complete(lease, dead, when)

    async def defer(self, *args: Any) -> None:
        self._call("defer")
        await super().defer(*args)

    async def dead_targets(self, *args: Any) -> dict[bytes, DeadTarget]:
        self._call("dead_targets")
        return await super().dead_targets(*args)


class World:
    """A dispatcher, its queue, and a service for each app at `https://APP.example`."""

    def __init__(self, apps: Collection[str] = ("shop", "bank"), key: str | None = None, **dispatch: Any) -> None:
        """Each app has a key of its own, unless one is named for all; `dispatch` are settings."""
        blocks = {app: {"stub": {"key": key or f"k-{app}", "endpoint": f"https://{app}.example"}} for app in apps}
        settings = Settings(apps=blocks, dispatch=dispatch, queue={"lease_seconds": 30.0})  # type: ignore[arg-type]
        self.services = {app: virtual_loop().serve(f"{app}.example", Service()) for app in apps}
        self.queue = FaultyQueue()
        self.readiness = Readiness("queue")
        self.dispatcher = Dispatcher(
            settings,
            self.queue,
            CredentialStore(settings.blocks()),
            Silent(),  # type: ignore[arg-type]
            self.readiness,
            jitter=random.Random(1),
        )
        self.dispatcher._guard = None  # type: ignore[assignment]  # this network has no addresses to look at

    @property
    def shop(self) -> Service:
        return self.services["shop"]

    @property
    def parts(self) -> dict[str, str]:
        """What is wrong, by part."""
        return {name: words for name, (ok, words) in self.readiness._parts.items() if not ok}

    async def submit(
        self,
        *counts: int,
        route: Route = SHOP,
        lane: Lane = Lane.PROMOTIONAL,
        title: str = "hello",
        expires_in: float | None = None,
        resend: bool = False,
        start: int = 0,
    ) -> str:
        """A job of batches of so many deliveries each, to targets `token-0`, `token-1`, …, or from another start."""
        job = Job(
            id=new_job_id(),
            app=route.app,
            lane=lane,
            message=Message(title=title),
            created_at=now(),
            expires_at=None if expires_in is None else now() + expires_in,
            resend_unknown=resend,
        )
        batches = []
        for count in counts:
            tokens = b"\n".join(b"token-%d" % index for index in range(start, start + count))
            blank = b"\n" * (count - 1)
            batches.append(NewBatch(new_batch_id(now()), route, count, tokens, (tokens, blank)))
            start += count
        await self.queue.submit(job, None, batches, b"{}")
        return job.id

    def states(self, job_id: str) -> list[str]:
        batches = self.queue.jobs[job_id].batches
        return [State(state).word for batch in batches for state in batch.progress.states]

    def completed(self, job_id: str) -> bool:
        return all(batch.complete_at is not None for batch in self.queue.jobs[job_id].batches)

    def attempts(self, job_id: str) -> list[int]:
        """How often each batch was leased and given back."""
        return [batch.attempt for batch in self.queue.jobs[job_id].batches]

    async def prove(self) -> None:
        """Have something accepted, so that the shop's route is trusted."""
        behave, self.shop.behave = self.shop.behave, lambda path: Answer()
        await self.complete(await self.submit(1))
        self.shop.behave = behave

    async def complete(self, job_id: str, seconds: float = 60.0) -> list[str]:
        await until(lambda: self.completed(job_id), seconds)
        return self.states(job_id)

    @asynccontextmanager
    async def run(self, drain: float = 1.0) -> AsyncIterator[None]:
        running = asyncio.create_task(self.dispatcher.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
            await self.dispatcher.drain(drain)
        assert running.cancelled()
        for sender in self.dispatcher._senders.values():
            assert sender.load().on_wire == 0


def hang(*paths: str) -> Behaviour:
    return lambda path: Fault("hang") if path.removeprefix("/push/") in paths or not paths else Answer()


def after(seconds: float, first: Answer | Fault) -> Behaviour:
    """`first`, until so many seconds have passed."""
    end = virtual_loop().time() + seconds
    return lambda path: first if virtual_loop().time() < end else Answer()


async def test_what_is_queued_is_sent_and_gets_its_receipts() -> None:
    world = World()
    async with world.run():
        job = await world.submit(100, 50, 1)
        assert await world.complete(job, 2.0) == ["accepted"] * 151
        assert world.shop.taken == 151
        assert max(world.shop.paths.values()) == 1


async def test_a_one_time_code_leaves_within_milliseconds_of_its_lease_during_a_campaign() -> None:
    world = World()
    async with world.run():
        await world.submit(*[1000] * 20)
        await until(lambda: world.shop.taken > 1000)
        code = await world.submit(1, lane=Lane.TRANSACTIONAL)
        start = virtual_loop().time()
        await world.complete(code, 1.0)
        assert virtual_loop().time() - start < 0.3


async def test_a_one_time_code_needs_no_lease_of_its_own() -> None:
    """It is handed over as it is stored, also during a campaign, and nothing is looked for after it."""
    world = World()
    async with world.run():
        await world.submit(*[1000] * 5)
        await until(lambda: world.shop.taken > 1000)
        code = await world.submit(1, lane=Lane.TRANSACTIONAL)
        assert world.attempts(code) == [1]
        await world.complete(code, 1.0)
        await asyncio.sleep(5.0)
        before = world.queue.calls.count("lease")
        start = virtual_loop().time()
        for _ in range(100):
            await world.complete(await world.submit(1, lane=Lane.TRANSACTIONAL), 1.0)
        assert world.queue.calls.count("lease") - before <= (virtual_loop().time() - start) / rules.POLL + 1


async def test_codes_that_wait_in_the_queue_are_not_overtaken() -> None:
    """As long as a lease may have left some, those that come have to wait behind them."""
    world = World()
    world.shop.behave = hang()
    async with world.run():
        await asyncio.sleep(1.0)
        share = rules.CAPACITY[Lane.TRANSACTIONAL] // 2
        await world.submit(*[1000 - BATCH_LOAD] * (share // 1000), lane=Lane.TRANSACTIONAL)
        code = await world.submit(1, lane=Lane.TRANSACTIONAL)
        assert world.attempts(code) == [0]
        sender = world.dispatcher._senders[SHOP]
        await until(lambda: len(sender.flights) == share // 1000)
        sender.remove(next(iter(sender.flights)))
        later = await world.submit(1, lane=Lane.TRANSACTIONAL)
        assert (world.attempts(code), world.attempts(later)) == ([0], [0])


async def test_after_the_machine_slept_what_is_left_goes_on_at_once() -> None:
    """The loop's clock stood still meanwhile: a renewal is not waited for as long as a lease lasts."""
    world = World()
    world.shop.latency = 0.5
    async with world.run():
        job = await world.submit(1000)
        await until(lambda: world.shop.taken > 100)
        for lease in world.queue.leases:
            lease.until -= 60.0
        await world.complete(job, 8.0)


async def test_a_route_that_cannot_send_does_not_keep_others_codes_from_being_handed_over() -> None:
    """What waits for it waits before its own codes alone."""
    world = World()
    world.services["bank"].refuses = ConnectionRefusedError()
    async with world.run():
        await asyncio.sleep(5.0)
        code = await world.submit(1, lane=Lane.TRANSACTIONAL)
        theirs = await world.submit(1, lane=Lane.TRANSACTIONAL, route=Route("bank", "stub"))
        assert (world.attempts(code), world.attempts(theirs)) == ([1], [0])


async def test_a_route_has_no_more_batches_in_hand_than_it_may() -> None:
    world = World(deliveries_per_route=100)
    world.shop.behave = hang()
    async with world.run():
        await asyncio.sleep(1.0)
        await world.submit(*[10] * 20)
        await asyncio.sleep(2.0)
        assert len(world.queue.leases) == 3


class TestNeighbours:
    """A provider or app that is down never slows another."""

    @pytest.mark.parametrize("kind", ["refused", "silent", "hang", "unavailable", "refuse", "credential"])
    async def test_one_that_is_down(self, kind: str) -> None:
        world = World()
        behaviours: dict[str, Behaviour] = {
            "hang": hang(),
            "unavailable": lambda path: Answer(503),
            "refuse": lambda path: Fault("refuse"),
            "credential": lambda path: Answer(401),
        }
        world.shop.refuses = ConnectionRefusedError(111, "Connection refused") if kind == "refused" else None
        world.shop.silent = kind == "silent"
        world.shop.behave = behaviours.get(kind, world.shop.behave)
        async with world.run():
            await world.submit(*[100] * 30)
            await asyncio.sleep(5.0)
            other = await world.submit(*[100] * 10, route=Route("bank", "stub"))
            start = virtual_loop().time()
            await world.complete(other, 5.0)
            assert virtual_loop().time() - start < 1.0

    async def test_a_crowd_of_them(self) -> None:
        """However many routes cannot be reached and however much they have to send."""
        down = [f"app{number}" for number in range(25)]
        world = World(["bank", *down])
        for app in down:
            world.services[app].silent = True
        async with world.run():
            for app in down:
                await world.submit(*[10] * 30, route=Route(app, "stub"))
                await world.submit(*[1] * 30, route=Route(app, "stub"), lane=Lane.TRANSACTIONAL)
            waits = []
            for _ in range(12):
                await asyncio.sleep(2.0)
                other = await world.submit(10, 10, route=Route("bank", "stub"))
                start = virtual_loop().time()
                await world.complete(other, 5.0)
                waits.append(virtual_loop().time() - start)
            assert max(waits) < 0.5
            for app in down:
                world.services[app].silent = False
            jobs = [job for job in world.queue.jobs if not world.completed(job)]
            for job in jobs:
                assert set(await world.complete(job, 200.0)) == {"accepted"}

    async def test_no_route_takes_all_there_is(self) -> None:
        world = World(deliveries_per_route=10**9)
        world.shop.behave = hang()
        async with world.run():
            await asyncio.sleep(1.0)
            await world.submit(*[1000] * 200)
            await asyncio.sleep(3.0)
            assert len(world.queue.leases) == rules.CAPACITY[Lane.PROMOTIONAL] // 2 // 1032 + 1
            other = await world.submit(*[10] * 3, route=Route("bank", "stub"))
            await world.complete(other, 1.0)


class TestTrouble:
    async def test_a_route_that_is_back_is_found_by_one_batch_and_then_gets_all(self) -> None:
        world = World()
        world.shop.behave = after(40.0, Answer(401))
        async with world.run():
            job = await world.submit(*[50] * 12)
            await asyncio.sleep(5.0)
            assert set(world.states(job)) == {"pending"}
            assert not any(sender.flights for sender in world.dispatcher._senders.values()), "they wait in the queue"
            assert "carillon credentials list" in world.parts["route shop/stub"]
            before = world.shop.taken
            await asyncio.sleep(breaker_rules.CREDENTIAL_HOLD - 10.0)
            assert world.shop.taken == before
            assert await world.complete(job, 30.0) == ["accepted"] * 600
            assert "route shop/stub" not in world.parts

    async def test_short_holds_keep_their_batches_in_hand(self) -> None:
        world = World()
        world.shop.behave = after(3.0, Answer(503, headers=(("retry-after", "1"),)))
        async with world.run():
            job = await world.submit(200)
            assert await world.complete(job, 30.0) == ["accepted"] * 200
            assert world.attempts(job) == [1]

    async def test_while_it_is_down_it_is_asked_by_one_request_at_a_time(self) -> None:
        world = World()
        world.shop.behave = lambda path: Answer(503)
        async with world.run():
            job = await world.submit(*[1000] * 3)
            await asyncio.sleep(3.0)
            before = world.shop.taken
            await asyncio.sleep(600.0)
            growing = 4  # holds before one is as long as it gets
            assert world.shop.taken - before <= 600.0 / breaker_rules.UNAVAILABLE_CEILING + growing
            world.shop.behave = lambda path: Answer()
            assert set(await world.complete(job, 1200.0)) == {"accepted"}

    async def test_a_refused_credential_stops_whoever_signs_with_it(self) -> None:
        """Its other app asks nothing while it is held, and then probes for itself."""
        world = World(key="shared")
        world.shop.behave = lambda path: Answer(401)
        async with world.run():
            await world.submit(100)
            await asyncio.sleep(1.0)
            other = await world.submit(100, route=Route("bank", "stub"))
            await asyncio.sleep(breaker_rules.CREDENTIAL_HOLD / 2)
            assert world.services["bank"].taken == 0
            assert "credential" in world.parts["route bank/stub"]
            assert set(await world.complete(other, 2 * breaker_rules.CREDENTIAL_HOLD)) == {"accepted"}

    async def test_an_app_that_is_throttled_holds_all_its_origins(self) -> None:
        world = World()
        origin = virtual_loop().serve("origin.example", Service())
        elsewhere = Route("shop", "stub", "https://origin.example")
        world.shop.behave = lambda path: Answer(429, headers=(("retry-after", "30"),))
        async with world.run():
            await world.complete(await world.submit(1, route=elsewhere))
            await world.submit(100)
            await asyncio.sleep(1.0)
            held = await world.submit(100, route=elsewhere)
            other = await world.submit(100, route=Route("bank", "stub"))
            assert set(await world.complete(other, 5.0)) == {"accepted"}
            assert origin.taken == 1
            assert set(await world.complete(held, 120.0)) == {"accepted"}

    async def test_a_wrong_configuration_stops_the_route_and_invalidates_nothing(self) -> None:
        world = World()
        world.shop.behave = lambda path: GONE
        async with world.run():
            job = await world.submit(*[1000] * 10)
            await asyncio.sleep(60.0)
            assert not world.queue.dead
            assert world.shop.taken < 3000
            assert "no token is invalidated" in world.parts["route shop/stub"]
            await asyncio.sleep(700.0)
            assert not world.queue.dead
            assert world.shop.taken < 3000
            assert "pending" in world.states(job)

    async def test_dead_targets_are_told_to_the_queue_once(self) -> None:
        world = World()
        world.shop.behave = lambda path: GONE if path.endswith("7") else Answer()
        async with world.run():
            first = await world.submit(100)
            assert (await world.complete(first)).count("invalid_token") == 10
            assert len(world.queue.dead) == 10
            again = await world.submit(100)
            assert (await world.complete(again)).count("invalid_token") == 10
            assert world.shop.taken == 190

    async def test_a_route_without_connection_says_so_and_then_no_more(self) -> None:
        world = World()
        world.shop.refuses = ConnectionRefusedError(111, "Connection refused")
        async with world.run():
            await asyncio.sleep(5.0)
            assert world.parts["route shop/stub"] == "cannot connect: Connection refused; jobs wait"
            world.shop.refuses = None
            await until(lambda: "route shop/stub" not in world.parts, 30.0)


class TestRetries:
    async def test_a_failure_is_tried_again(self) -> None:
        world = World()
        world.shop.behave = lambda path: Answer(503) if world.shop.paths[path] < 3 else Answer()
        async with world.run():
            job = await world.submit(5)
            assert await world.complete(job) == ["accepted"] * 5
            assert world.shop.taken == 15

    async def test_whoever_only_waits_for_long_waits_in_the_queue(self) -> None:
        world = World()
        slow = Answer(503, headers=(("retry-after", "300"),))
        world.shop.behave = lambda path: slow if path.endswith("-3") and world.shop.paths[path] < 2 else Answer()
        async with world.run():
            job = await world.submit(5)
            await asyncio.sleep(5.0)
            assert world.states(job) == ["accepted", "accepted", "accepted", "pending", "accepted"]
            assert not any(sender.flights for sender in world.dispatcher._senders.values())
            assert world.queue.jobs[job].batches[0].held_until - virtual_loop().time() == pytest.approx(330, abs=60)
            await world.complete(job, 400.0)
            assert world.shop.arrivals[-1] - world.shop.arrivals[0] > 300

    async def test_a_tail_that_waits_is_readable(self) -> None:
        world = World()
        world.shop.behave = lambda path: Answer(503) if path.endswith("-3") else Answer()
        async with world.run():
            job = await world.submit(5)
            await asyncio.sleep(4.0)
            assert world.states(job).count("accepted") == 4

    async def test_nothing_is_sent_after_its_expiry(self) -> None:
        world = World()
        world.shop.refuses = ConnectionRefusedError(111, "Connection refused")
        async with world.run():
            job = await world.submit(5, 5, expires_in=30.0)
            await asyncio.sleep(29.0)
            world.shop.refuses = None
            assert set(await world.complete(job, 90.0)) <= {"accepted", "expired"}
            assert all(at <= 1030.0 for at in world.shop.arrivals)

    async def test_those_that_expired_while_the_route_was_held_end_as_soon_as_it_is_tried(self) -> None:
        world = World()
        world.shop.behave = lambda path: Answer(401)
        async with world.run():
            expiring = await world.submit(*[5] * 12, expires_in=30.0)
            lasting = await world.submit(5)
            await asyncio.sleep(5.0)
            assert all(batch.held_until <= 1036.0 for batch in world.queue.jobs[expiring].batches), (
                "not to be waited for"
            )
            assert set(await world.complete(expiring, breaker_rules.CREDENTIAL_HOLD + 15.0)) == {"expired"}
            assert set(world.states(lasting)) == {"pending"}


class TestPoison:
    """A batch that cannot be prepared."""

    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """When a message titled `poison` was compiled, which raises."""
        compile_stub, tried = STUB.compile, list[float]()

        def compile_message(self: Any, message: Message, *args: Any) -> Any:
            if message.title == "poison":
                tried.append(now())
                raise KeyError("the words of a message that must not be logged")
            return compile_stub(self, message, *args)

        monkeypatch.setattr(STUB, "compile", compile_message)
        return tried

    async def test_while_it_is_prepared_its_lease_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a process's death is put down to the batch that it was at work on."""
        world, compile_stub, marks, leases = World(), STUB.compile, list[list[int]](), list[Lease]()
        lease = world.queue.lease

        async def leased(*arguments: Any) -> list[Lease]:
            taken = await lease(*arguments)
            leases.extend(taken)
            return taken

        def compile_message(self: Any, *args: Any) -> Any:
            marks.append([each.at_work[0] for each in leases])
            return compile_stub(self, *args)

        monkeypatch.setattr(world.queue, "lease", leased)
        monkeypatch.setattr(STUB, "compile", compile_message)
        jobs = [await world.submit(2, title=title) for title in ("first", "second")]
        async with world.run():
            for job in jobs:
                assert await world.complete(job, 5.0) == ["accepted"] * 2
        assert [sum(mark) for mark in marks] == [1, 1]
        assert not any(each.at_work[0] for each in leases)

    async def test_the_others_go_on_and_it_waits_longer_and_longer(self, broken: list[float]) -> None:
        world = World()
        async with world.run():
            poison = await world.submit(5, title="poison")
            other = await world.submit(5)
            assert await world.complete(other, 1.0) == ["accepted"] * 5
            await asyncio.sleep(600.0)
            waits = [later - earlier for earlier, later in pairwise(broken)]
            assert waits == pytest.approx([1, 2, 4, 8, 16, 32, *[60] * (len(waits) - 6)], abs=0.5)
            assert world.states(poison) == ["pending"] * 5

    async def test_in_the_end_it_is_dead_lettered_with_the_reason(self, broken: list[float]) -> None:
        """20 tries by default; the receipts say where it failed, and nothing of it is reported any more."""
        world = World()
        with structlog.testing.capture_logs() as logs:
            async with world.run():
                poison = await world.submit(5, title="poison")
                assert await world.complete(poison, 1000.0) == ["dead_lettered"] * 5
                assert f"job {poison}" not in world.parts
        assert len(broken) == 20
        (stored,) = world.queue.jobs[poison].batches
        assert "20 times: KeyError in compile_message" in stored.progress.notes[4].reason
        assert [line["event"] for line in logs].count("batch.dead_lettered") == 1
        assert "words of a message" not in str(logs) + str(stored.progress.notes)

    async def test_its_expiry_comes_first(self, broken: list[float]) -> None:
        world = World()
        async with world.run():
            poison = await world.submit(5, title="poison", expires_in=20.0)
            assert await world.complete(poison, 25.0) == ["expired"] * 5
            assert len(broken) < 20

    async def test_it_is_told_without_a_word_of_the_message(self, broken: list[float]) -> None:
        world = World()
        with structlog.testing.capture_logs() as logs:
            async with world.run():
                poison = await world.submit(5, title="poison")
                await asyncio.sleep(1.0)
                assert "KeyError in compile_message, line" in world.parts[f"job {poison}"]
        (line, *_) = [each for each in logs if each["event"] == "batch.set_aside"]
        assert (line["job"], line["failures"]) == (poison, 1)
        assert "words of a message" not in str(logs)

    async def test_when_it_can_be_prepared_it_is_sent(
        self, broken: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World()
        async with world.run():
            poison = await world.submit(5, title="poison")
            await asyncio.sleep(1.0)
            monkeypatch.undo()
            monkeypatch.setattr("time.time", now)
            assert await world.complete(poison, 65.0) == ["accepted"] * 5
            assert f"job {poison}" not in world.parts

    async def test_one_that_fails_while_it_is_rendered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        render = StubPlan.render

        def render_or_not(self: StubPlan, rows: Rows, when: float) -> Rendered:
            if b"token-1007" in rows.targets[0]:
                raise ZeroDivisionError
            return render(self, rows, when)

        monkeypatch.setattr(StubPlan, "render", render_or_not)
        world = World()
        async with world.run():
            job = await world.submit(1000, 1000, 1000)
            await asyncio.sleep(130.0)
            states = world.states(job)
            assert states[:1000] == states[2000:] == ["accepted"] * 1000
            assert states[1007] == "pending"
            assert max(world.shop.paths.values()) == 1, "what of it went before is not sent again"

    async def test_a_queue_that_fails_while_batches_are_boarded_keeps_none_of_them(self) -> None:
        """What was leased and not given back would count as sent when its lease runs out."""
        world = World()
        world.queue.fails["dead_targets"] = QueueError("the disk is slow")
        async with world.run():
            job = await world.submit(5, 5, 5)
            await asyncio.sleep(1.0)
            del world.queue.fails["dead_targets"]
            assert await world.complete(job, 65.0) == ["accepted"] * 15
            assert world.shop.taken == 15


class TestTheQueue:
    async def test_a_lease_that_was_lost_is_forgotten(self) -> None:
        world = World(request_timeout=60.0)
        world.shop.behave = hang()
        async with world.run():
            job = await world.submit(1000)
            await until(lambda: world.shop.taken)
            world.queue.fails["lease"] = QueueError("no more for this test")
            world.queue.fails["checkpoint"] = LeaseLost("another holder has it")
            await until(lambda: "checkpoint" in world.queue.calls)
            await asyncio.sleep(1.0)
            assert not any(sender.flights for sender in world.dispatcher._senders.values())
            taken = world.shop.taken
            world.shop.behave = lambda path: Answer()
            await asyncio.sleep(120.0)
            assert world.shop.taken == taken
            assert world.states(job) == ["pending"] * 1000, "nothing was written into it"

    async def test_a_completed_batch_whose_lease_was_lost_is_forgotten(self) -> None:
        world = World()
        world.queue.fails["complete"] = LeaseLost("another holder has it")
        async with world.run():
            await world.submit(5)
            await until(lambda: "complete" in world.queue.calls)
            await asyncio.sleep(5.0)
            assert world.queue.calls.count("complete") == 1

    async def test_a_full_disk_is_waited_for_and_nothing_is_leased_meanwhile(self) -> None:
        """Else a lease could run out under a batch whose receipts are not stored, and all of it be sent again."""
        world = World()
        world.queue.fails["complete"] = QueueFull("the disk is full: make room")
        async with world.run():
            job = await world.submit(*[10] * 40)
            await asyncio.sleep(5.0)
            leased, calls = len(world.queue.leases), world.queue.calls.count("lease")
            assert world.parts["queue"] == "the disk is full: make room"
            await asyncio.sleep(60.0)
            assert len(world.queue.leases) == leased
            assert world.queue.calls.count("lease") == calls
            del world.queue.fails["complete"]
            assert await world.complete(job, 10.0) == ["accepted"] * 400
            assert max(world.shop.paths.values()) == 1
            assert "queue" not in world.parts

    async def test_checkpoints_do_not_pile_up_while_the_disk_is_full(self) -> None:
        world = World(request_timeout=600.0)
        world.shop.behave = hang("token-3")
        async with world.run():
            job = await world.submit(5)
            await until(lambda: world.shop.taken)
            world.queue.fails["checkpoint"] = world.queue.fails["lease"] = QueueFull("the disk is full")
            await asyncio.sleep(120.0)
            assert world.queue.calls.count("checkpoint") <= 120 // 5  # each sixth of a lease
            assert len(world.dispatcher._returns._tasks) <= 1
            world.shop.behave = lambda path: Answer()
            world.queue.fails.clear()
            await asyncio.sleep(15.0)
            assert world.states(job).count("accepted") >= 4

    async def test_dead_targets_survive_a_checkpoint_that_failed(self) -> None:
        world = World(request_timeout=40.0)
        world.shop.behave = lambda path: GONE if path.endswith("0") else Fault("hang")
        world.queue.fails["checkpoint"] = QueueFull("the disk is full")
        async with world.run():
            await world.prove()
            await world.submit(2)
            await asyncio.sleep(20.0)
            assert not world.queue.dead
            del world.queue.fails["checkpoint"]
            await asyncio.sleep(30.0)
            assert [key for _, key in world.queue.dead] == [b"token-0"]

    async def test_leases_are_extended_while_their_batches_fly(self) -> None:
        world = World(request_timeout=100.0)
        world.shop.behave = hang("token-3")
        async with world.run():
            job = await world.submit(5)
            await asyncio.sleep(90.0)
            assert world.attempts(job) == [1]
            assert world.queue.jobs[job].batches[0].held_until > virtual_loop().time()

    async def test_a_queue_that_cannot_lease_is_asked_again(self) -> None:
        world = World()
        world.queue.fails["lease"] = QueueError("the disk fails: look at it")
        async with world.run():
            await asyncio.sleep(10.0)
            assert world.parts["queue"] == "the disk fails: look at it"
            assert len(world.queue.calls) < 20
            del world.queue.fails["lease"]
            job = await world.submit(5)
            assert await world.complete(job, 3.0) == ["accepted"] * 5
            assert "queue" not in world.parts

    async def test_a_route_that_is_not_configured_any_more_waits(self) -> None:
        world = World()
        async with world.run():
            job = await world.submit(5, route=Route("former", "stub"))
            await asyncio.sleep(180.0)
            assert 3 <= len(world.queue.leases) <= 4
            assert world.states(job) == ["pending"] * 5
            assert "add it, or cancel them" in world.parts["route former/stub"]


class TestCancelling:
    async def test_what_is_not_sent_yet_ends_soon(self) -> None:
        world = World(deliveries_per_route=600)
        world.shop.behave = lambda path: Answer(delay=1.0)
        async with world.run():
            job = await world.submit(300, 300)
            await until(lambda: world.shop.taken >= 100)
            await world.queue.cancel(job, now())
            states = await world.complete(job, 3.0)
            assert states.count("accepted") == world.shop.taken
            assert states.count("cancelled") == 600 - world.shop.taken

    async def test_a_job_that_was_cancelled_before_it_is_leased_is_not_sent(self) -> None:
        world = World()
        job = await world.submit(5)
        await world.queue.cancel(job, now())
        async with world.run():
            assert await world.complete(job, 1.0) == ["cancelled"] * 5
            assert world.shop.taken == 0


class TestDraining:
    async def test_what_is_on_the_wire_may_finish_and_the_rest_is_given_back_at_once(self) -> None:
        world = World()
        world.shop.behave = lambda path: Answer(delay=3.0)
        async with world.run(drain=10.0):
            flying = await world.submit(60)
            await until(lambda: world.shop.taken == 60)
            waiting = await world.submit(1000, 1000)
            await until(lambda: len(world.queue.leases) == 3)
            start = virtual_loop().time()
        assert virtual_loop().time() - start < 5.0
        assert world.completed(flying)
        states = world.states(waiting)
        assert states.count("accepted") + states.count("pending") == 2000
        assert states.count("accepted") == world.shop.taken - 60
        for batch in world.queue.jobs[waiting].batches:
            assert batch.held_until <= now(), "others can have it"

    async def test_what_does_not_finish_is_unknown_or_goes_again(self) -> None:
        world = World()
        world.shop.behave = hang()
        async with world.run(drain=2.0):
            report = await world.submit(1)
            resend = await world.submit(1, resend=True)
            await until(lambda: world.shop.taken == 2)
        assert world.states(report) == ["unknown"]
        assert world.states(resend) == ["pending"]
        batch = world.queue.jobs[resend].batches[0]
        assert batch.held_until <= now()
        assert batch.progress.notes[0].unanswered == 1
        assert batch.progress.notes[0].attempts == 2

    async def test_leases_outlast_it(self) -> None:
        world = World(request_timeout=60.0)
        world.shop.behave = lambda path: Answer(delay=18.0) if path.endswith("-1") else Answer()
        async with world.run(drain=20.0):
            job = await world.submit(2)
            await asyncio.sleep(9.0)
            before = world.queue.jobs[job].batches[0].held_until
        assert world.queue.calls.count("checkpoint") == 1
        assert before - now() < 20
        assert world.states(job) == ["accepted"] * 2

    async def test_a_full_disk_does_not_keep_it(self) -> None:
        world = World()
        world.queue.fails["complete"] = world.queue.fails["defer"] = QueueFull("the disk is full")
        async with world.run():
            await world.submit(5)
            await until(lambda: "complete" in world.queue.calls)
            start = virtual_loop().time()
        assert virtual_loop().time() - start < 1.0 + STORE_DEADLINE + 0.5

    async def test_with_nothing_to_do_it_takes_no_time(self) -> None:
        world = World()
        async with world.run(drain=20.0):
            await asyncio.sleep(1.0)
            start = virtual_loop().time()
        assert virtual_loop().time() - start < 0.1


class TestConnections:
    async def test_a_route_takes_one_batch_until_it_has_a_connection(self) -> None:
        """Whether there will be one nobody knows; until then the others' room is not for it."""
        world = World()
        world.shop.latency = 1.0
        async with world.run():
            job = await world.submit(*[10] * 10)
            await asyncio.sleep(2.0)
            assert [len(sender.flights) for sender in world.dispatcher._senders.values()] == [1, 0]
            await world.complete(job, 20.0)
            assert max(world.shop.paths.values()) == 1

    async def test_those_to_an_apps_own_endpoint_are_open_before_there_is_work_and_stay(self) -> None:
        world = World()
        async with world.run():
            await asyncio.sleep(1.0)
            assert [len(service.open) for service in world.services.values()] == [1, 1]
            await asyncio.sleep(2 * rules.IDLE_SENDER)
            assert [len(service.dials) for service in world.services.values()] == [1, 1]

    async def test_those_to_a_recipients_origin_are_closed_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(STUB, "single_origin", False)
        world = World()
        origin = virtual_loop().serve("origin.example", Service())
        async with world.run():
            route = Route("shop", "stub", "https://origin.example")
            await world.complete(await world.submit(5, route=route))
            await asyncio.sleep(rules.IDLE_SENDER - 5)
            assert origin.open
            await asyncio.sleep(10.0)
            assert not origin.open
            await world.complete(await world.submit(5, route=route), 1.0)
            assert origin.taken == 10

    async def test_a_route_in_trouble_is_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Or a wrong configuration would be found out anew, at the cost of 500 targets each time."""
        monkeypatch.setattr(STUB, "single_origin", False)
        world = World()
        origin = virtual_loop().serve("origin.example", Service(lambda path: GONE))
        async with world.run():
            await world.submit(*[1000] * 10, route=Route("shop", "stub", "https://origin.example"))
            await asyncio.sleep(700.0)
            assert origin.taken < 3000
            assert not world.queue.dead


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_storm_each_delivery_has_one_receipt(seed: int) -> None:
    """Services that fail in all their ways, over several routes, with cancellations and a disk that fills up."""
    draw = random.Random(seed)
    world = World(["shop", "bank", "club"], request_timeout=5.0, max_attempts=6, backoff_base=0.5, backoff_cap=10.0)
    bad = [Answer(503), Answer(429, headers=(("retry-after", "2"),)), GONE, Answer(400), Answer(401)]
    faults = [Fault(kind) for kind in ("hang", "refuse", "reset", "cut", "goaway")]

    def storm(path: str) -> Answer | Fault:
        if draw.random() < 0.1:
            return draw.choice([*bad[:4], *faults] if draw.random() < 0.98 else bad)
        return Answer(delay=draw.random() / 10)

    for service in world.services.values():
        service.behave = storm
    async with world.run():
        jobs = []
        for _ in range(25):
            counts = [draw.randrange(1, 60) for _ in range(draw.randrange(1, 6))]
            route = Route(draw.choice(["shop", "bank", "club"]), "stub")
            jobs.append(
                await world.submit(
                    *counts,
                    route=route,
                    lane=draw.choice(list(Lane)),
                    resend=draw.random() < 0.5,
                    expires_in=draw.choice([None, 5.0, 100.0]),
                )
            )
            await asyncio.sleep(2 * draw.random())
            if draw.random() < 0.2:
                await world.queue.cancel(draw.choice(jobs), now())
            if draw.random() < 0.2:
                world.queue.fails["complete"] = QueueFull("the disk is full")
            elif draw.random() < 0.7:
                world.queue.fails.clear()
        world.queue.fails.clear()
        for service in world.services.values():
            service.behave = lambda path: Answer()
        for job in jobs:
            await world.complete(job, 600.0)
        terminal = [State(state) for state in State if state >= State.ACCEPTED]
        words = {state.word for state in terminal}
        assert all(set(world.states(job)) <= words for job in jobs)
        for app in world.services:  # a route in trouble learns that it is over from its next request
            await world.complete(await world.submit(1, route=Route(app, "stub")), 70.0)
        await asyncio.sleep(70.0)
        for sender in world.dispatcher._senders.values():
            assert sender.load() == (0, 0, 0)
            assert sender.pool.counts().streams == 0
            assert sender.breaker.cause is None
        assert not world.dispatcher._returns._tasks
        assert not world.parts


async def test_a_job_expires_although_its_route_is_no_longer_configured() -> None:
    """Nobody can send it, and nobody wants it any more: it ends once, without going round and round."""
    world = World(apps=["shop"])
    async with world.run():
        job = await world.submit(5, route=Route("gone", "stub"), expires_in=90.0)
        await asyncio.sleep(80.0)
        assert world.states(job) == ["pending"] * 5
        assert await world.complete(job, 60.0) == ["expired"] * 5
        assert world.attempts(job)[0] < 10


async def test_what_a_dead_holder_had_on_the_wire_is_unknown_when_its_job_has_expired() -> None:
    """It may have been sent: nobody can say that it expired."""
    world = World(apps=["shop"])
    job = await world.submit(2, route=Route("gone", "stub"), expires_in=1.0, resend=True)
    world.queue.jobs[job].batches[0].progress.states[0] = State.SENT
    await asyncio.sleep(2.0)
    async with world.run():
        assert await world.complete(job, 5.0) == ["unknown", "expired"]


async def test_what_a_dead_holder_had_on_the_wire_is_noted_before_it_is_sent_again() -> None:
    """Or it would be forgotten if the next holder died too, and a receipt could say that it was never sent."""
    world = World()
    job = await world.submit(3, resend=True)
    (stored,) = world.queue.jobs[job].batches
    stored.progress.states[:2] = bytes([State.SENT] * 2)
    stored.attempt = 1
    noted = []

    def behave(path: str) -> Answer:
        noted.append({index: note.unanswered for index, note in stored.progress.notes.items()})
        return Answer()

    world.shop.behave = behave
    async with world.run():
        assert await world.complete(job, 5.0) == ["accepted"] * 3
    assert noted == [{0: 1, 1: 1}] * 3


@pytest.mark.parametrize("resend", [False, True])
async def test_what_a_dead_holder_had_on_the_wire_shows_as_sent_until_it_is_noted(resend: bool) -> None:
    """The recorder is all that is left of a process that dies while its checkpoint is under way."""
    world = World()
    job = await world.submit(3, resend=resend)
    (stored,) = world.queue.jobs[job].batches
    stored.progress.states[:2] = bytes([State.SENT] * 2)
    stored.attempt = 1
    lease, checkpoint = world.queue.lease, world.queue.checkpoint
    columns, shown = [], []

    async def leasing(*args: Any) -> list[Lease]:
        leased = await lease(*args)
        columns.extend(each.progress.states for each in leased)
        return leased

    async def checkpointing(*args: Any) -> None:
        shown.append(bytes(columns[0]))
        await checkpoint(*args)
        shown.append(bytes(columns[0]))

    world.queue.lease, world.queue.checkpoint = leasing, checkpointing  # type: ignore[method-assign]
    async with world.run():
        await world.complete(job, 5.0)
    assert shown == [bytes([State.SENT, State.SENT, State.PENDING])] * 2
    assert bytes(columns[0]) == bytes([State.ACCEPTED] * 3 if resend else [State.UNKNOWN] * 2 + [State.ACCEPTED])


async def test_a_lease_that_arrives_while_draining_is_given_back_at_once() -> None:
    """Another worker can have it, and nothing of it is sent any more."""
    world = World()
    world.dispatcher._stopping = lambda: bool(world.queue.leases)  # type: ignore[method-assign]
    async with world.run():
        job = await world.submit(3)
        await until(lambda: world.queue.calls.count("defer") == 1)
        await asyncio.sleep(1.0)
        assert world.states(job) == ["pending"] * 3
        assert world.shop.taken == 0
