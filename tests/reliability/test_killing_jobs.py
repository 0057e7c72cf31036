"""Jobs that kill whichever worker sends them, among others that do not deserve it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.caller import Caller
from bench.campaign import Recipients, job, recipients
from bench.ledger import Ledger
from bench.simulators import Rule, Script
from bench.world import World
from gateway.client import Client

from .conftest import Evidence

ROW = "R15"
KILLING = Path(__file__).parent / "killing"
GOOD_COUNT = 200
SLOW = Script((Rule(delay=0.3),), seed=1)
"""So that the good ones are in hand when their worker is killed."""
PATIENCE = 90.0


def killers(count: int) -> list[Recipients]:
    return [recipients("fcm", 3, seed=number, name=("kill-me-", "exit-me-")[number % 2]) for number in range(count)]


async def parked(client: Client, count: int, caller: Caller, turn: int) -> list[dict[str, Any]]:
    """Wait until so many batches are parked, and go on submitting good jobs meanwhile."""
    for _ in range(int(PATIENCE)):
        await submit_good(caller, turn := turn + 1)
        page = await asyncio.to_thread(asked, client)
        if len(page) == count:
            return page
        await asyncio.sleep(1.0)
    raise AssertionError(f"{count} batches were to be parked, and {len(page)} are")


def asked(client: Client) -> list[dict[str, Any]]:
    try:
        return list(client.parked()["parked"])
    except Exception:  # its worker was just killed
        return []


async def reported(session: aiohttp.ClientSession, world: World, count: int) -> None:
    """Wait until `/readyz` tells an operator what to do, and stays ready."""
    async with asyncio.timeout(20.0):
        while True:
            async with session.get(f"{world.url}/readyz") as response:
                assert response.status == 200
                parts = (await response.json())["parts"]
            if parts.get("parked", {}).get("detail", "").startswith(f"{count} batch"):
                assert "carillon parked list" in parts["parked"]["detail"]
                return
            await asyncio.sleep(0.1)


async def submit_good(caller: Caller, turn: int) -> None:
    for provider, lane in (("apns", "transactional"), ("fcm", "transactional")):
        await caller.submit(job(class_=lane), recipients(provider, GOOD_COUNT, seed=1000 + turn))


async def attack(world: World, count: int) -> tuple[Ledger, list[dict[str, Any]], Counter[str], int]:
    ledger, client = Ledger(), Client(world.url, world.key)
    timeout, connector = aiohttp.ClientTimeout(total=30), aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        api = world.api(session)
        caller = Caller(api, ledger)
        for turn in range(5):
            await submit_good(caller, turn)
        bad = [await caller.submit(job(class_="transactional"), killer) for killer in killers(count)]
        entries = await parked(client, count, caller, 5)
        good = [job_id for job_id in caller.jobs if job_id not in bad]
        await caller.finish(good)
        await reported(session, world, count)
        for entry in entries:
            report = await api.job(entry["job"])
            assert (report["parked"], report["counts"]["pending"], report["finished"]) == (3, 3, False)
            await asyncio.to_thread(client.purge, entry["id"])
        await caller.finish(bad)
        metrics = await api.metrics()
        unanswered = await caller.enter_receipts(good)
        states: Counter[str] = Counter()
        for job_id in bad:
            async for receipt in api.receipts(job_id):
                ledger.receipt(receipt)
                states[receipt["state"]] += 1
        for job_id in good:
            report = await api.job(job_id)
            assert report["counts"]["accepted"] == report["total"], report
    assert "carillon_parked_batches 0.0" in metrics
    world.enter_taken(ledger)
    ledger.duplicates_bound = sum(receipt["unanswered"] for receipt in unanswered)
    # Not by the metric of restarts: the last one may still wait for its back-off.
    return ledger, entries, states, world.gateway.log.read_text().count('"worker.died"')


@pytest.mark.timeout(300)
def test_what_kills_its_worker_is_parked_at_three_and_all_others_are_delivered(long: bool, evidence: Evidence) -> None:
    """Three workers die for each, and no more; no batch is parked for having been in the same hands."""
    count = 4 if long else 1
    environment = {"PYTHONPATH": str(KILLING)}
    scripts = {"apns": SLOW, "fcm": SLOW}
    with World(["apns", "fcm"], mode="quick", workers=2, scripts=scripts, environment=environment) as world:
        ledger, entries, states, deaths = asyncio.run(attack(world, count))
    balance = ledger.balance()
    figures = {
        "killing_jobs": count,
        "deaths": deaths,
        "parked": len(entries),
        "crashes_of_each": [entry["crashes"] for entry in entries],
        "good_deliveries": balance.accepted - 3 * count,
        "states_of_the_killing": dict(states),
    }
    evidence.record(f"{count} jobs that kill their worker among good ones", figures, balance)
    assert [entry["crashes"] for entry in entries] == [3] * count
    assert deaths == 3 * count, figures
    assert balance.clean, (balance, figures)
    assert set(states) <= {"dead_lettered", "unknown"}, figures
