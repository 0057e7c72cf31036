"""Newer never before older: jobs of one ordering key, with services that fail, hang and refuse at random."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.gateway.virtual import Answer, Behaviour, Fault
from tests.reliability.conftest import Evidence
from tests.reliability.virtual_world import Recording, VirtualWorld, install

ROW = "R19"
LOOPS = ("virtual",)
EACH = 20
RECIPIENTS = 10

pytestmark = pytest.mark.timeout(600)


def moody(seed: int) -> Behaviour:
    """Of ten requests about one fails: with 503, or with no answer, or without having been processed."""
    chance = random.Random(seed)

    def behave(_target: str) -> Answer | Fault:
        draw = chance.random()
        if draw < 0.06:
            return Answer(503, b'{"reason":"busy"}', delay=chance.random())
        if draw < 0.08:
            return Fault("hang")
        if draw < 0.10:
            return Fault("refuse")
        return Answer(delay=chance.random() / 10)

    return behave


def overtaken(asked: list[str]) -> list[str]:
    """Targets `KEY-NUMBER-…` that a service was asked for after a later number of their key.

    One that was asked for before an earlier number was over shows as that one's next try.
    """
    latest: dict[str, int] = {}
    wrong = []
    for target in asked:
        key, number, _ = target.split("-")
        if int(number) < latest.get(key, 0):
            wrong.append(target)
        latest[key] = int(number)
    return wrong


async def test_no_newer_before_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool, evidence: Evidence
) -> None:
    """Per key the service is asked in the order in which the jobs were accepted, whatever it answers meanwhile."""
    install(monkeypatch)
    seed, keys = 19, 1_000 if long else 100
    print(f"seed {seed}, {keys} keys of {EACH} jobs of {RECIPIENTS}")
    service = Recording(moody(seed), streams=1000)
    world = VirtualWorld(tmp_path / "queue.db", {"shop": service}, backoff_base=0.2)
    chance = random.Random(seed)
    async with world.run():
        for number in range(EACH):
            jobs = [
                world.submit("shop", RECIPIENTS, key=f"key-{key}", tokens=f"{key}-{number}-")
                for key in chance.sample(range(keys), keys)
            ]
            await asyncio.gather(*jobs)
        await world.settled(3600.0)
        balance = await world.balance()
    deliveries = keys * EACH * RECIPIENTS
    retried = len(service.asked) - deliveries
    figures = {
        "keys": keys,
        "jobs_per_key": EACH,
        "deliveries": deliveries,
        "requests": len(service.asked),
        "asked_again": retried,
    }
    wrong = overtaken(service.asked)
    evidence.record(f"{keys * EACH} jobs of {keys} keys", {**figures, "overtaken": len(wrong), "seed": seed}, balance)
    assert not wrong
    assert retried > deliveries / 20
    assert balance.clean, balance
