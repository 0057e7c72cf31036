"""One delivery that ends the connections it travels on: it ends alone, and the others arrive."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence

import pytest

from gateway.dispatch.flight import SUSPECT_CUTS, Flight
from gateway.dispatch.quarantine import POISON_CUTS, POISONOUS, UNUSED
from gateway.http2.connection import Requests
from gateway.http2.results import Results
from gateway.model import Note, State
from tests.gateway.dispatch.scripted import Bench, flight, lease
from tests.gateway.dispatch.test_dispatcher import World
from tests.gateway.virtual import Answer, Behaviour, Fault, virtual_loop

LOOPS = ("virtual",)


def cut_by(*tokens: str) -> Behaviour:
    paths = {f"/push/{token}" for token in tokens}
    return lambda path: Fault("cut") if path in paths else Answer(delay=0.05)


async def complete(world: World, job: str) -> list[str]:
    """Others' traffic shows meanwhile that the service is well: a poison that is left alone would be its victim."""
    others = itertools.count(10_000)
    while not world.completed(job):
        await world.complete(await world.submit(1, start=next(others)))
        await asyncio.sleep(0.5)
    return world.states(job)


class TestPoison:
    """A service, or a box on the way, that ends the connection whenever it sees a certain token."""

    @pytest.mark.parametrize("count", [400, 2000])
    async def test_all_others_are_accepted_and_the_poison_ends(self, count: int) -> None:
        world = World()
        world.shop.behave = cut_by("token-7")
        async with world.run():
            job = await world.submit(*[min(count, 1000)] * (count // min(count, 1000)), resend=True)
            states = await complete(world, job)
        assert Counter(states) == {"accepted": count - 1, "unknown": 1}
        assert states[7] == "unknown"
        (note,) = [stored.progress.notes[7] for stored in world.queue.jobs[job].batches[:1]]
        assert (note.reason, note.cuts) == (POISONOUS, POISON_CUTS)
        assert world.shop.paths["/push/token-7"] == POISON_CUTS
        others = [times for path, times in world.shop.paths.items() if path != "/push/token-7"]
        assert max(others) <= 1 + SUSPECT_CUTS, "alone, it takes nobody along"
        duplicates = sum(times - 1 for times in others)
        assert duplicates <= SUSPECT_CUTS * world.shop.streams, "no more than was on the connections it ended"

    async def test_their_connection_is_closed_when_there_are_no_more_of_them(self) -> None:
        """And opened again for the next one."""
        world = World()
        world.shop.behave = cut_by("token-7")
        async with world.run():
            for _ in range(2):
                await complete(world, await world.submit(400, resend=True))
                await asyncio.sleep(UNUSED / 2)
                with_theirs = len(world.shop.open)
                await asyncio.sleep(UNUSED)
                assert len(world.shop.open) == with_theirs - 1

    async def test_several_poisons(self) -> None:
        world = World()
        world.shop.behave = cut_by("token-7", "token-300", "token-999")
        async with world.run():
            job = await world.submit(1000, resend=True)
            states = await complete(world, job)
        assert Counter(states) == {"accepted": 997, "unknown": 3}
        assert {states[index] for index in (7, 300, 999)} == {"unknown"}

    async def test_jobs_behind_it_are_not_held_up(self) -> None:
        world = World()
        world.shop.behave = cut_by("token-7")
        async with world.run():
            await world.submit(100, resend=True)
            await asyncio.sleep(8.0)
            world.shop.behave = cut_by("token-7")
            other = await world.submit(1, resend=True)
            start = virtual_loop().time()
            await world.complete(other, 5.0)
            assert virtual_loop().time() - start < 1.0

    async def test_what_is_not_to_be_sent_twice_is_unknown_at_the_first_cut(self) -> None:
        world = World()
        world.shop.behave = cut_by("token-7")
        async with world.run():
            job = await world.submit(400)
            states = await world.complete(job, 60.0)
        assert set(states) == {"accepted", "unknown"}
        assert max(world.shop.paths.values()) == 1


class TestOutage:
    async def test_connections_that_break_off_together_make_no_suspects(self) -> None:
        """Nobody is to blame while nothing is answered."""
        world = World()
        world.shop.behave = lambda path: Answer(delay=0.05)
        async with world.run():
            first = await world.submit(1)
            await world.complete(first)
            world.shop.behave = lambda path: Fault("cut")
            job = await world.submit(500, resend=True)
            await asyncio.sleep(120.0)
            notes = [note for batch in world.queue.leases for note in batch.progress.notes.values()]
            assert max(note.cuts for note in notes) <= 1
            world.shop.behave = lambda path: Answer()
            assert set(await world.complete(job, 1200.0)) == {"accepted"}

    async def test_a_poison_alone_in_the_world_ends_by_its_attempts(self) -> None:
        """It cannot be told from an outage."""
        world = World(max_attempts=6)
        world.shop.behave = cut_by("token-0")
        async with world.run():
            job = await world.submit(1, resend=True)
            assert await world.complete(job, 600.0) == ["unknown"]
        assert world.shop.paths["/push/token-0"] == 6


class TestSuspects:
    async def test_a_suspect_leaves_the_lanes_and_goes_alone(self) -> None:
        bench = Bench()
        bench.add(3, notes={1: Note(cuts=SUSPECT_CUTS)}, states=bytes(3))
        _accept_but(bench, bench.taken(), 1)
        assert bench.take() is None
        alone = bench.sender.take_suspect(1000)
        assert alone is not None
        assert [index for _, index in alone.tags] == [1]
        bench.accept(alone)

    async def test_one_is_on_its_connection_at_a_time(self) -> None:
        bench = Bench()
        added = bench.add(4)
        _make_suspects(added, [0, 1, 2, 3])
        quarantine = bench.sender.quarantine
        first = quarantine.take(100, 1 << 20)
        assert first is not None
        assert len(first.tags) == 1
        assert quarantine.take(100, 1 << 20) is None
        assert not quarantine.backlog
        quarantine.settle(_accepted(first))
        assert quarantine.backlog
        second = quarantine.take(100, 1 << 20)
        assert second is not None
        quarantine.give_back(second.tags)
        assert quarantine.backlog
        assert bench.on_wire == 0

    async def test_a_held_route_is_not_probed_by_a_suspect_if_another_can(self) -> None:
        bench = Bench()
        added = bench.add(4)
        _make_suspects(added, [3])
        bench.sender.breaker.unsent(1_000_000, 0.0)
        await asyncio.sleep(120.0)
        assert bench.sender.take_suspect(1000) is None
        assert len(bench.taken().tags) == 1

    def test_a_suspect_stays_one_in_the_queue(self) -> None:
        """Its note says so to whoever leases the batch next."""
        resumed = flight(of=lease(4, notes={2: Note(cuts=SUSPECT_CUTS), 3: Note(cuts=SUSPECT_CUTS - 1)}))
        resumed.resume([1, 2, 3])
        assert list(resumed.suspects) == [2]
        assert list(resumed.next(10)) == [1, 3]
        assert list(resumed.next_suspect()) == [2]
        assert resumed.states[2] == State.SENT

    async def test_cancelling_ends_it(self) -> None:
        bench = Bench()
        added = bench.add(2)
        _make_suspects(added, [0, 1])
        bench.sender.cancel(added.job.id)
        assert bench.finished == [added]
        assert not bench.sender.suspects


def _make_suspects(of: Flight, indexes: Sequence[int]) -> None:
    for index in indexes:
        of.note(index).cuts = SUSPECT_CUTS
    of.resume(list(range(of.lease.count)))


def _accepted(requests: Requests) -> Results:
    results = Results()
    results.accepted = list(requests.tags)
    return results


def _accept_but(bench: Bench, requests: Requests, unsent: int) -> None:
    """All are accepted but one, which comes back unsent."""
    results = Results()
    results.accepted = [tag for tag in requests.tags if tag[1] != unsent]
    results.unsent = [tag for tag in requests.tags if tag[1] == unsent]
    bench.sender.settle(results)
