"""One app at a hundred times the others' load, on one worker: what it may take from them.

The processor is a hundredth as fast as a real one and a round of the loop as much shorter, so that a load that fills it
is one that a test can afford. So figures are those of the model: what counts is each app's with and without the other.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.dispatch import turns
from gateway.model import Lane
from tests.gateway.virtual import virtual_loop
from tests.reliability.conftest import Evidence
from tests.reliability.virtual_world import Recording, VirtualWorld, install

ROW = "R17"
LOOPS = ("virtual",)

PROCESSOR = 0.0001
"""Seconds a notification: 10,000 a second are all there is."""
ROUNDS = {"ROUND": 0.1, "SHORT_ROUND": 0.025, "LEAST": 0.01}
"""Slices: five milliseconds and a quarter of them, as in reality."""
QUIET = ("bank", "post", "clinic", "school", "library", "theatre", "bakery", "ferry", "museum")
EVERY = 0.1
SIZE = 10
"""A quiet app's job, each `EVERY` seconds: a hundred notifications a second."""
NOISE = 100

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, processor=PROCESSOR)
    for name, slices in ROUNDS.items():
        monkeypatch.setattr(turns, name, slices)


async def submit(world: VirtualWorld, app: str, until: float, *, jobs: int = 1, size: int = SIZE) -> None:
    """So many jobs each `EVERY` seconds, whatever became of the ones before."""
    lane = Lane.TRANSACTIONAL if app == "clinic" else Lane.PROMOTIONAL
    while virtual_loop().time() < until:
        turn = asyncio.sleep(EVERY)
        await asyncio.gather(turn, *(world.submit(app, size, lane=lane) for _ in range(jobs)))


async def p99(path: Path, seconds: float, *noise: tuple[int, int]) -> tuple[dict[str, float], int]:
    """Each quiet app's 99th percentile of seconds from acceptance to the last receipt, and what the noisy one got.

    `noise` is what the noisy app submits each `EVERY` seconds: (jobs, their sizes).
    """
    services = {app: Recording(streams=1000) for app in ("noisy", *QUIET)}
    world = VirtualWorld(path, services)
    async with world.run():
        end = virtual_loop().time() + seconds
        loud = [asyncio.create_task(submit(world, "noisy", end, jobs=jobs, size=size)) for jobs, size in noise]
        await asyncio.gather(*(submit(world, app, end) for app in QUIET), *loud)
        got = len(services["noisy"].asked)
        waits = {app: await world.waits(app, seconds=30.0) for app in QUIET}
    return {app: waits[app][int(len(waits[app]) * 0.99)] for app in QUIET}, got


@pytest.mark.parametrize("noise", [((NOISE, SIZE),), ((1, NOISE * SIZE),)], ids=["many small jobs", "large jobs"])
async def test_the_others_hardly_notice(
    tmp_path: Path, noise: tuple[tuple[int, int], ...], long: bool, evidence: Evidence
) -> None:
    """With a neighbour that asks for all there is, the 99th percentile of the others is at most twice what it was."""
    seconds = 20.0 if long else 2.0
    alone, _ = await p99(tmp_path / "alone.db", seconds)
    beside, got = await p99(tmp_path / "beside.db", seconds, *noise)
    figures = {f"{app}_p99_ms": (round(1000 * alone[app], 1), round(1000 * beside[app], 1)) for app in QUIET}
    ratios = {app: beside[app] / alone[app] for app in QUIET}
    worst = max(ratios.values())
    evidence.record(
        f"{seconds:g} s of one app at {NOISE} times the load of each of {len(QUIET)} others",
        {**figures, "worst_ratio": round(worst, 2), "noisy_per_second": round(got / seconds)},
    )
    print(figures, got / seconds)
    assert got / seconds > 0.3 / PROCESSOR
    assert worst <= 2.0, figures


async def test_who_asks_for_too_much_gets_its_weight(tmp_path: Path, long: bool, evidence: Evidence) -> None:
    """Of a processor that all of them could fill, each has its share by weight, however it cuts its jobs."""
    seconds = 10.0 if long else 1.0
    weights = {"gold": 3.0, "silver": 2.0, "iron": 1.0}
    sizes = {"gold": 1000, "silver": 50, "iron": 1000}
    services = {app: Recording(streams=1000) for app in weights}
    world = VirtualWorld(tmp_path / "queue.db", services, weights=weights)
    async with world.run():
        await asyncio.gather(*(world.submit(app, 1) for app in weights))
        await world.settled(10.0)  # a route takes one batch until it has a connection
        each = int(seconds / PROCESSOR)
        await asyncio.gather(*(world.submit(app, size) for app, size in sizes.items() for _ in range(each // size)))
        await asyncio.sleep(seconds / 10)
        start = {app: len(service.asked) for app, service in services.items()}
        await asyncio.sleep(seconds / 2)
        sent = {app: len(service.asked) - start[app] for app, service in services.items()}
    part = sum(sent.values()) / sum(weights.values())
    shares = {app: sent[app] / part for app in weights}
    evidence.record(f"{seconds / 2:g} s of three apps with all they can send", {"sent": sent, "shares": shares})
    assert sum(sent.values()) > 0.8 * seconds / 2 / PROCESSOR
    assert all(abs(shares[app] / weight - 1) < 0.1 for app, weight in weights.items()), shares
