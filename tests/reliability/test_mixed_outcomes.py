"""Everything that services answer or do at once, through all three providers, with real processes.

The simulators do to shares of targets, chosen by a seed: 10 % 429 (with Retry-After where the service has it), 8 % 5xx,
5 % dead, 3 % never answered, 2 % RST_STREAM. A GOAWAY sends back all of its connection's later streams, some 50 to 100
of them, so one for a thousand targets is enough for a good 2 % of all; more of them would only measure how many
connections a minute the gateway allows itself. Half of the jobs want what may have been sent to be sent again, the
other half to be told.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import NamedTuple

import aiohttp
import pytest

from bench.api import DEADLINES, Api
from bench.campaign import chunks, job, recipients
from bench.ledger import Ledger
from bench.simulators import Rule, Script
from bench.world import World

from .conftest import Evidence

ROW = "R1"

SEED = 20261122
SHARES = {"throttled": 0.10, "failed": 0.08, "unregistered": 0.05, "hang": 0.03, "reset": 0.02}
GOAWAY_SHARE = 0.001

PATIENCE = 120.0
"""Seconds without a new receipt after which something hangs."""

_OUTCOMES = re.compile(r'^carillon_outcomes_total\{[^}]*outcome="(\w+)"[^}]*\} (\S+)', re.MULTILINE)


def rules(service: str) -> Script:
    throttled = "DEVICE_RATE_EXCEEDED" if service == "fcm" else "throttled"
    return Script(
        (
            Rule(answer=throttled, share=SHARES["throttled"], attempts=1, retry_after=1),
            Rule(answer="failed" if service != "webpush" else "unavailable", share=SHARES["failed"], attempts=1),
            Rule(answer="unregistered", share=SHARES["unregistered"]),
            Rule(fault="hang", share=SHARES["hang"], attempts=1),
            Rule(fault="reset", code=2, share=SHARES["reset"], attempts=1),
            Rule(fault="goaway", share=GOAWAY_SHARE, attempts=1),
        ),
        seed=SEED,
    )


class Found(NamedTuple):
    """What the gateway says came of it."""

    states: dict[str, Counter[str]]
    """Of each service."""
    outcomes: Counter[str]
    """Of all tries."""
    wall: float


async def campaign(world: World, count: int, ledger: Ledger) -> Found:
    """Two jobs a service, each of a sixth of the recipients."""
    async with aiohttp.ClientSession(timeout=DEADLINES) as session:
        api = world.api(session)
        jobs, began = [], time.monotonic()
        for number, service in enumerate(world.services):
            endpoints = world.ready["services"][service]["endpoints"]
            for half, wish in enumerate(("resend", "report")):
                prepared = recipients(service, count // 6, seed=2 * number + half, endpoints=endpoints)
                answer = await api.submit(chunks(job(on_unknown=wish), prepared.lines))
                assert answer["accepted"] == len(prepared.lines)
                ledger.accepted(prepared.keys)
                jobs.append(answer["job"])
        await finished(api, jobs)
        wall = time.monotonic() - began
        states: dict[str, Counter[str]] = {service: Counter() for service in world.services}
        for job_id in jobs:
            async for receipt in api.receipts(job_id):
                ledger.receipt(receipt)
                ledger.duplicates_bound += receipt.get("unanswered", 0)
                states[receipt["provider"]][receipt["state"]] += 1
        outcomes: Counter[str] = Counter()
        for outcome, value in _OUTCOMES.findall(await api.metrics()):
            outcomes[outcome] += int(float(value))
    world.enter_taken(ledger)
    return Found(states, outcomes, wall)


async def finished(api: Api, jobs: list[str]) -> None:
    last, moved_at = -1, time.monotonic()
    while True:
        answers = [await api.job(job_id) for job_id in jobs]
        if all(answer["finished"] for answer in answers):
            return
        pending = sum(answer["counts"].get("pending", 0) for answer in answers)
        if pending != last:
            last, moved_at = pending, time.monotonic()
        assert time.monotonic() - moved_at < PATIENCE, f"{pending} deliveries wait, and none of them ends"
        await asyncio.sleep(0.5)


@pytest.mark.timeout(600)
def test_each_accepted_notification_has_exactly_one_terminal_receipt(long: bool, evidence: Evidence) -> None:
    count = 200_000 if long else 20_000
    ledger = Ledger()
    services = ("apns", "fcm", "webpush")
    print(f"seed {SEED}")
    with World(
        services,
        mode="quick",
        scripts={service: rules(service) for service in services},
        simulator_options=("--decrypt-every", "50"),
        environment={"CARILLON_DISPATCH__REQUEST_TIMEOUT": "3s"},
    ) as world:
        found = asyncio.run(campaign(world, count, ledger))
    balance = ledger.balance()
    accepted = sum(states["accepted"] for states in found.states.values())
    tries = sum(found.outcomes.values())
    evidence.record(
        f"{count:,} notifications through {len(services)} services that answer everything at once",
        {
            "seed": SEED,
            "wall_seconds": round(found.wall, 1),
            "states": {service: dict(states) for service, states in found.states.items()},
            "outcomes": dict(found.outcomes),
        },
        balance,
    )
    assert balance.clean, (balance, found)
    assert balance.accepted == balance.receipts == count // 6 * 6
    for service, states in found.states.items():
        total = sum(states.values())
        assert set(states) == {"accepted", "invalid_token", "unknown"}, service
        assert states["invalid_token"] / total == pytest.approx(SHARES["unregistered"], rel=0.2)
        told = (SHARES["hang"] + SHARES["reset"]) / 2
        assert told * 0.8 <= states["unknown"] / total <= told * 1.5, "of the half that wants to be told"
    assert found.outcomes["accepted"] == accepted
    assert found.outcomes["throttled"] / count == pytest.approx(SHARES["throttled"], rel=0.2)
    assert found.outcomes["unavailable"] / count == pytest.approx(SHARES["failed"], rel=0.2)
    assert found.outcomes["unsent"] >= 0.02 * tries, "sent back by GOAWAY"
