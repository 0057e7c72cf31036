"""A server that breaks the protocol in every way there is a name for, and what becomes of the work around it.

One app's service is hostile on its first connections, a good one behind them, and another app's service is well. Of
each attack the table says what the client has to do. For all of them: what is owed ends, once, and accepted only what
the server called a success; the other app does not notice; memory stays as it was.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest

from bench.ledger import Balance, Ledger
from gateway.http2.pool import DIALS_A_MINUTE
from gateway.model import Route
from tests.gateway.dispatch.test_dispatcher import World
from tests.gateway.http2 import wire
from tests.gateway.virtual import virtual_loop
from tests.reliability.conftest import Evidence
from tests.reliability.hostile.cases import (
    CASES,
    CHAPTERS,
    Case,
    Dropped,
    Endured,
    Left,
    Reset,
    Told,
    Tolerated,
    nothing,
)
from tests.reliability.hostile.frames import random_frames
from tests.reliability.hostile.peer import Hostile, Peer

ROW = "R9"
LOOPS = ("virtual",)

BANK = Route("bank", "stub")
BAD_CONNECTIONS = 2
COUNT = 40
EXPIRES = 120.0
MEMORY = 20.0
"""MiB that an attack may cost."""


class Ordeal:
    """A hostile service, its neighbour, and what they are to do for their callers."""

    def __init__(self, case: Case, *, bad: int, count: int) -> None:
        self.case = case
        self.count = count
        self.world = World()
        self.service = Hostile(case.attack, case.greeting, bad=bad, pongs=case.pongs, warms=case.attack is not nothing)
        virtual_loop().serve("shop.example", self.service)
        self.neighbour_seconds = 0.0

    async def run(self) -> None:
        world = self.world
        async with world.run():
            self.jobs = [
                await world.submit(self.count, resend=True, expires_in=EXPIRES),
                await world.submit(self.count, start=self.count, expires_in=EXPIRES),
            ]
            while not all(map(world.completed, self.jobs)):
                start = virtual_loop().time()
                await world.complete(await world.submit(10, route=BANK), 5.0)
                self.neighbour_seconds = max(self.neighbour_seconds, virtual_loop().time() - start)
                await asyncio.sleep(1.0)

    @property
    def bad(self) -> list[Peer]:
        return [peer for peer in self.service.sessions if peer.hostile]

    @property
    def attacked(self) -> list[Peer]:
        """Connections that were attacked and not only opened."""
        return [peer for peer in self.bad if peer.attacked or self.case.attack is nothing]

    def balance(self) -> Balance:
        ledger = Ledger()
        states = [state for job in self.jobs for state in self.world.states(job)]
        ledger.accepted({f"token-{index}": f"/push/token-{index}" for index in range(len(states))})
        for index, state in enumerate(states):
            ledger.receipt({"recipient": f"token-{index}", "id": "", "state": state})
        ledger.taken(self.service.honoured)
        ledger.duplicates_bound = sum(peer.attacked for peer in self.bad)
        return ledger.balance()


def assert_met(ordeal: Ordeal) -> None:
    """The client did what the table says on each connection that was attacked."""
    expected = ordeal.case.expected
    assert ordeal.attacked
    for peer in ordeal.attacked:
        seconds = peer.transport.closed_at - peer.attacked_at
        match expected:
            case Told(code, within):
                assert peer.told == code
                assert seconds <= within
            case Dropped(within):
                assert peer.transport.closed
                assert seconds <= within
            case Reset(code):
                assert code in peer.resets.values()
                assert peer.told in (None, 0)
            case Tolerated():
                assert not peer.resets
                assert peer.told in (None, 0)
            case Left():
                assert peer.told == 0
                assert seconds <= 0.5
            case Endured():
                pass
    if isinstance(expected, Tolerated | Reset):
        assert len(ordeal.service.dials) <= BAD_CONNECTIONS, "the connection went on"


@pytest.mark.parametrize("chapter", CHAPTERS)
async def test_an_attack_costs_its_connection_and_nobody_else(chapter: str, evidence: Evidence) -> None:
    """The hostile connections of an app are dropped or endured as the table says, and the work is done behind them."""
    balances, seconds, most = [], 0.0, 0.0
    for case in CHAPTERS[chapter]:
        with named(case):
            ordeal, growth = await endure(case, BAD_CONNECTIONS)
            assert_met(ordeal)
            balances.append(ordeal.balance())
            most = max(most, growth)
            seconds = max(seconds, ordeal.neighbour_seconds)
    evidence.record(
        f"{len(CHAPTERS[chapter])} attacks: {chapter}",
        {"memory_mib": round(most, 1), "neighbour_seconds": round(seconds, 3)},
        added(balances),
    )


INCESSANT = (
    "3.4 PING before SETTINGS",
    "3.4 no SETTINGS at all",
    "6.8 on every connection, at once",
    "9.1 closed behind every request",
    "10.5 PING",
    "6.9 a window of nothing",
    "every stream is reset",
    "every stream is refused",
)
"""Of the table, for the short run."""


@pytest.mark.timeout(900)
async def test_a_service_that_never_gets_better_is_neither_stormed_nor_believed(long: bool, evidence: Evidence) -> None:
    """Every connection is attacked until the jobs expire. A minute has so many dials, and everything ends."""
    cases = [case for case in CASES if long or case.name in INCESSANT]
    assert len(cases) >= len(INCESSANT)
    balances, dials, most = [], 0, 0.0
    for case in cases:
        with named(case):
            ordeal, growth = await endure(case, bad=1_000_000)
            moments = ordeal.service.dials
            dials = max([dials, *(sum(at <= other < at + 60 for other in moments) for at in moments)])
            assert dials <= 2 * DIALS_A_MINUTE, "one pool of connections, and one for suspects"
            balances.append(ordeal.balance())
            most = max(most, growth)
    evidence.record(
        f"{len(cases)} attacks on every connection until the jobs expired",
        {"memory_mib": round(most, 1), "most_dials_a_minute": dials},
        added(balances),
    )


@pytest.mark.timeout(900)
async def test_frames_at_random(long: bool, seed: int, evidence: Evidence) -> None:
    """Whatever a service says, what is owed ends once; and accepted is only what had a status 200."""
    wanted, sent, connections, balances, most = 1_000_000 if long else 50_000, 0, 0, [], 0.0
    while sent < wanted:
        dice = random.Random(seed)
        with named(f"seed {seed}"):
            case = Case(f"seed {seed}", Endured(), partial(babble, dice))
            ordeal, growth = await endure(case, bad=1_000_000, count=400)
            balances.append(ordeal.balance())
            most = max(most, growth)
        sent += sum(peer.frames for peer in ordeal.bad)
        connections += len(ordeal.bad)
        seed += 1
    evidence.record(
        f"{sent} frames at random over {connections} connections, seeds up to {seed - 1}",
        {"memory_mib": round(most, 1)},
        added(balances),
    )


def babble(dice: random.Random, peer: Peer, stream_id: int) -> None:
    """Some frames at random, and mostly an honest answer; which one is the target's nature."""
    success = crc32(peer.paths[stream_id].encode()) % 5 > 0
    count = dice.choice((1, 20, 200))
    peer.frames += count
    if success:
        peer.honour(stream_id)  # it may say so by chance
    peer.say(random_frames(dice, stream_id, count, success=success))
    if dice.random() < 0.7:
        peer.say(wire.bare(stream_id, wire.OK if success else wire.NOT_FOUND))


async def endure(case: Case, bad: int, count: int = COUNT) -> tuple[Ordeal, float]:
    """Run it, and hold what is true of all attacks. Returns the MiB that it cost, too."""
    before = memory()
    ordeal = Ordeal(case, bad=bad, count=count)
    await ordeal.run()
    growth = memory() - before
    balance = ordeal.balance()
    assert balance.clean, balance
    assert balance.accepted == 2 * count
    assert ordeal.neighbour_seconds < 0.5
    assert growth < MEMORY
    return ordeal, growth


@contextmanager
def named(case: Case | str) -> Iterator[None]:
    """Say with an error which case it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"case: {case if isinstance(case, str) else case.name}")
        raise


def added(balances: list[Balance]) -> Balance:
    return Balance(*map(sum, zip(*balances, strict=True)))


def memory() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
