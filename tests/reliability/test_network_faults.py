"""Eight faults of the network between a gateway and three services, at three moments of a connection.

Each cell is an app of its own with a proxy of its own, all at the same time through one gateway: so none of them may
hold up another. The first connections of each are struck, the ones behind them are well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest

from bench.api import DEADLINES
from bench.campaign import Recipients, chunks, job, recipients
from bench.ledger import Ledger
from bench.simulators import configuration
from bench.world import World

from .conftest import Evidence
from .proxy import FAULTS, MOMENTS, Fault, Moment, Proxy

ROW = "R8"

SERVICES = ("apns", "fcm", "webpush")
BAD_CONNECTIONS = 2
MEMORY = 50.0
"""MiB that all the faults together may cost, beside what as much work costs without any."""

ENVIRONMENT = {
    "CARILLON_DISPATCH__REQUEST_TIMEOUT": "3s",
    "CARILLON_DISPATCH__CONNECT_TIMEOUT": "3s",
    "CARILLON_DISPATCH__BACKOFF_CAP": "2s",
    "CARILLON_DISPATCH__RETRY_FLOOR": "1000",
}
"""Shorter than the defaults, so that a cell ends within seconds of its fault; and without a budget for retries, as
other rows show that."""


class Cell(NamedTuple):
    """A service, a fault, a moment."""

    service: str
    fault: Fault
    moment: Moment

    @property
    def app(self) -> str:
        return f"{self.service}-{self.fault}-{self.moment}".replace("_", "-")


def cells(long: bool) -> list[Cell]:
    """All of them, or for each service and fault one of the moments."""
    table = [(service, fault) for service in SERVICES for fault in FAULTS]
    if long:
        return [Cell(service, fault, moment) for service, fault in table for moment in MOMENTS]
    return [
        Cell(service, fault, MOMENTS[(SERVICES.index(service) + FAULTS.index(fault)) % 3]) for service, fault in table
    ]


class Proxied(World):
    """A gateway with an app for each cell, whose service it finds behind the cell's proxy."""

    def __init__(self) -> None:
        super().__init__(
            SERVICES, mode="quick", serve=False, simulator_options=("--decrypt-every", "50"), environment=ENVIRONMENT
        )

    def upstream(self, service: str) -> int:
        port = urlsplit(self.ready["services"][service]["endpoints"][0]).port
        assert port is not None
        return port

    def serve(self, proxies: Mapping[Cell, Proxy]) -> None:
        settings = self.folder / "simulators.json"
        described: dict[str, Any] = configuration.json.loads(settings.read_text())["services"]
        fragments = []
        for cell, proxy in proxies.items():
            block = dict(described[cell.service]["settings"])
            block |= {"endpoints": [origin(proxy)]} if cell.service == "webpush" else {"endpoint": origin(proxy)}
            fragments.append(configuration.toml(cell.app, {"services": {cell.service: {"settings": block}}}))
        settings.with_suffix(".toml").write_text("\n".join(fragments))
        self.gateway = self._start_gateway()


def origin(proxy: Proxy) -> str:
    return f"https://127.0.0.1:{proxy.port}"


async def send(
    world: World, proxies: Mapping[Cell, Proxy], count: int, deadline: float, ledger: Ledger, seed: int
) -> float:
    """Two jobs a cell, one of which wants what may have been sent to be sent again. Returns the seconds it took."""
    async with aiohttp.ClientSession(timeout=DEADLINES) as session:
        api = world.api(session)
        jobs, began = {}, time.monotonic()
        for cell, proxy in proxies.items():
            for half, wish in enumerate(("resend", "report")):
                prepared: Recipients = recipients(
                    cell.service, count // 2, seed=2 * seed + half, name=cell.app, endpoints=[origin(proxy)]
                )
                answer = await api.submit(chunks(job(app=cell.app, on_unknown=wish), prepared.lines))
                assert answer["accepted"] == len(prepared.lines)
                ledger.accepted(prepared.keys)
                jobs[answer["job"]] = cell
        open_jobs = set(jobs)
        while open_jobs:
            assert time.monotonic() - began < deadline, f"not done: {sorted({jobs[name].app for name in open_jobs})}"
            await asyncio.sleep(0.5)
            open_jobs = {name for name in open_jobs if not (await api.job(name))["finished"]}
        seconds = time.monotonic() - began
        for name in jobs:
            async for receipt in api.receipts(name):
                ledger.receipt(receipt)
                ledger.duplicates_bound += receipt.get("unanswered", 0)
    return seconds


@pytest.mark.timeout(600)
async def test_every_fault_at_every_moment_is_survived(long: bool, evidence: Evidence) -> None:
    table, count, deadline = cells(long), 2000 if long else 60, 120.0 if long else 40.0
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        world = Proxied()
        await asyncio.to_thread(world.__enter__)
        stack.callback(world.__exit__, None, None, None)
        proxies = {
            cell: await stack.enter_async_context(Proxy(world.upstream(cell.service), cell.fault, cell.moment))
            for cell in table
        }
        await asyncio.to_thread(world.serve, proxies)
        calm = await send(world, proxies, count, deadline, ledger, seed=0)
        before = world.gateway.usage().peak_mib
        await asyncio.gather(*(proxy.strike(BAD_CONNECTIONS) for proxy in proxies.values()))
        seconds = await send(world, proxies, count, deadline, ledger, seed=1)
        growth = world.gateway.usage().peak_mib - before
        await asyncio.to_thread(world.enter_taken, ledger)
        assert world.gateway.running
    spared = [cell.app for cell, proxy in proxies.items() if not proxy.struck]
    balance = ledger.balance()
    evidence.record(
        f"{len(table)} cells of a service, a fault and a moment, {count} notifications each without it and with it",
        {
            "seconds without and with": (round(calm, 1), round(seconds, 1)),
            "memory_mib": round(growth, 1),
            "connections_struck": sum(proxy.struck for proxy in proxies.values()),
        },
        balance,
    )
    assert not spared, "each fault was done"
    assert balance.clean, balance
    assert balance.accepted == 2 * len(table) * count
    assert growth < MEMORY
