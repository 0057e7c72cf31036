"""kill -9, over and over, while jobs are taken in, stored, sent and receipted: what the ledger says afterwards.

Each round submits some jobs and kills at a moment of its phase: while an upload is being received (accept), when its
last byte is written (commit), while notifications are on the wire (send), when the first receipts are stored
(receipt), or at any time (any). The victim is a worker, all of them, the parent alone or the parent with all of them.
The seed chooses, and a run tells its own. What was on the wire is counted in the victim's flight recorder, with the
victim stopped in its tracks, right before it is killed: so many may have been sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, get_args

import aiohttp

from bench import recorder, report
from bench.caller import Caller
from bench.campaign import Recipients, job, recipients
from bench.ledger import Ledger
from bench.simulators import Script
from bench.world import World

SERVICES = ("apns", "fcm", "webpush")
RTT_MS = 250.0
"""Of the simulated services, so that there is something on the wire to lose."""
SCRIPT = Script.shares({"unregistered": 0.02, "throttled": 0.02, "unavailable": 0.02}, seed=1)
FCM_SCRIPT = Script.shares({"unregistered": 0.02, "unavailable": 0.02}, seed=1)
"""Without throttling: there it stops the whole project."""

Phase = Literal["accept", "commit", "send", "receipt", "any"]
PHASES: tuple[Phase, ...] = get_args(Phase)
VICTIMS = {"worker": 0.7, "workers": 0.12, "parent": 0.06, "everything": 0.12}
"""Who is killed, and how often."""

CALM = 0.8
"""How often the next round waits until somebody serves again."""
PHASE_DEADLINE = 5.0
"""Seconds for a phase's moment to come; after that the round kills all the same."""
LONGEST_DELAY = 0.06
"""Seconds at most between the moment and the kill."""
POLL = 0.02


def run(kills: int, count: int, seed: int | None = None) -> dict[str, Any]:
    """So many kills, spread over so many deliveries of all three services; returns the report."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    scripts = {"apns": SCRIPT, "fcm": FCM_SCRIPT, "webpush": SCRIPT}
    options = ("--origins", "2", "--decrypt-every", "50", "--rtt", str(RTT_MS))
    # The batches are innocent of what is done here, and none is to be parked for it.
    environment = {"CARILLON_QUEUE__MAX_CRASHES": "1000"}
    with World(
        SERVICES, mode="quick", workers=2, scripts=scripts, simulator_options=options, environment=environment
    ) as world:
        return asyncio.run(_Crash(world, kills, count, seed).run())


class _Round:
    """The moments of a round, as they come."""

    def __init__(self) -> None:
        self.moments: dict[Phase, asyncio.Event] = {phase: asyncio.Event() for phase in PHASES}

    def sent(self, left: int) -> None:
        """A portion of an upload was written."""
        self.moments["accept" if left else "commit"].set()


class _Crash:
    """One run."""

    def __init__(self, world: World, kills: int, count: int, seed: int) -> None:
        self._world = world
        self._kills = kills
        self._count = count
        self._seed = seed
        self._random = random.Random(seed)
        self._ledger = Ledger()
        self._phases: Counter[str] = Counter()
        self._victims: Counter[str] = Counter()
        self._on_wire: list[int] = []

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            caller = Caller(self._world.api(session), self._ledger)
            async with asyncio.TaskGroup() as uploads:
                phases = [PHASES[number % len(PHASES)] for number in range(self._kills)]
                self._random.shuffle(phases)
                for number, phase in enumerate(phases):
                    await self._round(caller, uploads, number, phase)
            await caller.finish(caller.jobs)
            wall = time.monotonic() - began
            unanswered = await caller.enter_receipts(caller.jobs)
        await asyncio.to_thread(self._world.enter_taken, self._ledger)
        self._ledger.duplicates_bound = sum(self._on_wire)
        return self._report(caller, wall, sum(receipt["unanswered"] for receipt in unanswered))

    async def _round(self, caller: Caller, uploads: asyncio.TaskGroup, number: int, phase: Phase) -> None:
        at = _Round()
        tasks = [uploads.create_task(caller.submit(*part, at.sent)) for part in self._parts(number)]
        watch = asyncio.create_task(self._watch(caller, at, tasks))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(at.moments[phase].wait(), PHASE_DEADLINE)
        await asyncio.sleep(self._random.uniform(0, LONGEST_DELAY))
        self._phases[phase if at.moments[phase].is_set() else "any"] += 1
        await asyncio.to_thread(self._strike)
        watch.cancel()
        if self._random.random() < CALM:
            await caller.served()
        else:  # and some are killed again while they still start
            await asyncio.sleep(self._random.uniform(0, 1.0))

    def _parts(self, number: int) -> list[tuple[bytes, Recipients]]:
        """A campaign and, for each service, some that are to be sent again if nobody knows what became of them."""
        size = -(-self._count // self._kills)
        small = size // 12
        parts = [(job(class_="transactional", ttl="1h"), self._recipients(each, small, number)) for each in SERVICES]
        mixed = [self._recipients(each, size // 4, number, "c") for each in SERVICES]
        lines = [line for group in mixed for line in group.lines]
        self._random.shuffle(lines)
        keys = {recipient: key for group in mixed for recipient, key in group.keys.items()}
        return [(job(), Recipients(lines, keys)), *parts]

    def _recipients(self, service: str, count: int, number: int, name: str = "") -> Recipients:
        endpoints = self._world.ready["services"][service]["endpoints"]
        return recipients(service, max(1, count), seed=number, name=name, endpoints=endpoints)

    async def _watch(self, caller: Caller, at: _Round, uploads: Sequence[asyncio.Task[str]]) -> None:
        """Set the moments that only the other side knows of."""
        at.moments["any"].set()
        before = await asyncio.to_thread(self._requests)
        while await asyncio.to_thread(self._requests) == before:
            await asyncio.sleep(POLL)
        at.moments["send"].set()
        await asyncio.wait(uploads)  # not gather: this task is cancelled at the kill, and they are not
        await caller.moved([upload.result() for upload in uploads])
        at.moments["receipt"].set()

    def _requests(self) -> int:
        services = json.loads(self._world.control("GET", "stats"))["services"]
        return sum(service["requests"] for service in services.values())

    def _strike(self) -> None:
        kind = self._random.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        parent, *workers = self._world.gateway.family()
        self._victims[kind] += 1
        if kind == "worker":
            victims = [self._random.choice(workers)] if workers else []
        else:
            victims = {"workers": workers, "parent": [parent], "everything": [parent, *workers]}[kind]
        self._on_wire.append(sum([recorder.kill(pid) for pid in victims]))
        if parent in victims:
            self._world.restart_gateway([parent, *workers])

    def _report(self, caller: Caller, wall: float, unanswered: int) -> dict[str, Any]:
        balance = self._ledger.balance()
        gateway = self._world.gateway.usage()
        return {
            "scenario": "crash",
            "done": f"{len(self._on_wire)} kills with SIGKILL over {balance.accepted:,} deliveries of three services",
            "provider": ",".join(SERVICES),
            "workers": self._world.workers,
            "count": balance.accepted,
            "seed": self._seed,
            "kills": len(self._on_wire),
            "phases": dict(self._phases),
            "victims": dict(self._victims),
            "on_wire_at_kills": sum(self._on_wire),
            "unanswered": unanswered,
            "requests_broken": caller.broken,
            "requests_refused": caller.refusals,
            "batches_parked_and_replayed": caller.replayed,
            "wall_seconds": round(wall, 3),
            "rss_mib": {"gateway": round(gateway.peak_mib, 1)},
            "ledger": report.ledger(balance),
            "clean": balance.clean,
            **report.surroundings(),
        }
