"""`carillon demo`: a campaign through a real gateway and simulated services, watched live, accounted for at the end.

The mix is fixed by the recipients' number: most are good; some targets are dead, throttled, failing or refused; some
recipients belong to a job whose time runs out, and some to a transactional one that is to be sent again if nobody
knows what became of it. The simulators check every request as the real services would.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import crc32

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from bench import report
from bench.api import DEADLINES, Api, ApiError
from bench.campaign import Recipients, chunks, job, recipients
from bench.ledger import Balance, Ledger
from bench.processes import ProcessFailed, Usage, terminable
from bench.simulators import Rule, Script
from bench.world import World

SERVICES = ("apns", "fcm", "webpush")
SHARES = {"apns": 0.5, "fcm": 0.35, "webpush": 0.15}
EXPIRING_SHARE = 0.01
TRANSACTIONAL_SHARE = 0.05

SCRIPTS = {
    "apns": Script.shares({"unregistered": 0.03, "throttled": 0.03, "unavailable": 0.02, "rejected": 0.01}, seed=1),
    "fcm": Script.shares({"unregistered": 0.03, "failed": 0.02, "rejected": 0.01}, seed=1),
    "webpush": Script(
        (
            Rule(answer="unregistered", share=0.03),
            Rule(answer="throttled", share=0.03, attempts=1, retry_after=1),
            Rule(answer="unavailable", share=0.02, attempts=1),
        ),
        seed=1,
    ),
}

ALWAYS_FAILS = "flaky-100-"
"""What FCM's simulator answers with 503, however often it is asked."""

KILL_AT = 0.3
"""The share of receipts that are stored when a worker is killed."""

POLL = 0.25
GIVE_UP = 300.0
"""Seconds without any new receipt after which the demonstration has failed."""

_RECEIPTS = re.compile(r"^carillon_receipts_total\{([^}]*)\} (\S+)", re.MULTILINE)


class Part(NamedTuple):
    """A job of the campaign."""

    head: bytes
    recipients: Recipients


def main(*, count: int, kill: bool, json: bool, workers: int) -> int:
    """Run the demonstration; returns the exit status: 0 clean, 1 not, 2 could not be run, 130 interrupted."""
    console = Console(stderr=json)
    try:
        with terminable(), console.status("starting simulators and the gateway"):
            world = World(SERVICES, mode="quick", workers=workers, scripts=SCRIPTS, simulator_options=_OPTIONS)
            world.__enter__()
        with terminable(), _left(world):
            result = asyncio.run(_Demo(world, console, count, kill).run())
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been ended")
        return 130
    except (ProcessFailed, ApiError) as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        return 2
    if json:
        report.print_json(result)
    return 0 if result["clean"] else 1


_OPTIONS = ("--origins", "2", "--decrypt-every", "20")


@contextmanager
def _left(world: World) -> Iterator[None]:
    try:
        yield
    finally:
        world.__exit__(None, None, None)


class _Demo:
    """One run."""

    def __init__(self, world: World, console: Console, count: int, kill: bool) -> None:
        self._world = world
        self._console = console
        self._count = count
        self._kill = kill
        self._ledger = Ledger()
        self._states: Counter[tuple[str, str]] = Counter()
        self._milliseconds: list[float] = []

    async def run(self) -> dict[str, Any]:
        parts = self._parts()
        async with aiohttp.ClientSession(timeout=DEADLINES) as session:
            api = self._world.api(session)
            before, began = self._world.gateway.usage(), time.monotonic()
            jobs = await self._submit(api, parts)
            await self._watch(api, jobs)
            wall = time.monotonic() - began
            used = self._world.gateway.usage()
            with self._console.status("reading receipts and journals"):
                await self._read_receipts(api, jobs)
                await asyncio.to_thread(self._world.enter_taken, self._ledger)
        balance = self._ledger.balance()
        self._print(balance, wall)
        return self._report(balance, wall, used._replace(cpu_seconds=used.cpu_seconds - before.cpu_seconds))

    def _parts(self) -> list[Part]:
        """The campaign, its transactional part and the part that runs out of time."""
        expiring = int(self._count * EXPIRING_SHARE)
        transactional = int(self._count * TRANSACTIONAL_SHARE)
        sizes = _sizes(self._count - expiring - transactional)
        campaign = [self._recipients(service, size, seed=1) for service, size in sizes.items()]
        parts = [Part(job(), _mixed(campaign))]
        if transactional:
            parts.append(Part(job(class_="transactional", ttl="10m"), self._recipients("apns", transactional, seed=2)))
        if expiring:
            parts.append(Part(job(ttl="3s"), recipients("fcm", expiring, seed=3, name=ALWAYS_FAILS)))
        return parts

    def _recipients(self, service: str, count: int, seed: int) -> Recipients:
        endpoints = self._world.ready["services"][service]["endpoints"]
        return recipients(service, count, seed=seed, endpoints=endpoints)

    async def _submit(self, api: Api, parts: Sequence[Part]) -> list[str]:
        jobs = []
        for number, part in enumerate(parts):
            answer = await api.submit(chunks(part.head, part.recipients.lines), key=f"demo-{number}")
            if answer["accepted"] != len(part.recipients.lines):
                raise ApiError(f"only {answer['accepted']} of {len(part.recipients.lines)} recipients were accepted")
            self._ledger.accepted(part.recipients.keys)
            jobs.append(answer["job"])
        return jobs

    async def _watch(self, api: Api, jobs: list[str]) -> None:
        """Show the bars until all jobs are finished; kill a worker on the way if asked to."""
        bars = _Bars(self._totals())
        to_kill = self._kill
        last, moved_at = 0, time.monotonic()
        with Live(bars, console=self._console, refresh_per_second=8, transient=True):
            while not all([(await api.job(job_id))["finished"] for job_id in jobs]):
                done = bars.show(await _receipts_by_provider(api))
                if to_kill and done >= KILL_AT * self._count:
                    self._kill_worker()
                    to_kill = False
                if done != last:
                    last, moved_at = done, time.monotonic()
                elif time.monotonic() - moved_at > GIVE_UP:
                    raise self._world.gateway.failure(f"stored no receipt for {GIVE_UP:g} s")
                await asyncio.sleep(POLL)
            bars.show(await _receipts_by_provider(api))
            bars.full()

    def _totals(self) -> dict[str, int]:
        expiring, transactional = int(self._count * EXPIRING_SHARE), int(self._count * TRANSACTIONAL_SHARE)
        totals = _sizes(self._count - expiring - transactional)
        totals["fcm"] += expiring
        totals["apns"] += transactional
        return totals

    def _kill_worker(self) -> None:
        workers = self._world.gateway.family()[1:]
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            self._console.print(f"kill -9 of worker process {workers[0]}", highlight=False)

    async def _read_receipts(self, api: Api, jobs: list[str]) -> None:
        for job_id in jobs:
            created = (await api.job(job_id))["created_at"]
            async for receipt in api.receipts(job_id):
                self._ledger.receipt(receipt)
                self._states[receipt["provider"], receipt["state"]] += 1
                # Whatever the gateway itself says may have been sent without an answer may be there twice.
                self._ledger.duplicates_bound += receipt.get("unanswered", 0)
                if receipt["state"] == "accepted":
                    self._milliseconds.append((receipt["at"] - created) * 1000)

    def _print(self, balance: Balance, wall: float) -> None:
        by_service: dict[str, Counter[str]] = {service: Counter() for service in SERVICES}
        for (service, state), number in self._states.items():
            by_service[service][state] = number
        self._console.print(_by_state("receipts", by_service))
        verdict = "[green]clean[/green]" if balance.clean else "[red]NOT CLEAN[/red]"
        self._console.print(
            f"ledger {verdict}: the client was told {balance.accepted:,} are accepted, {balance.receipts:,} have a "
            f"receipt; missing {balance.missing:,}, extra {balance.extra:,}, not terminal {balance.non_terminal:,}, "
            f"taken twice by a service {balance.duplicates:,} (at most {balance.duplicates_bound:,} possible)",
            highlight=False,
        )
        self._console.print(f"{self._count / wall:,.0f} a second over {wall:.1f} s, retries included", highlight=False)

    def _report(self, balance: Balance, wall: float, gateway: Usage) -> dict[str, Any]:
        by_provider: dict[str, dict[str, int]] = {service: {} for service in SERVICES}
        for (service, state), number in sorted(self._states.items()):
            by_provider[service][state] = number
        return {
            "scenario": "demo",
            "provider": ",".join(SERVICES),
            "workers": self._world.workers,
            "count": self._count,
            "killed": self._kill,
            "wall_seconds": round(wall, 3),
            "per_second": round(self._count / wall),
            "cpu_seconds": {"gateway": round(gateway.cpu_seconds, 3)},
            "gateway_cpu_us": round(gateway.cpu_seconds / self._count * 1e6, 2),
            "latency_ms": report.latency(self._milliseconds),
            "rss_mib": {"gateway": round(gateway.peak_mib, 1)},
            "receipts": by_provider,
            "ledger": report.ledger(balance),
            "clean": balance.clean,
            **report.surroundings(),
        }


class _Bars:
    """A bar a provider with its rate, and below what became of its deliveries so far."""

    def __init__(self, totals: dict[str, int]) -> None:
        self._progress = Progress(
            TextColumn("{task.description:8}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>10}"),
        )
        self._tasks: dict[str, TaskID] = {
            service: self._progress.add_task(service, total=total, rate="") for service, total in totals.items()
        }
        self._totals = totals
        self._states: dict[str, Counter[str]] = {}
        self._last: dict[str, tuple[float, int]] = {}

    def __rich__(self) -> Group:
        return Group(self._progress, _by_state("so far", self._states))

    def show(self, states: dict[str, Counter[str]]) -> int:
        """Update, and say how many receipts there are."""
        now = time.monotonic()
        done = 0
        self._states = states
        for service, task in self._tasks.items():
            number = states.get(service, Counter()).total()
            then, before = self._last.get(service, (now - POLL, number))
            rate = f"{max(0, number - before) / max(now - then, POLL):,.0f}/s"
            self._progress.update(task, completed=number, rate=rate)
            self._last[service] = (now, number)
            done += number
        return done

    def full(self) -> None:
        """All jobs are finished: a batch whose worker was killed right after storing it was never counted."""
        for service, task in self._tasks.items():
            self._progress.update(task, completed=self._totals[service])


def _by_state(title: str, by_service: Mapping[str, Counter[str]]) -> Table:
    states = sorted({state for counts in by_service.values() for state, number in counts.items() if number})
    table = Table(title=title, show_footer=True)
    table.add_column("provider", footer="all")
    for state in states:
        table.add_column(state, footer=f"{sum(counts[state] for counts in by_service.values()):,}", justify="right")
    for service in SERVICES:
        counts = by_service.get(service, Counter())
        table.add_row(service, *(f"{counts[state]:,}" for state in states))
    return table


def _sizes(count: int) -> dict[str, int]:
    sizes = {service: int(count * share) for service, share in SHARES.items()}
    sizes["apns"] += count - sum(sizes.values())
    return sizes


def _mixed(groups: Sequence[Recipients]) -> Recipients:
    """One job's recipients, the services' interleaved as a campaign system's list would be."""
    lines = [line for group in groups for line in group.lines]
    lines.sort(key=crc32)
    keys = {recipient: key for group in groups for recipient, key in group.keys.items()}
    return Recipients(lines, keys)


async def _receipts_by_provider(api: Api) -> dict[str, Counter[str]]:
    """From the gateway's metrics, which add up over its workers."""
    counts: dict[str, Counter[str]] = {}
    for labels, value in _RECEIPTS.findall(await api.metrics()):
        fields = dict(part.split("=", 1) for part in labels.replace('"', "").split(","))
        counts.setdefault(fields["provider"], Counter())[fields["state"]] += int(float(value))
    return counts
