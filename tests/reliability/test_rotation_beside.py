"""Credentials rotated again and again, and bad ones tried, on a clock that jumps: what others notice of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bench.ledger import Balance
from gateway.audit.log import Actor
from gateway.credentials.desk import Desk
from gateway.credentials.health import Health
from gateway.credentials.rotation import Rotation
from gateway.credentials.vault import Vault
from gateway.model import Lane
from gateway.observe.health import Readiness
from gateway.settings import Credentials
from providers.base import Secret
from tests.gateway.dispatch.scripted import Silent
from tests.gateway.virtual import Answer, virtual_loop
from tests.reliability.conftest import Evidence
from tests.reliability.virtual_world import Recording, VirtualWorld, install

ROW = "R14"
LOOPS = ("virtual",)

ALICE = Actor("default", "alice")
PROCESSOR = 0.0002
"""Seconds a notification: 5,000 a second are all there is."""
EVERY = 0.05
RATE = 1000
"""Notifications a second of the app whose credentials are rotated."""
FIRST = "k"
"""The settings' key."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, processor=PROCESSOR)


class RotatingWorld(VirtualWorld):
    """One worker with all of its rotation."""

    def __init__(self, path: Path, apps: dict[str, Recording]) -> None:
        super().__init__(path, apps)
        self.shop = apps["shop"]
        self.shop.keys = {FIRST}

    @asynccontextmanager
    async def rotating(self) -> AsyncIterator[None]:
        async with self.run():
            terms = Credentials(canary_window=0.5, overlap=30.0)
            store, blocks = self.dispatcher._credentials, self.settings.blocks()
            given, vault = dict(store.items()), Vault([Secret(os.urandom(32))])
            health = Health(Silent(), Readiness())  # type: ignore[arg-type]
            follow = self.dispatcher.follow_credentials
            rotation = Rotation(self.queue.database, store, blocks, vault, health, terms, "worker-0", follow)
            self.desk = Desk(self.queue.database, blocks, lambda *key: given.get(key), vault, terms, rotation.hasten)
            await rotation.start()
            following = asyncio.create_task(rotation.run())
            try:
                yield
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following

    async def load(self, app: str, rate: int, until: float, lane: Lane = Lane.PROMOTIONAL) -> None:
        while virtual_loop().time() < until:
            turn = asyncio.sleep(EVERY)
            await asyncio.gather(turn, self.submit(app, round(rate * EVERY), lane=lane))

    async def rotate(self, key: str) -> int:
        """Have it proven and started; its number."""
        added = await self.desk.add("shop", "stub", {"key": Secret(key.encode())}, ALICE)
        await self.desk.rotate(added.number, ALICE)
        return added.number

    async def becomes(self, number: int, *states: str) -> float:
        """Wait for a state; the seconds it took."""
        start = virtual_loop().time()
        while (await self.desk.get(number)).state not in states:
            assert virtual_loop().time() < start + 60.0
            await asyncio.sleep(0.05)
        return virtual_loop().time() - start


async def test_rotations_under_load(tmp_path: Path, long: bool, evidence: Evidence) -> None:
    """Each key is revoked seconds after its successor was promoted. Nothing fails, nothing is sent twice."""
    count = 100 if long else 5
    world = RotatingWorld(tmp_path / "queue.db", {"shop": Recording(streams=1000)})
    keys = world.shop.keys
    assert keys is not None
    async with world.rotating():
        end = virtual_loop().time() + 1e9
        loading = asyncio.create_task(world.load("shop", RATE, end))
        former, slowest = FIRST, 0.0
        start = virtual_loop().time()
        for number in range(count):
            keys.add(key := f"k{number}")
            slowest = max(slowest, await world.becomes(await world.rotate(key), "active"))
            await asyncio.sleep(1.0)
            keys.discard(former)
            former = key
        lasted = virtual_loop().time() - start
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await world.settled(30.0)
        balance = await world.balance()
    figures = {
        "rotations": count,
        "notifications a second": round(balance.accepted / lasted),
        "slowest rotation, s": round(slowest, 1),
    }
    evidence.record(f"{count} rotations on a virtual clock under {RATE} notifications a second", figures, balance)
    print(figures, balance)
    assert balance.clean
    assert balance.duplicates == 0
    assert set(world.shop.accepted.values()) == {1}


async def never(world: RotatingWorld) -> None:
    """Nothing happens."""
    await asyncio.sleep(8.0)


async def bad_ones(world: RotatingWorld) -> None:
    """Unknown to the service, of another project, and revoked once it signs everything."""
    keys = world.shop.keys
    assert keys is not None
    world.shop.refusal = Answer(401)
    await world.becomes(await world.rotate("unknown"), "broken")
    world.shop.refusal = Answer(410)
    await world.becomes(await world.rotate("other"), "broken")
    world.shop.refusal = Answer(401)
    keys.add("good")
    number = await world.rotate("good")
    await world.becomes(number, "active")
    await asyncio.sleep(1.0)
    keys.discard("good")
    await world.becomes(number, "broken")
    await asyncio.sleep(1.0)


async def p99(
    path: Path, what: Callable[[RotatingWorld], Awaitable[None]], rounds: int
) -> tuple[dict[str, float], Balance]:
    """The others' 99th percentile of seconds from acceptance to the last receipt, while something happens."""
    apps = {app: Recording(streams=1000) for app in ("shop", "bank", "clinic")}
    world = RotatingWorld(path, apps)
    async with world.rotating():
        loads = [
            asyncio.create_task(world.load("shop", RATE, 1e9)),
            asyncio.create_task(world.load("bank", 200, 1e9)),
            asyncio.create_task(world.load("clinic", 40, 1e9, Lane.TRANSACTIONAL)),
        ]
        for _ in range(rounds):
            await what(world)
        for load in loads:
            load.cancel()
            with suppress(asyncio.CancelledError):
                await load
        await world.settled(60.0)
        waits = {app: await world.waits(app, seconds=1.0) for app in ("bank", "clinic")}
        balance = await world.balance()
    return {app: each[int(len(each) * 0.99)] for app, each in waits.items()}, balance


async def test_others_do_not_notice_bad_credentials(tmp_path: Path, long: bool, evidence: Evidence) -> None:
    """Their 99th percentile stays within a tenth, no target dies, and the ledger is clean."""
    rounds = 20 if long else 2
    calm, _ = await p99(tmp_path / "calm.db", never, rounds)
    beside, balance = await p99(tmp_path / "beside.db", bad_ones, rounds)
    figures = {
        "bad credentials": 3 * rounds,
        "others' p99 without and beside, ms": {
            app: [round(calm[app] * 1000, 1), round(beside[app] * 1000, 1)] for app in calm
        },
    }
    evidence.record(f"{3 * rounds} bad credentials of one app on a virtual clock, beside two others", figures, balance)
    print(figures, balance)
    assert balance.clean
    assert balance.duplicates == 0
    assert all(beside[app] <= 1.1 * calm[app] for app in calm), figures
