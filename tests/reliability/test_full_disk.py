"""The disk fills up under load and is emptied again: nobody is told a lie, nothing is lost, it goes on by itself."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.ledger import Ledger
from bench.processes import wait_until
from bench.world import World
from tests.reliability.conftest import Evidence

ROW = "R12"

RECIPIENTS = 150
CALLERS = 4
RESUMES_WITHIN = 5.0


class Full:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, world: World) -> None:
        self._filler = world.folder / "queue" / "filler"

    def refuse(self) -> None:
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def relent(self) -> None:
        self._filler.unlink()


class Limited:
    """No process of the gateway can make any file longer: what can be done without the right to mount."""

    def __init__(self, world: World) -> None:
        self._pids = world.gateway.family()

    def refuse(self) -> None:
        self._limit(4096)

    def relent(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in self._pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A small file system in memory; skips the test where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "carillon-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Callers:
    """Those who submit jobs all the time, and repeat with the same key what was answered with 503."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self._url = f"{world.url}/v1/jobs"
        self._session = session
        self.ledger = Ledger()
        self.jobs: list[str] = []
        self.refused = 0
        self.owed: list[tuple[str, bytes, list[str]]] = []
        self._number = 0

    async def call(self) -> bool:
        """One job; whether it was taken."""
        self._number += 1
        key, names = f"job-{self._number}", [f"{self._number}-{index}" for index in range(RECIPIENTS)]
        recipients = [{"id": name, "provider": "stub", "token": f"device-{name}", "vars": {}} for name in names]
        body = json.dumps(
            {"app": "shop", "class": "promotional", "message": {"title": "Hello"}, "recipients": recipients}
        ).encode()
        return await self._post(key, body, names)

    async def _post(self, key: str, body: bytes, names: list[str]) -> bool:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            answer = await response.json(content_type=None)
            if response.status == 202:
                self.jobs.append(answer["job"])
                self.ledger.accepted(dict.fromkeys(names))
                return True
            assert response.status == 503, answer
            assert int(response.headers["Retry-After"]) > 0
            assert "disk" in answer["detail"]
            self.refused += 1
            self.owed.append((key, body, names))
            return False

    async def repeat(self) -> None:
        owed, self.owed = self.owed, []
        for each in owed:
            await self._post(*each)

    async def until(self, *, taken: int = 0, refused: int = 0) -> None:
        """Call from several sides until so many more jobs were answered so."""
        taken, refused, deadline = taken + len(self.jobs), refused + self.refused, time.monotonic() + 40.0
        while len(self.jobs) < taken or self.refused < refused:
            assert time.monotonic() < deadline
            await asyncio.gather(*(self.call() for _ in range(CALLERS)))


async def readiness(world: World) -> tuple[int, dict[str, Any]]:
    """What whichever worker answers says."""
    async with aiohttp.ClientSession() as fresh, fresh.get(f"{world.url}/readyz") as response:
        return response.status, await response.json()


async def not_ready(world: World) -> str:
    """The sentence of the first worker that says so."""
    async with asyncio.timeout(10.0):
        while True:
            status, found = await readiness(world)
            if status == 503:
                return str(found["parts"]["queue"]["detail"])
            await asyncio.sleep(0.05)


async def settled(world: World, callers: Callers, session: aiohttp.ClientSession) -> None:
    api = world.api(session)
    async with asyncio.timeout(60.0):
        for job in callers.jobs:
            while not (await api.job(job))["finished"]:
                await asyncio.sleep(0.05)
            async for receipt in api.receipts(job):
                callers.ledger.receipt(receipt)


@pytest.fixture(params=["full", "limited"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The gateway's own folder is on a disk of its own, or its processes are limited."""
    if request.param == "full":
        with mounted(tmp_path / "queue"), World(["stub"], mode="quick", workers=2, folder=tmp_path) as world:
            yield world
    else:
        with World(["stub"], mode="quick", workers=2, folder=tmp_path) as world:
            yield world


@pytest.mark.timeout(900)
async def test_a_disk_that_fills_up_under_load(
    world: World, long: bool, evidence: Evidence, request: pytest.FixtureRequest
) -> None:
    """503 with `Retry-After` and a sentence while it is full, and within five seconds of room it takes jobs again."""
    wait_until(lambda: world.gateway.log.read_text().count("worker.ready") == world.workers, "whole", world.gateway)
    disk = (Full if "full" in request.node.callspec.id else Limited)(world)
    cycles, pids, resumed = 20 if long else 1, world.gateway.family(), []
    async with aiohttp.ClientSession(headers=world.credential) as session:
        callers = Callers(world, session)
        for _ in range(cycles):
            await callers.until(taken=random.randint(5, 20))
            disk.refuse()
            await callers.until(refused=5)
            assert "disk" in await not_ready(world)
            disk.relent()
            began = time.monotonic()
            while not await callers.call():
                await asyncio.sleep(0.1)
            while [(await readiness(world))[0] for _ in range(4)] != [200] * 4:
                await asyncio.sleep(0.05)
            resumed.append(time.monotonic() - began)
            assert resumed[-1] < RESUMES_WITHIN
            assert world.gateway.family() == pids, "a process died"
            while callers.owed:
                await callers.repeat()
        await settled(world, callers, session)
    world.enter_taken(callers.ledger)
    balance = callers.ledger.balance()
    evidence.record(
        f"the disk refused writes {cycles} times under load, of two workers over HTTP",
        {
            "cycles": cycles,
            "answers_202": len(callers.jobs),
            "answers_503": callers.refused,
            "resumed_after_seconds_at_most": round(max(resumed), 2),
        },
        balance,
    )
    assert balance.clean, balance


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (["dd", "if=/dev/zero", "of=queue/filler"], "there must be room on the disk"),
        (["mount", "-o", "remount,ro", "queue"], "must exist and be writable"),
    ],
    ids=["full", "read-only"],
)
def test_a_start_without_a_disk_says_so(tmp_path: Path, trouble: list[str], words: str) -> None:
    """A gateway that cannot write its own files does not start, and says which file and what it needs."""
    with mounted(tmp_path / "queue"):
        subprocess.run(trouble, cwd=tmp_path, capture_output=True, check=False)
        environment = {**os.environ, "CARILLON_QUEUE__PATH": "queue/carillon.db", "CARILLON_HTTP__PORT": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "serve"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert "queue" in done.stderr
