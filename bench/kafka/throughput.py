"""The same path as `bench.throughput`, with Kafka as the queue: from HTTP accept to receipts read off the topic.

Gateways, one processor each while there are enough, are measured from the first byte of an upload until a plain
consumer has read the last receipt. The cost is that of all gateway processes; the brokers' is told apart.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from bench import report, throughput
from bench.api import DEADLINES
from bench.campaign import Recipients, chunks, job, recipients
from bench.kafka.group import Group
from bench.kafka.reader import ReceiptReader
from bench.ledger import Ledger
from bench.processes import usage
from bench.stage import JOB_SIZE, WARM_UP
from bench.world import cpus

PATIENCE = 120.0
"""Seconds without a receipt after which the run is over."""
SHARED_MEMORY = Path("/dev/shm")


def run(provider: str, count: int, gateways: int = 1) -> dict[str, Any]:
    """One run, and before it the one it is held against: the embedded queue, or for two gateways one on Kafka."""
    embedded = throughput.Scenario(provider, count)
    former = throughput.run(embedded) if gateways == 1 else _run(provider, count, 1)
    measured = _run(provider, count, gateways)
    base = former["gateway_cpu_us"]
    ratio = round(measured["gateway_cpu_us"] / base, 3)
    return {**measured, "base_cpu_us": base, "ratio": ratio, "clean": measured["clean"] and former["clean"]}


def _run(provider: str, count: int, gateways: int) -> dict[str, Any]:
    base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None  # the brokers' disk is not what is measured
    processors = cpus()
    with tempfile.TemporaryDirectory(prefix="carillon-", dir=base) as folder:
        environment = {"CARILLON_APPS__SHOP__FCM__RATE": "1e9"} if provider == "fcm" else {}
        options = ["--origins", "4"] if provider == "webpush" else []
        with Group(
            Path(folder),
            [provider],
            mode="fast",
            simulator_options=options,
            environment=environment,
            simulator_cpu=processors[1],
        ) as group:
            for number in range(gateways):
                group.start(number, processors[number % 2])
            group.await_group(range(gateways))
            return asyncio.run(_Run(group, provider, count, gateways).run())


class _Run:
    def __init__(self, group: Group, provider: str, count: int, gateways: int) -> None:
        self._group = group
        self._provider = provider
        self._count = count
        self._gateways = gateways
        self._ledger = Ledger()
        self._sent = 0

    async def run(self) -> dict[str, Any]:
        group = self._group
        self._reader = ReceiptReader(group.brokers.servers, f"{group.prefix}.receipts")
        await self._reader.start()
        async with aiohttp.ClientSession(timeout=DEADLINES) as session:
            self._apis = [group.api(number, session) for number in range(self._gateways)]
            for seed in range(1, 3):
                await self._send(self._recipients(WARM_UP, seed))
                await self._finish()
            prepared = self._recipients(self._count, 99)
            self._reader.take_in()
            before, began, client = self._usage(), time.monotonic(), time.process_time()
            sending = asyncio.create_task(self._send(prepared))
            await self._finish(sending)
            wall, client = time.monotonic() - began, time.process_time() - client
            used = {name: after - before[name] for name, after in self._usage().items()}
        self._reader.take_in()
        await self._reader.stop()
        for receipt in self._reader.receipts.values():
            self._ledger.receipt(receipt)
        group.world.enter_taken(self._ledger)
        return self._report(wall, client, used)

    def _recipients(self, count: int, seed: int) -> Recipients:
        endpoints = self._group.world.ready["services"][self._provider]["endpoints"]
        return recipients(self._provider, count, seed=seed, endpoints=endpoints)

    async def _send(self, prepared: Recipients) -> None:
        """One upload after the other, to the gateways in turns."""
        self._sent += len(prepared.lines)
        self._ledger.accepted(prepared.keys)
        for number, start in enumerate(range(0, len(prepared.lines), JOB_SIZE)):
            api = self._apis[number % len(self._apis)]
            await api.submit(chunks(job(), prepared.lines[start : start + JOB_SIZE]))

    async def _finish(self, sending: asyncio.Task[None] | None = None) -> None:
        """Read until all that was sent has its receipt."""
        last = time.monotonic()
        while self._reader.count < self._sent or (sending is not None and not sending.done()):
            if await self._reader.read():
                last = time.monotonic()
            elif time.monotonic() - last > PATIENCE:
                break
        if sending is not None:
            await sending

    def _usage(self) -> dict[str, float]:
        gateways = [pid for child in self._group.gateways.values() for pid in child.family()]
        return {
            "gateway": usage(gateways).cpu_seconds,
            "sink": self._group.world.simulators.usage().cpu_seconds,
            "brokers": usage(self._group.brokers.pids()).cpu_seconds,
        }

    def _report(self, wall: float, client: float, used: dict[str, float]) -> dict[str, Any]:
        balance = self._ledger.balance()
        gateways = [pid for child in self._group.gateways.values() for pid in child.family()]
        return {
            "scenario": "throughput",
            "queue": "kafka",
            "provider": self._provider,
            "gateways": self._gateways,
            "workers": 1,
            "count": self._count,
            "wall_seconds": round(wall, 3),
            "per_second": round(self._count / wall),
            "cpu_seconds": {name: round(value, 3) for name, value in {**used, "client": client}.items()},
            "gateway_cpu_us": round(used["gateway"] / self._count * 1e6, 2),
            "broker_cpu_us": round(used["brokers"] / self._count * 1e6, 2),
            "bytes_stored": self._group.brokers.stored(self._group.prefix),
            "latency_ms": report.latency([each["latency_ms"] for each in self._reader.receipts.values()]),
            "rss_mib": {"gateway": round(usage(gateways).peak_mib, 1)},
            "receipts_repeated": self._reader.repeated,
            "ledger": report.ledger(balance),
            "clean": balance.clean,
            **report.surroundings(),
        }
