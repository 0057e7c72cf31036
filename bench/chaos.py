"""Everything goes wrong, one thing after the other and some at once: what the ledger says afterwards.

While jobs come in at a steady rate, the services throttle, fail, hang, reset and lose, say GOAWAY, cut connections and
restart; workers are killed, stopped for seconds and woken, and replaced. The seed chooses what, when and how long. What
may be there twice is what receipts say was sent without an answer; what was on the wire at kills, by the flight
recorders, is told beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp

from bench import recorder, report
from bench.caller import Caller
from bench.campaign import Recipients, job, recipients
from bench.ledger import Ledger
from bench.simulators import Rule, Script
from bench.world import World

SERVICES = ("apns", "fcm", "webpush")
EVERY = 0.25
"""Seconds between jobs."""
JOB_SIZE = 300
PAUSES = (1.0, 3.0)
"""Seconds between faults: less than most of them last, so that they overlap."""
ENVIRONMENT = {
    "CARILLON_DISPATCH__REQUEST_TIMEOUT": "4s",
    "CARILLON_DISPATCH__BACKOFF_CAP": "5s",
    "CARILLON_DISPATCH__MAX_ATTEMPTS": "100",
    "CARILLON_DISPATCH__RETRY_FLOOR": "1000",
}
"""Shorter than the defaults, so that a hang and a storm end within the run, and what a storm held back goes in seconds
rather than at 10 a second. None is to be dead-lettered by a storm."""

_BACKGROUND = (
    Rule(answer="unregistered", share=0.02),
    Rule(fault="lost", share=0.004, attempts=1),
    Rule(fault="hang", share=0.002, attempts=1),
    Rule(fault="reset", code=7, share=0.01, attempts=1),
    Rule(fault="drain", share=0.0005, attempts=1),
)
"""What services do all the time."""
_STORMS: dict[str, tuple[Rule, ...]] = {
    "503": (Rule(answer="unavailable"),),
    "429": (Rule(answer="throttled", retry_after=1),),
    "slow": (Rule(delay=1.0),),
    "hangs": (Rule(fault="hang", share=0.05, attempts=1),),
    "resets": (Rule(fault="reset", code=2, share=0.1, attempts=1), Rule(fault="reset", code=7, share=0.4, attempts=2)),
    "goaways": (Rule(fault="goaway", code=0, share=0.01, attempts=1),),
    "dead tokens": (Rule(answer="unregistered", share=0.15),),
}
"""What one service does for some seconds."""


def run(seconds: float, seed: int | None = None) -> dict[str, Any]:
    """Faults for so long, then the rest of the work in peace; returns the report."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    scripts = {service: Script(_BACKGROUND, seed=1) for service in SERVICES}
    options = ("--origins", "2", "--decrypt-every", "50", "--rtt", "20")
    with World(
        SERVICES, mode="quick", workers=2, scripts=scripts, simulator_options=options, environment=ENVIRONMENT
    ) as world:
        return asyncio.run(_Chaos(world, seconds, seed).run())


class _Chaos:
    """One run."""

    def __init__(self, world: World, seconds: float, seed: int) -> None:
        self._world = world
        self._seconds = seconds
        self._seed = seed
        self._random = random.Random(seed)
        self._ledger = Ledger()
        self._faults: Counter[str] = Counter()
        self._on_wire = 0
        self._calm: dict[str, int] = dict.fromkeys(SERVICES, 0)  # storms that a service is in
        self._acts: dict[str, Callable[[], None]] = {
            "worker killed": self._kill,
            "worker stopped": self._freeze,
            "workers replaced": self._replace,
            "connections cut": lambda: self._tell("cut"),
            "GOAWAY": lambda: self._tell("goaway", {"code": self._random.choice([0, 0, 2])}),
            "service restarted": lambda: self._tell("restart", {"seconds": self._random.uniform(0.5, 3.0)}),
        }

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            caller = Caller(self._world.api(session), self._ledger)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._submit(caller, group, began + self._seconds))
                while time.monotonic() < began + self._seconds:
                    await asyncio.sleep(self._random.uniform(*PAUSES))
                    group.create_task(self._fault())
            await caller.finish(caller.jobs)
            wall = time.monotonic() - began
            unanswered = await caller.enter_receipts(caller.jobs)
        await asyncio.to_thread(self._world.enter_taken, self._ledger)
        self._ledger.duplicates_bound = sum(receipt["unanswered"] for receipt in unanswered)
        return self._report(caller, wall)

    async def _submit(self, caller: Caller, group: asyncio.TaskGroup, end: float) -> None:
        number = 0
        while time.monotonic() < end:
            lane = self._random.choices(["promotional", "transactional"], [3, 1])[0]
            prepared = self._recipients(self._random.choice(SERVICES), number)
            group.create_task(caller.submit(job(class_=lane, ttl="1h"), prepared))
            number += 1
            await asyncio.sleep(EVERY)

    def _recipients(self, service: str, number: int) -> Recipients:
        endpoints = self._world.ready["services"][service]["endpoints"]
        return recipients(service, self._random.randint(1, JOB_SIZE), seed=number, endpoints=endpoints)

    async def _fault(self) -> None:
        name = self._random.choice([*self._acts, *_STORMS, *_STORMS])
        self._faults[name] += 1
        if name in self._acts:
            await asyncio.to_thread(self._acts[name])
        else:
            await self._storm(_STORMS[name], self._random.choice(SERVICES), self._random.uniform(2.0, 8.0))

    async def _storm(self, rules: tuple[Rule, ...], service: str, seconds: float) -> None:
        self._calm[service] += 1
        await asyncio.to_thread(self._world.play, service, Script((*rules, *_BACKGROUND[1:]), seed=self._seed))
        await asyncio.sleep(seconds)
        self._calm[service] -= 1
        if not self._calm[service]:
            await asyncio.to_thread(self._world.play, service, Script(_BACKGROUND, seed=1))

    def _tell(self, what: str, document: dict[str, Any] | None = None) -> None:
        service = self._random.choice(SERVICES)
        self._world.control("POST", f"{what}?service={service}", json.dumps(document or {}).encode())

    def _worker(self) -> int | None:
        workers = self._world.gateway.family()[1:]
        return self._random.choice(workers) if workers else None

    def _kill(self) -> None:
        if (worker := self._worker()) is not None:
            self._on_wire += recorder.kill(worker)

    def _freeze(self) -> None:
        if (worker := self._worker()) is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(self._random.uniform(1.0, 5.0))
                os.kill(worker, signal.SIGCONT)

    def _replace(self) -> None:
        os.kill(self._world.gateway.pid, signal.SIGHUP)

    def _report(self, caller: Caller, wall: float) -> dict[str, Any]:
        balance = self._ledger.balance()
        number = sum(self._faults.values())
        return {
            "scenario": "chaos",
            "done": f"{number} faults in {self._seconds:g} s over {balance.accepted:,} deliveries of three services",
            "provider": ",".join(SERVICES),
            "workers": self._world.workers,
            "count": balance.accepted,
            "seed": self._seed,
            "faults": dict(sorted(self._faults.items())),
            "on_wire_at_kills": self._on_wire,
            "requests_broken": caller.broken,
            "requests_refused": caller.refusals,
            "batches_parked_and_replayed": caller.replayed,
            "wall_seconds": round(wall, 3),
            "rss_mib": {"gateway": round(self._world.gateway.usage().peak_mib, 1)},
            "ledger": report.ledger(balance),
            "clean": balance.clean,
            **report.surroundings(),
        }
