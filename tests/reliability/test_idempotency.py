"""Callers repeat themselves: at once, later, after a death of the gateway, with another body. A key is one job."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from bench.ledger import Ledger
from bench.world import World
from gateway.access.principal import anyone
from gateway.ingest.body import Body
from gateway.ingest.intake import Intake
from gateway.ingest.limits import Limits
from gateway.ingest.problem import Refused
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.fakes import Counts
from tests.gateway.ingest.conftest import APPS, PROVIDERS, document, recipient
from tests.reliability.conftest import Evidence

ROW = "R18"

AT_ONCE = 200
LIVES = 5
DAY = 86_400.0


class Content:
    """A request's body that has arrived."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read_nowait(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def at_eof(self) -> bool:
        return not self._body

    async def readany(self) -> bytes:
        return self.read_nowait()


class Callers:
    """What is asked under which key, and what was answered."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.jobs: dict[str, set[str]] = {}
        """Key -> the jobs that answers with 202 named: there has to be one."""
        self.asked: list[str] = []
        self.repeats = self.twins = self.conflicts = 0

    def body(self, key: str, *, other: bool = False) -> bytes:
        return json.dumps(document(recipient(0, id=f"{key}-{'other' if other else 'one'}"))).encode()

    def next(self) -> list[tuple[str, bool]]:
        """One request, or a pair of twins: keys, and whether with another body than at first."""
        if self.asked and self.chance.random() < 0.3:
            self.repeats += 1
            return [(self.chance.choice(self.asked), self.chance.random() < 0.2)]
        key = f"key-{len(self.asked)}"
        self.asked.append(key)
        if self.chance.random() < 0.1:
            self.twins += 1
            return [(key, False)] * 2
        return [(key, False)]

    async def ask(self, intake: Intake, key: str, other: bool) -> None:
        """Until there is an answer; whoever meets a twin comes back. Only the first body of a key is taken."""
        while True:
            with intake.upload() as share:
                body = Body(Content(self.body(key, other=other)), Limits(), hashed=True)
                try:
                    answer = await intake.document(body, share, key, anyone())
                except Refused as refused:
                    status = refused.args[0]
                else:
                    status = 202
                    self.jobs.setdefault(key, set()).add(answer.job_id)
            if status != 409:
                assert status == (422 if other else 202)
                self.conflicts += other
                return
            await asyncio.sleep(0)


@asynccontextmanager
async def life(path: Path) -> AsyncIterator[tuple[Intake, SqliteQueue]]:
    """A gateway's intake, which ends as by kill -9."""
    queue = SqliteQueue(path, owner="worker")
    await queue.open()
    limits = Limits(uploads=10 * AT_ONCE)
    yield Intake(APPS, PROVIDERS, queue, Counts(), limits), queue
    recorder, queue._recorder = queue._recorder, None
    assert recorder is not None
    recorder.close(remove=False)
    await queue.database.close()


@pytest.mark.timeout(600)
async def test_a_key_is_one_job(
    long: bool, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over repeats, twins, other bodies and restarts; and when keys have expired they can be used again."""
    requests, seed = (100_000, 18) if long else (5_000, random.randrange(1 << 32))
    print(f"seed {seed}")
    callers, path = Callers(seed), tmp_path / "queue.db"
    began = time.monotonic()
    for _ in range(LIVES):
        async with life(path) as (intake, _):
            for _ in range(requests // LIVES // AT_ONCE):
                # First asked with the first body: which of two bodies is first would be a race of the test's own.
                asked = [each for _ in range(AT_ONCE) for each in callers.next()]
                await asyncio.gather(*(callers.ask(intake, key, other) for key, other in asked if not other))
                await asyncio.gather(*(callers.ask(intake, key, other) for key, other in asked if other))
    seconds = time.monotonic() - began
    assert all(len(jobs) == 1 for jobs in callers.jobs.values())
    assert set(callers.jobs) == set(callers.asked)
    assert callers.conflicts > 0
    async with life(path) as (intake, queue):
        stored = await queue.database.read(lambda db: db.execute("SELECT count(*), count(DISTINCT id) FROM jobs").get)
        assert stored == (len(callers.asked), len(callers.asked))
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + DAY + 60.0)
        await queue.maintain(time.time())
        for key in callers.asked[:50]:
            await callers.ask(intake, key, False)
            assert len(callers.jobs[key]) == 2
    evidence.record(
        f"{requests} requests with 30 % repeats, twins at once and other bodies, through {LIVES} lives of the gateway",
        {
            "keys": len(callers.asked),
            "repeats": callers.repeats,
            "twins": callers.twins,
            "answered_422": callers.conflicts,
            "keys_with_two_jobs": 0,
            "seconds": round(seconds, 1),
            "seed": seed,
        },
    )


class Shop:
    """A caller over HTTP who repeats whatever was not answered."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self._url = f"{world.url}/v1/jobs"
        self._session = session
        self.ledger = Ledger()
        self.jobs: dict[str, set[str]] = {}
        self.unanswered = 0

    async def ask(self, number: int) -> None:
        key, headers = f"order-{number}", {"Content-Type": "application/json"}
        body = json.dumps(document(recipient(number, id=key)))
        while True:
            try:
                async with self._session.post(
                    self._url, data=body, headers={**headers, "Idempotency-Key": key}
                ) as response:
                    answer = await response.json(content_type=None)
            except (aiohttp.ClientError, ValueError):
                self.unanswered += 1
                await asyncio.sleep(0.05)
                continue
            if response.status == 202:
                self.jobs.setdefault(key, set()).add(answer["job"])
                self.ledger.accepted({key: None})
                return
            assert response.status in (409, 503), answer
            await asyncio.sleep(0.02)


@pytest.mark.timeout(300)
async def test_a_key_is_one_job_over_deaths_of_the_worker(long: bool, evidence: Evidence, tmp_path: Path) -> None:
    """kill -9 in the middle of requests: callers who repeat what was not answered get one job for each key."""
    requests, deaths = (3000, 4) if long else (400, 2)  # the supervisor gives up after five at once
    chance = random.Random(1)
    with World(["stub"], mode="quick", folder=tmp_path) as world:
        async with aiohttp.ClientSession(headers=world.credential) as session:
            shop = Shop(world, session)
            for death in range(deaths + 1):
                numbers = [chance.randrange(requests * 7 // 10) for _ in range(requests // (deaths + 1))]
                asking = [asyncio.ensure_future(shop.ask(number)) for number in numbers]
                if death < deaths:
                    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                    for pid in world.gateway.family()[1:]:
                        os.kill(pid, signal.SIGKILL)
                async with asyncio.timeout(60.0):
                    await asyncio.gather(*asking)
            assert all(len(jobs) == 1 for jobs in shop.jobs.values())
            api = world.api(session)
            async with asyncio.timeout(60.0):
                for (job,) in shop.jobs.values():
                    while not (await api.job(job))["finished"]:
                        await asyncio.sleep(0.05)
                    async for receipt in api.receipts(job):
                        shop.ledger.receipt(receipt)
        world.enter_taken(shop.ledger)
    balance = shop.ledger.balance()
    evidence.record(
        f"{requests} requests over HTTP with repeats, kill -9 of the worker {deaths} times",
        {"keys": len(shop.jobs), "unanswered_and_repeated": shop.unanswered, "deaths": deaths},
        balance,
    )
    assert balance.clean, balance
