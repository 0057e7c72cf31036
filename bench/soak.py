"""70 % of the highest rate for minutes: whether anything grows, stalls or is lost.

The highest rate is what this bench and the gateway reach together in the same run, each job followed by the next, with
the ledger taken as it goes; then jobs are due at fixed instants. The ledger is streamed: deliveries that the service
took and those whose receipt says so cancel out as they come, so what is held is what one side knows and the other does
not yet. Memory is judged by a line of least squares through medians of what the largest worker has resident, after a
warm-up.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp
import msgspec
from hdrh.histogram import HdrHistogram

from bench import report
from bench.api import DEADLINES, Api
from bench.campaign import chunks, job, recipients
from bench.ledger import Balance
from bench.processes import usage
from bench.simulators import Script
from bench.throughput import Scenario, world
from bench.world import World

SHARE = 0.7
JOB_SIZE = 5000
CALIBRATION = 15.0
"""Seconds at full speed."""
TOGETHER = 3
"""Jobs at a time at full speed."""
WARM_UP_SHARE = 0.5
"""Of the time: connections open, and SQLite's page caches fill, 16 MiB a connection."""
WINDOW = 10
MOST_SLOPE = 1.0
"""MiB an hour that the resident memory may surely grow."""
SAMPLED = 20
"""One receipt of so many is in the percentiles."""
FAULTS = {"unavailable": 0.005}
"""What the service answers now and then, so that retries are at work too."""

_TASKS = re.compile(r"^carillon_tasks (\S+)", re.MULTILINE)
_LAG = re.compile(r'^carillon_loop_lag_seconds_bucket\{le="(0\.05|\+Inf)"\} (\S+)', re.MULTILINE)


class Sample(NamedTuple):
    """What is looked at once a second."""

    at: float
    rss_mib: float
    descriptors: int
    tasks: int
    stalls: int
    """Looks that found the loop late by more than 50 ms, so far."""


class Receipt(msgspec.Struct):
    """What is needed of one."""

    id: str
    state: str
    at: float = 0.0
    """UNIX seconds."""


_RECEIPTS = msgspec.json.Decoder(Receipt)


def run(minutes: float, rate: float | None = None) -> dict[str, Any]:
    """Soak at `rate` deliveries a second, or at `SHARE` of what is found to be the highest."""
    with world(Scenario(provider="apns", count=0)) as running:
        running.play("apns", Script.shares(FAULTS, seed=1))
        return asyncio.run(_Soak(running).run(minutes * 60, rate))


class Streamed:
    """A ledger of any length: who knows of a delivery that the other side does not know of yet."""

    def __init__(self) -> None:
        self.told = 0
        self.receipts = 0
        self._extra = 0
        self._open: Counter[str] = Counter()
        self._others: Counter[str] = Counter()

    def accepted(self, count: int) -> None:
        self.told += count

    def receipt(self, receipt: Receipt) -> None:
        self.receipts += receipt.state != "pending"
        if receipt.state == "accepted":
            self._enter(receipt.id, -1)
        else:
            self._others[receipt.state] += 1

    def taken(self, key: str, times: int) -> None:
        self._enter(key, times)

    def _enter(self, key: str, number: int) -> None:
        self._open[key] += number
        if not self._open[key]:
            del self._open[key]

    def balance(self) -> Balance:
        """A delivery that was taken twice cannot be told from one that nobody is owed: both are extra."""
        missing = -sum(number for number in self._open.values() if number < 0)
        extra = sum(number for number in self._open.values() if number > 0) + max(0, self.receipts - self.told)
        return Balance(
            accepted=self.told,
            receipts=self.receipts,
            missing=missing + max(0, self.told - self.receipts),
            extra=extra,
            non_terminal=self._others["pending"],
            duplicates=0,
            duplicates_bound=0,
        )


class _Soak:
    """One run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = Streamed()
        self._samples: list[Sample] = []
        self._latencies = HdrHistogram(1, 86_400_000, 3)
        self._behind = 0.0
        self._lines = recipients("apns", JOB_SIZE).lines
        """Of every job: other jobs' deliveries to the same targets are other deliveries."""

    async def run(self, seconds: float, rate: float | None) -> dict[str, Any]:
        async with aiohttp.ClientSession(timeout=DEADLINES) as session:
            api = self._world.api(session)
            collector = asyncio.create_task(self._collect())
            highest = None if rate is not None else await self._find_highest(api)
            chosen = rate if rate is not None else SHARE * (highest or 0.0)
            before = self._ledger.told
            sampler = asyncio.create_task(self._sample(api))
            cpu, began = self._world.gateway.usage().cpu_seconds, time.monotonic()
            await self._load(api, chosen, seconds)
            wall = time.monotonic() - began
            cpu = self._world.gateway.usage().cpu_seconds - cpu
            for task in (sampler, collector):
                task.cancel()
                await asyncio.wait([task])
            await self._take()
        return self._report(wall, cpu, chosen, highest, self._ledger.told - before)

    async def _find_highest(self, api: Api) -> float:
        began = time.monotonic()
        warm = CALIBRATION / 3

        async def work() -> None:
            while time.monotonic() - began < CALIBRATION:
                await self._job(api)

        async with asyncio.TaskGroup() as group:
            for _ in range(TOGETHER):
                group.create_task(work())
            await asyncio.sleep(warm)
            before = self._ledger.receipts
            await asyncio.sleep(CALIBRATION - warm)
        return (self._ledger.receipts - before) / (time.monotonic() - began - warm)

    async def _load(self, api: Api, rate: float, seconds: float) -> None:
        """Jobs at fixed instants, whether or not the earlier ones are finished."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(math.ceil(seconds * rate / JOB_SIZE)):
                due = began + number * JOB_SIZE / rate
                await asyncio.sleep(due - time.monotonic())
                self._behind = max(self._behind, time.monotonic() - due)
                group.create_task(self._job(api))

    async def _job(self, api: Api) -> None:
        answer = await api.submit(chunks(job(), self._lines))
        self._ledger.accepted(answer["accepted"])
        while not (status := await api.job(answer["job"]))["finished"]:
            await asyncio.sleep(0.1)
        async for page in api.receipt_pages(answer["job"]):
            receipts = _RECEIPTS.decode_lines(page)
            for receipt in receipts:
                self._ledger.receipt(receipt)
            for receipt in receipts[::SAMPLED]:
                self._latencies.record_value(max(1, int((receipt.at - status["created_at"]) * 1000)))

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._take()

    async def _take(self) -> None:
        text = await asyncio.to_thread(self._world.control, "POST", "take?service=apns")
        for line in text.decode().splitlines():
            key, _, accepted = line.split(" ")
            if accepted != "0":
                self._ledger.taken(key, int(accepted))

    async def _sample(self, api: Api) -> None:
        while True:
            metrics = await api.metrics()
            workers = self._world.gateway.family()[1:]
            lags = {bound: float(value) for bound, value in _LAG.findall(metrics)}
            tasks = _TASKS.search(metrics)
            self._samples.append(
                Sample(
                    at=time.monotonic(),
                    rss_mib=usage(workers).rss_mib,
                    descriptors=max(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
                    tasks=int(float(tasks[1])) if tasks else 0,
                    stalls=int(lags["+Inf"] - lags["0.05"]),
                )
            )
            await asyncio.sleep(1.0)

    def _report(self, wall: float, cpu: float, rate: float, highest: float | None, count: int) -> dict[str, Any]:
        balance = self._ledger.balance()
        kept = self._samples[int(len(self._samples) * WARM_UP_SHARE) :]
        slope, error = line(_windows(kept))
        flat = {
            name: _thirds([getattr(sample, name) for sample in kept]) for name in ("descriptors", "tasks", "rss_mib")
        }
        grown = [name for name in ("descriptors", "tasks") if _grows(flat[name])]
        leaking = slope - 2 * error > MOST_SLOPE
        points = {"p50": 50.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
        return {
            "scenario": "soak",
            "done": f"{count:,} deliveries in {wall / 60:.1f} minutes, {rate:,.0f} a second being due",
            "provider": "apns",
            "workers": self._world.workers,
            "count": count,
            **({} if highest is None else {"highest_per_second": round(highest)}),
            "per_second": round(count / wall),
            "late_by_at_most_s": round(self._behind, 3),
            "rss_slope_mib_per_hour": round(slope, 2),
            "rss_slope_error": round(error, 2),
            "by_thirds": flat,
            "grown": grown,
            "stalls_over_50_ms": kept[-1].stalls - self._samples[0].stalls if kept else 0,
            "latency_ms": {name: self._latencies.get_value_at_percentile(point) for name, point in points.items()},
            "wall_seconds": round(wall, 3),
            "gateway_cpu_us": round(cpu / count * 1e6, 2),
            "rss_mib": {"gateway": round(self._world.gateway.usage().peak_mib, 1)},
            "ledger": report.ledger(balance),
            "clean": balance.clean and not grown and not leaking,
            **report.surroundings(),
        }


def _windows(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Hours and median MiB of `WINDOW` samples each: what is there for a moment is not what stays."""
    parts = [samples[at : at + WINDOW] for at in range(0, len(samples) - WINDOW + 1, WINDOW)]
    return [(part[0].at / 3600, statistics.median(sample.rss_mib for sample in part)) for part in parts]


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope of a line of least squares, and its standard error; 0 where there are too few points."""
    if len(points) < 3:
        return 0.0, 0.0
    xs, ys = zip(*points, strict=True)
    slope, intercept = statistics.linear_regression(xs, ys)
    residuals = sum((y - slope * x - intercept) ** 2 for x, y in points)
    spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    return slope, math.sqrt(residuals / (len(points) - 2) / spread)


def _thirds(values: Sequence[float]) -> list[float]:
    """Medians of the first, second and last third."""
    size = max(1, len(values) // 3)
    return [round(statistics.median(values[at : at + size] or [0]), 1) for at in (0, size, len(values) - size)]


def _grows(thirds: Sequence[float]) -> bool:
    """Whether it is more in each third, and by a tenth in all: load comes and goes, leaks only come."""
    first, second, last = thirds
    return first < second < last and last > 1.1 * first + 5
