"""Two credentials of a route: who signs how much, and what a refusal of one costs."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.credentials.store import Line, Signing
from gateway.dispatch import exit as rules
from gateway.dispatch.breaker import Cause
from gateway.model import Lane
from providers import PROVIDERS
from providers.base import Secret
from tests.gateway.dispatch.test_dispatcher import SHOP, World
from tests.gateway.virtual import Answer, until, virtual_loop

LOOPS = ("virtual",)


class Rotated(World):
    """The shop's first key is `k-shop`; others are signed with as a test says."""

    def __init__(self) -> None:
        super().__init__(["shop"])
        self.store = self.dispatcher._credentials
        line = self.store.line("shop", "stub")
        assert line is not None
        self.old = line.first
        self.alarms = 0
        self.store.alarm = self._alarm

    def _alarm(self) -> None:
        self.alarms += 1

    def key(self, key: str, share: float = 0.0) -> Signing:
        credential = PROVIDERS["stub"].credential(
            self.dispatcher._blocks["shop", "stub"], {"key": Secret(key.encode())}
        )
        return Signing(f"shop/stub {credential.fingerprint}", credential, share=share, alarm=self._alarm)

    def sign(self, first: Signing, second: Signing | None = None) -> None:
        self.store.follow("shop", "stub", Line(first, second))
        self.dispatcher.follow_credentials()

    async def send(self, count: int = 1000) -> None:
        """Batches of a campaign, all of which are accepted."""
        job = await self.submit(*[100] * (count // 100))
        assert set(await self.complete(job)) == {"accepted"}

    @property
    def sender(self) -> Any:
        return self.dispatcher._senders[SHOP]


async def test_a_canary_signs_its_share() -> None:
    """On connections of its own, one request until it is proven, then as much as it is allowed."""
    world = Rotated()
    async with world.run():
        await world.send()
        canary = world.key("new", share=0.1)
        world.sign(world.old, canary)
        await asyncio.sleep(1.0)
        for tally in (world.old.tally, canary.tally):
            tally.begin()
        world.shop.signed.clear()
        for _ in range(10):
            await world.send()
        assert 900 <= world.shop.signed["new"] <= 1001
        assert canary.tally.accepted == world.shop.signed["new"]
        assert world.old.tally.accepted == world.shop.signed.total() == 10_000
        assert max(world.shop.paths.values()) == 1 + 10, "each target once a job"


async def test_a_single_code_can_go_by_the_canary() -> None:
    """Where all work is taken the moment it comes, too."""
    world = Rotated()
    async with world.run():
        world.sign(world.old, world.key("new", share=0.5))
        await asyncio.sleep(1.0)
        for _ in range(40):
            await world.complete(await world.submit(1, lane=Lane.TRANSACTIONAL), 1.0)
        assert 15 <= world.shop.signed["new"] <= 25


async def test_a_refused_canary_costs_no_delivery_and_stops_by_itself() -> None:
    """What it was refused goes again with the other credential, and the route is not held."""
    world = Rotated()
    world.shop.keys = {"k-shop"}
    async with world.run():
        await world.send()
        canary = world.key("wrong", share=0.5)
        world.sign(world.old, canary)
        await world.send()
        assert world.shop.signed["wrong"] == 1
        assert (canary.tally.refused, canary.tally.reason, world.alarms) == (1, "unauthorized", 1)
        assert world.sender.breaker.cause is None
        world.sign(world.old)
        await world.send()
        assert world.shop.signed["wrong"] == 1


async def test_a_canary_for_which_all_targets_are_wrong_kills_none() -> None:
    """A credential of another project answers for each target like that."""
    world = Rotated()
    async with world.run():
        await world.send()
        canary = world.key("other", share=0.5)
        world.sign(world.old, canary)
        world.shop.keys = {"k-shop"}
        world.shop.refusal = Answer(410)
        await world.send(3000)
        assert canary.tally.refused == 1
        assert "nothing is accepted" in canary.tally.reason
        assert world.shop.signed["other"] == rules.UNPROVEN
        assert not world.queue.dead


async def test_a_change_ends_what_is_on_the_wire_with_the_former_one() -> None:
    """Nothing is sent twice, nothing waits, and the former connections stay until the store forgets."""
    world = Rotated()
    world.shop.behave = lambda path: Answer(delay=0.5)
    async with world.run():
        job = await world.submit(*[1000] * 5)
        new = world.key("new")
        await until(lambda: world.shop.taken > 1000)
        before = world.shop.taken
        world.sign(new, world.old)
        assert set(await world.complete(job)) == {"accepted"}
        assert max(world.shop.paths.values()) == 1
        assert world.shop.signed["k-shop"] <= before + 1000
        assert world.shop.signed["new"] == 5000 - world.shop.signed["k-shop"]
        former = world.sender.exit.pool
        assert former.counts().open
        world.sign(new)
        await until(lambda: former.counts().open + former.counts().draining == 0)


async def test_a_refused_successor_is_told_and_the_way_back_frees_the_route() -> None:
    """The route is held until somebody goes back; then everything goes, signed with the former one."""
    world = Rotated()
    world.shop.keys = {"k-shop"}
    async with world.run():
        await world.send()
        new = world.key("revoked")
        world.sign(new, world.old)
        job = await world.submit(*[100] * 10)
        await until(lambda: world.alarms)
        assert world.sender.breaker.cause is Cause.CREDENTIAL
        assert new.tally.refused == 1
        await asyncio.sleep(3.0)  # in which nothing goes back to the queue for the minute of the hold
        dials, start = len(world.shop.dials), virtual_loop().time()
        world.sign(world.old)
        assert set(await world.complete(job)) == {"accepted"}
        assert virtual_loop().time() - start < 1.0
        assert len(world.shop.dials) == dials, "its connections were kept"
        assert world.sender.breaker.cause is None


async def test_targets_bound_to_a_credential_go_by_it() -> None:
    """Their routes name it."""
    world = Rotated()
    async with world.run():
        new = world.key("new")
        route = type(SHOP)("shop", "stub", f"https://shop.example#{new.credential.fingerprint}")
        world.store.follow("shop", "stub", Line(world.old, pairs={new.credential.fingerprint: new}))
        job = await world.submit(10, route=route)
        await world.send(100)
        assert set(await world.complete(job)) == {"accepted"}
        assert world.shop.signed == {"new": 10, "k-shop": 100}
