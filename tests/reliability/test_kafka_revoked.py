"""The group changes while the service hangs: nobody waits for it longer than the handover."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from bench.api import DEADLINES
from bench.campaign import job, recipients
from bench.kafka.group import Group
from bench.kafka.reader import ReceiptReader
from bench.ledger import Ledger
from bench.simulators import Rule, Script

from .conftest import Evidence

ROW = "R7"
HANG = 30.0
COUNT = 300
HANDOVER = 3.0


@pytest.mark.timeout(1500)
def test_a_revocation_does_not_wait_for_a_service_that_hangs(long: bool, evidence: Evidence, tmp_path: Path) -> None:
    """A gateway joins while all that is on the wire hangs for 30 s: the group goes on after the handover, everything
    gets its receipt, and nothing is sent twice but what hung."""
    if not long:
        pytest.skip("each round takes as long as the service hangs: at full scale only")
    rounds = 20
    environment = {
        "CARILLON_KAFKA__HANDOVER": str(HANDOVER),
        "CARILLON_KAFKA__SESSION_TIMEOUT": "8",
        "CARILLON_QUEUE__LEASE_SECONDS": "4",
        "CARILLON_DISPATCH__REQUEST_TIMEOUT": "40",
    }
    with Group(tmp_path, ["apns"], mode="quick", partitions=4, environment=environment) as group:
        group.start(0)
        group.await_group([0])
        ledger, joined = asyncio.run(_rounds(group, rounds))
    balance = ledger.balance()
    figures = {"seconds until the newcomer had its partitions": joined, "handover seconds": HANDOVER}
    evidence.record(f"{rounds} changes of the group with {COUNT} requests that hang {HANG:g} s", figures, balance)
    assert balance.clean, balance
    assert max(joined) < HANG - HANDOVER


async def _rounds(group: Group, rounds: int) -> tuple[Ledger, list[float]]:
    ledger, joined = Ledger(), []
    reader = ReceiptReader(group.brokers.servers, f"{group.prefix}.receipts")
    await reader.start()
    async with aiohttp.ClientSession(timeout=DEADLINES) as session:
        for number in range(rounds):
            group.world.play("apns", Script((Rule(delay=HANG),), seed=1))
            prepared = recipients("apns", COUNT, seed=number)
            kind = "transactional" if number % 2 == 0 else "promotional"
            await group.api(0, session).submit([job(class_=kind, ttl="1h") + b"\n", b"".join(prepared.lines)])
            ledger.accepted(prepared.keys)
            await asyncio.sleep(1.0)
            began = time.monotonic()
            group.start(1)
            await asyncio.to_thread(group.await_group, [1])
            joined.append(round(time.monotonic() - began, 1))
            group.world.play("apns", Script(seed=1))
            async with asyncio.timeout(120):
                while len(reader.receipts) < COUNT * (number + 1):
                    await reader.read()
                    reader.take_in()
            await asyncio.to_thread(group.leave, 1)
    ledger.duplicates_bound = COUNT * rounds
    await reader.stop()
    for receipt in reader.receipts.values():
        ledger.receipt(receipt)
    await asyncio.to_thread(group.world.enter_taken, ledger)
    return ledger, joined
