"""Workers are replaced while callers go on."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import aiohttp
import pytest

from bench.caller import Caller
from bench.campaign import job, recipients
from bench.ledger import Ledger
from bench.processes import wait_until
from bench.world import World

from .conftest import Evidence

ROW = "R10"
CALLERS = 8
"""With a connection kept open each."""
PAUSE = 0.05
"""Of a caller between requests; with less, reading the receipts of all the jobs takes longer than the attack."""


class Constant:
    """Callers that ask once only: a request that fails has failed."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.jobs: list[str] = []
        self.failures: list[str] = []
        self._world = world
        self._ledger = ledger
        self._number = 0

    async def call(self, ended: asyncio.Event) -> None:
        endpoints = self._world.ready["services"]["apns"]["endpoints"]
        async with aiohttp.ClientSession() as session:
            api = self._world.api(session)
            while not ended.is_set():
                self._number += 1
                prepared = recipients("apns", 5, seed=self._number, endpoints=endpoints)
                body = job() + b"\n" + b"".join(prepared.lines)
                try:
                    answer = await api.submit([body])
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                else:
                    self._ledger.accepted(prepared.keys)
                    self.jobs.append(answer["job"])
                await asyncio.sleep(PAUSE)


def reloads(world: World) -> int:
    return world.gateway.log.read_text().count('"gateway.reloaded"')


@pytest.mark.timeout(300)
async def test_no_request_fails_while_workers_are_replaced(long: bool, evidence: Evidence) -> None:
    """SIGHUP again and again: all workers are others in the end, and no caller noticed."""
    count = 10 if long else 2
    ledger, ended = Ledger(), asyncio.Event()
    with World(["apns"], mode="quick", workers=2) as world:
        constant = Constant(world, ledger)
        seconds = []
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(constant.call(ended))
            for number in range(count):
                former, began = set(world.gateway.family()[1:]), time.monotonic()
                os.kill(world.gateway.pid, signal.SIGHUP)
                await asyncio.to_thread(
                    wait_until, lambda n=number: reloads(world) > n, "reloaded", world.gateway, 60.0
                )
                seconds.append(time.monotonic() - began)
                assert len(world.gateway.family()) == 3
                assert former.isdisjoint(world.gateway.family())
            ended.set()
        async with aiohttp.ClientSession() as session:
            caller = Caller(world.api(session), ledger)
            await caller.finish(constant.jobs)
            await caller.enter_receipts(constant.jobs)
        world.enter_taken(ledger)
    balance = ledger.balance()
    figures = {
        "requests": len(constant.jobs) + len(constant.failures),
        "failed requests": len(constant.failures),
        "slowest replacement of both workers, s": round(max(seconds), 1),
    }
    evidence.record(f"{count} SIGHUPs under constant requests of {CALLERS} callers", figures, balance)
    assert constant.failures == []
    assert balance.clean
    assert balance.duplicates == 0


def test_wrong_settings_leave_the_workers_as_they_are() -> None:
    """The log says which key is wrong, and who served goes on."""
    with World(["apns"], mode="fast", workers=1) as world:
        former = world.gateway.family()
        config = world.folder / "carillon.toml"
        right = config.read_text()
        config.write_text(right.replace("[http]", "[http]\nprt = 1"))
        os.kill(world.gateway.pid, signal.SIGHUP)
        log = world.gateway.log
        wait_until(lambda: '"gateway.reload_refused"' in log.read_text(), "refusing", world.gateway)
        assert "http.prt" in log.read_text()
        assert world.gateway.family() == former
