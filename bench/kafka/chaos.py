"""Gateways of one group that join, leave, die and stand still, and brokers that die, while jobs are sent.

Three sides are held against each other: what callers were told, what the service took, and what a plain consumer reads
off the topic of receipts. What a gateway had in hand when it was killed or stopped is looked up in its mirror: so many
may have been sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp

from bench import report
from bench.api import DEADLINES, Api
from bench.caller import Caller
from bench.campaign import Recipients, job, recipients
from bench.kafka.group import Group
from bench.kafka.reader import ReceiptReader
from bench.ledger import Ledger
from bench.simulators import Script

GATEWAYS = 3
EVENTS = {"join": 5, "leave": 4, "kill": 4, "stop": 2, "broker": 2}
"""What happens, and how often beside the others."""
BROKER_EVENTS = {"broker": 3, "stall": 2}
PORTIONS = 60
"""Jobs over which the deliveries are spread, and these over the events."""
STOPPED = 30.0
"""Seconds of SIGSTOP: longer than a session."""
SESSION = 10.0
LEASE = 4.0
RTT_MS = 100.0
PATIENCE = 180.0
SCRIPT = Script.shares({"unregistered": 0.02, "throttled": 0.02, "unavailable": 0.02}, seed=1)

_IN_HAND = """
SELECT coalesce(sum(count), 0) FROM batches WHERE state = 2 OR sequence IN
(SELECT sequence FROM feed WHERE revision > (SELECT published FROM member))
"""


class AnyOf(Api):
    """The API of whichever gateway answers."""

    def __init__(self, group: Group, session: aiohttp.ClientSession, chosen: random.Random) -> None:
        super().__init__("", session, {})
        self._group = group
        self._chosen = chosen

    async def submit(self, chunks: Iterable[bytes], key: str | None = None) -> dict[str, Any]:
        running = [number for number, child in self._group.gateways.items() if child.running]
        if not running:
            raise aiohttp.ClientConnectionError("no gateway runs")
        return await self._group.api(self._chosen.choice(running), self._session).submit(chunks, key)


def run(
    count: int,
    events: int,
    *,
    nodes: int = 3,
    partitions: int = 12,
    kinds: Mapping[str, int] = EVENTS,
    seed: int | None = None,
) -> dict[str, Any]:
    """So many events, of these kinds, over so many deliveries; returns the report."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="carillon-", dir=shared if shared.is_dir() else None) as folder,
        Group(
            Path(folder),
            ["apns"],
            mode="quick",
            nodes=nodes,
            partitions=partitions,
            scripts={"apns": SCRIPT},
            simulator_options=["--rtt", str(RTT_MS)],
            environment={
                "CARILLON_KAFKA__SESSION_TIMEOUT": str(SESSION),
                "CARILLON_KAFKA__HANDOVER": "6",
                "CARILLON_QUEUE__LEASE_SECONDS": str(LEASE),
                "CARILLON_QUEUE__MAX_CRASHES": "1000",
            },
        ) as group,
    ):
        return asyncio.run(_Chaos(group, count, events, kinds, seed).run())


class _Chaos:
    def __init__(self, group: Group, count: int, events: int, kinds: Mapping[str, int], seed: int) -> None:
        self._group = group
        self._count = count
        self._events = events
        self._kinds = kinds
        self._submitted = asyncio.Event()
        self._longest_silence = 0.0
        self._seed = seed
        self._random = random.Random(seed)
        self._ledger = Ledger()
        self._done: Counter[str] = Counter()
        self._in_hand: list[int] = []

    async def run(self) -> dict[str, Any]:
        group, began = self._group, time.monotonic()
        for number in range(GATEWAYS):
            group.start(number)
        await asyncio.to_thread(group.await_group, range(GATEWAYS))
        reader = ReceiptReader(group.brokers.servers, f"{group.prefix}.receipts")
        await reader.start()
        reading = asyncio.create_task(_read(reader))
        async with aiohttp.ClientSession(timeout=DEADLINES) as session:
            caller = Caller(AnyOf(group, session, self._random), self._ledger)
            sending = asyncio.create_task(self._send(caller))
            for _ in range(self._events):
                self._submitted.clear()
                with contextlib.suppress(TimeoutError):  # in the middle of something, if there is anything left
                    await asyncio.wait_for(self._submitted.wait(), 5.0)
                await asyncio.sleep(self._random.uniform(0.0, 0.5))
                await self._strike()
            await self._restore()
            await sending
        complete = await self._finish(reader)
        reading.cancel()
        await asyncio.wait([reading])
        reader.take_in()
        await reader.stop()
        for receipt in reader.receipts.values():
            self._ledger.receipt(receipt)
        await asyncio.to_thread(group.world.enter_taken, self._ledger)
        self._ledger.duplicates_bound = sum(self._in_hand)
        balance = self._ledger.balance()
        return {
            "scenario": "group",
            "done": f"{self._events} events over {balance.accepted:,} deliveries of {GATEWAYS} gateways",
            "provider": "apns",
            "count": balance.accepted,
            "seed": self._seed,
            "events": dict(self._done),
            "in_hand_at_kills": sum(self._in_hand),
            "receipts_repeated": reader.repeated,
            "receipts_changed": reader.changed,
            "states": dict(Counter(each["state"] for each in reader.receipts.values())),
            "longest_until_accepted_seconds": round(self._longest_silence, 1),
            "requests_broken": caller.broken,
            "requests_refused": caller.refusals,
            "complete": complete,
            "wall_seconds": round(time.monotonic() - began, 3),
            "ledger": report.ledger(balance),
            "clean": balance.clean and complete,
            **report.surroundings(),
        }

    async def _send(self, caller: Caller) -> None:
        """Campaigns and one-time codes, as long as things happen."""
        portion = max(1, self._count // PORTIONS)
        for number, start in enumerate(range(0, self._count, portion)):
            size = min(portion, self._count - start)
            kind = "transactional" if number % 3 == 0 else "promotional"
            prepared = self._recipients(size, number)
            while self._done.total() < min(self._events, start * self._events // self._count):
                await asyncio.sleep(0.05)
            began = time.monotonic()
            await caller.submit(job(class_=kind, ttl="1h"), prepared)
            self._longest_silence = max(self._longest_silence, time.monotonic() - began)
            self._submitted.set()

    def _recipients(self, count: int, seed: int) -> Recipients:
        endpoints = self._group.world.ready["services"]["apns"]["endpoints"]
        return recipients("apns", count, seed=seed, endpoints=endpoints)

    async def _finish(self, reader: ReceiptReader) -> bool:
        """Whether every accepted delivery got a receipt before nothing moved any more."""
        moved, before = time.monotonic(), -1
        while True:
            reader.take_in()
            found = len(reader.receipts)
            if found >= self._count:
                return True
            if found != before:
                before, moved = found, time.monotonic()
            elif time.monotonic() - moved > PATIENCE:
                return False
            await asyncio.sleep(0.5)

    async def _strike(self) -> None:
        kind = self._random.choices(list(self._kinds), list(self._kinds.values()))[0]
        running = [number for number, child in self._group.gateways.items() if child.running]
        down = [number for number in range(GATEWAYS) if number not in running]
        if (kind == "join" and not down) or (kind in ("leave", "kill", "stop") and len(running) < 2):
            kind = "broker" if len(self._group.brokers.nodes) > 1 else "kill" if len(running) > 1 else "join"
        await asyncio.to_thread(getattr(self, f"_{kind}"), running, down)
        self._done[kind] += 1

    def _join(self, running: list[int], down: list[int]) -> None:
        self._group.start(self._random.choice(down))

    def _leave(self, running: list[int], down: list[int]) -> None:
        self._group.leave(self._random.choice(running))

    def _kill(self, running: list[int], down: list[int]) -> None:
        victim = self._random.choice(running)
        self._group.pause(victim)
        self._in_hand.append(self._held(victim))
        self._group.kill(victim)

    def _stop(self, running: list[int], down: list[int]) -> None:
        victim = self._random.choice(running)
        self._group.pause(victim)
        self._in_hand.append(self._held(victim))
        time.sleep(STOPPED)
        self._group.go_on(victim)

    def _broker(self, running: list[int], down: list[int]) -> None:
        node = self._random.choice(self._group.brokers.nodes)
        self._group.brokers.kill(node)
        time.sleep(self._random.uniform(4.0, 8.0))
        self._group.brokers.start(node)

    def _stall(self, running: list[int], down: list[int]) -> None:
        """A broker stands still: its connections stay open and nothing comes."""
        pid = self._random.choice(self._group.brokers.pids())
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._random.uniform(4.0, 8.0))
        os.kill(pid, signal.SIGCONT)

    async def _restore(self) -> None:
        for number, child in self._group.gateways.items():
            if not child.running:
                await asyncio.to_thread(self._group.start, number)

    def _held(self, number: int) -> int:
        """Deliveries that a stopped gateway has in hand, or has ended and not told of."""
        path = self._group.folder / f"gateway-{number}/queue/kafka.db"
        try:
            with closing(sqlite3.connect(path, timeout=2)) as db:
                ((held,),) = db.execute(_IN_HAND).fetchall()
        except sqlite3.OperationalError:  # it had not begun
            return 0
        return int(held)


async def _read(reader: ReceiptReader) -> None:
    while True:
        await reader.read(0.2)
