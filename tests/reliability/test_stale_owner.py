"""A worker that stands still for longer than its leases, wakes up, and finds that others have done its work."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench import recorder
from bench.caller import Caller
from bench.campaign import job, recipients
from bench.ledger import Ledger
from bench.simulators import Rule, Script
from bench.world import World

from .conftest import Evidence

ROW = "R24"
LEASE_SECONDS = 1.5
COUNT = 200
"""Recipients of a job: one batch."""
SLOW = Script((Rule(delay=1.0),), seed=1)
"""So that a worker stands still with requests on the wire."""
PATIENCE = 30.0


class Stored:
    """The queue's file, looked into beside the gateway: an HTTP request could meet the worker that stands still."""

    def __init__(self, world: World) -> None:
        self._path = world.folder / "queue" / "carillon.db"

    def ask(self, sql: str, *bindings: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=10)) as db:
            return db.execute(sql, bindings).fetchall()

    def locked(self) -> bool:
        """Whether somebody is in the middle of a commit: a process that is stopped there holds up all writers, and
        nobody can take its work over before it wakes or is killed."""
        with closing(sqlite3.connect(self._path, timeout=0.2)) as db, open(f"{self._path}-turn", "rb") as turn:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                db.execute("BEGIN IMMEDIATE")
            except (BlockingIOError, sqlite3.OperationalError):
                return True
        return False

    def holders(self, jobs: list[str]) -> dict[int, int]:
        """Worker number -> how many batches of these jobs it holds."""
        rows = self.ask(
            "SELECT owner FROM batches b JOIN jobs j ON j.number = b.job WHERE b.state = 2 AND j.id IN (?, ?)", *jobs
        )
        owners = [int(owner.removeprefix("worker-").partition(".")[0]) for (owner,) in rows]
        return {owner: owners.count(owner) for owner in owners}

    def unfinished(self, jobs: list[str]) -> int:
        ((count,),) = self.ask("SELECT count(*) FROM jobs WHERE finished IS NULL AND id IN (?, ?)", *jobs)
        return int(count)


async def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.01)
    return found


def pids(world: World) -> dict[int, int]:
    """Worker number -> process id."""
    found = {}
    for pid in world.gateway.family():
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"--worker" in arguments:
            found[int(arguments[arguments.index(b"--worker") + 1])] = pid
    return found


class Attack:
    """Rounds against one gateway of two workers."""

    def __init__(self, world: World, caller: Caller) -> None:
        self.world = world
        self.caller = caller
        self.stored = Stored(world)
        self.on_wire = 0
        self.taken_over = 0
        self.refused = 0

    async def round(self, number: int) -> None:
        """Stop a worker that holds something, let the other finish all there is, wake it up."""
        jobs = []
        for lane in ("transactional", "promotional"):
            prepared = recipients("apns", COUNT, seed=2 * number + (lane == "promotional"))
            jobs.append(await self.caller.submit(job(class_=lane), prepared))
        holders = await until(lambda: self.stored.holders(jobs) or not self.stored.unfinished(jobs), "a lease")
        assert isinstance(holders, dict), "all was sent before anybody could be stopped"
        victim = max(holders, key=lambda worker: holders[worker])
        pid = pids(self.world)[victim]
        await self._stop(pid)
        try:
            held = self.stored.holders(jobs).get(victim, 0)
            await until(lambda: victim not in self.stored.holders(jobs), "the leases to run out")
            await until(lambda: not self.stored.unfinished(jobs), "the other worker to finish")
            self.taken_over += held
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: self._refusals() >= self.taken_over, "the stale owner to be refused")
        self.refused = self._refusals()

    async def _stop(self, pid: int) -> None:
        """Between two commits."""
        for _ in range(50):
            on_wire = recorder.freeze(pid)
            if not self.stored.locked():
                self.on_wire += on_wire
                return
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.01)
        raise AssertionError("the worker is always in the middle of a commit")

    def _refusals(self) -> int:
        """How often an owner was told that its lease is lost."""
        return self.world.gateway.log.read_text().count("queue.lease_lost")


async def attack(world: World, rounds: int) -> tuple[Attack, Ledger]:
    ledger = Ledger()
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
        api = world.api(session)
        caller = Caller(api, ledger)
        attacking = Attack(world, caller)
        for number in range(rounds):
            await attacking.round(number)
        await caller.finish(caller.jobs)
        unanswered = 0
        for job_id in caller.jobs:
            async for receipt in api.receipts(job_id):
                ledger.receipt(receipt)
                unanswered += receipt.get("unanswered", 0)
    world.enter_taken(ledger)
    ledger.duplicates_bound = unanswered
    return attacking, ledger


@pytest.mark.timeout(400)
def test_a_stale_owner_changes_nothing(long: bool, evidence: Evidence) -> None:
    """After its leases ran out another worker has its batches; when it wakes, whatever it says is refused, and each
    delivery has the one receipt of whoever took over. What may have been sent twice says so in its receipt."""
    rounds = 20 if long else 2
    environment = {"CARILLON_QUEUE__LEASE_SECONDS": str(LEASE_SECONDS)}
    with World(["apns"], mode="quick", workers=2, scripts={"apns": SLOW}, environment=environment) as world:
        attacking, ledger = asyncio.run(attack(world, rounds))
    balance = ledger.balance()
    figures = {
        "stops": rounds,
        "lease_seconds": LEASE_SECONDS,
        "batches_taken_over": attacking.taken_over,
        "on_wire_at_stops": attacking.on_wire,
        "refusals_of_stale_owners": attacking.refused,
    }
    evidence.record(f"{rounds} workers stopped with leases and woken after others had finished", figures, balance)
    assert balance.clean, (balance, figures)
    assert balance.accepted == balance.receipts == 2 * COUNT * rounds
    assert attacking.taken_over >= rounds
    assert attacking.refused >= attacking.taken_over
