"""Somebody sets the wall clock while a worker is at work: nothing expires early, bursts, waits or changes hands."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw
import pytest

from gateway.credentials.store import CredentialStore
from gateway.dispatch.dispatcher import Dispatcher
from gateway.model import Job, Lane, Route, new_batch_id, new_job_id
from gateway.observe.health import Readiness
from gateway.queue.base import NewBatch, Room
from gateway.queue.database import Database
from gateway.queue.sqlite import SqliteQueue
from gateway.queue.writer import Operation
from gateway.receipts.store import ReceiptStore
from gateway.settings import Settings
from providers import PROVIDERS
from providers.base import Message
from providers.jws import base64url
from tests.gateway.dispatch.scripted import Silent
from tests.gateway.virtual import EPOCH, Answer, Service, VirtualLoop, virtual_loop
from tests.providers.material import EC_KEY, pem, written
from tests.reliability.conftest import Evidence

ROW = "R13"

T = TypeVar("T")
SHOP = Route("shop", "stub")
HOUR, DAY = 3600.0, 86_400.0
ASKED_FOR = 60.0
"""Seconds of `Retry-After`."""

Wall = Callable[[float], float]
"""From seconds that passed to UNIX seconds that the wall clock shows."""


class Case(NamedTuple):
    """Something that happens to the wall clock."""

    name: str
    wall: Wall


def set_by(seconds: float, at: float) -> Wall:
    return lambda passed: EPOCH + passed + (seconds if passed >= at else 0.0)


def cases(long: bool) -> list[Case]:
    found = []
    for number, at in enumerate((5.0, 1.0, 30.0, 61.0) if long else (5.0,)):
        found += [
            *(Case(f"{by:+.0f} s after {at:g} s", set_by(by, at)) for by in (HOUR, -HOUR, DAY, -DAY, -600.0)),
            Case(f"frozen after {at:g} s", lambda passed, at=at: EPOCH + min(passed, at)),
            Case(f"100 times fast after {at:g} s", lambda passed, at=at: EPOCH + passed + 99 * max(0.0, passed - at)),
            Case(
                f"back and forth each {at:g} s",
                lambda passed, at=at: EPOCH + passed + (-1) ** int(passed / at) * HOUR * (passed > at),
            ),
            Case(f"5 % slow, {number}", lambda passed: EPOCH + passed * 0.95),
            Case(f"summer time after {at:g} s", _summer_time(at)),
        ]
    return found


def _summer_time(at: float) -> Wall:
    """UNIX seconds know no summer time; the process's time zone does, and nothing may look at it."""

    def wall(passed: float) -> float:
        zone = "CEST-2" if passed >= at else "CET-1"
        if os.environ.get("TZ") != zone:
            os.environ["TZ"] = zone
            time.tzset()
        return EPOCH + passed

    return wall


class Inline(Database):
    """Commits where it is asked to: no thread, so that virtual time stands still meanwhile."""

    async def open(self) -> None:
        self._db, self._reader, self._watch, self._turn = self._connect()
        self._db.execute("PRAGMA synchronous = OFF")  # nobody cuts the power here

    async def close(self) -> None:
        assert self._reader is not None
        assert self._watch is not None
        self._db.close()
        self._reader.close()
        self._watch.close()
        self._turn.close()

    def write(
        self,
        operation: Operation[T],
        *,
        patient: bool = False,
        heavy: bool = False,
        first: Callable[[asyncio.Future[T]], None] | None = None,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            with self._db:
                result = operation(self._db)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        if first is not None:
            first(future)
        return future

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        assert self._reader is not None
        with self._reader:
            return query(self._reader)


class World:
    """A worker on the real queue, another holder on the same file, and a service that is now and then busy."""

    def __init__(self, path: Path, wall: Wall) -> None:
        self._start = virtual_loop().time()
        self._wall = wall
        self.latest = 0.0
        """The latest time that was ever shown: a clock that goes back takes back nothing that was done by it."""
        self.queue, self.other = self._queue(path, "worker-0"), self._queue(path, "worker-1")
        self.service = virtual_loop().serve("shop.example", Service(self._behave))
        blocks = {"shop": {"stub": {"key": "k", "endpoint": "https://shop.example"}}}
        settings = Settings(
            apps=blocks,  # type: ignore[arg-type]
            queue={"lease_seconds": 30.0},  # type: ignore[arg-type]
            dispatch={"request_timeout": 60.0},  # type: ignore[arg-type]
        )
        self.dispatcher = Dispatcher(
            settings,
            self.queue,
            CredentialStore(settings.blocks()),
            Silent(),  # type: ignore[arg-type]
            Readiness("queue"),
            jitter=random.Random(1),
        )
        self.tries: dict[str, list[float]] = {}
        self.due_by_wall: list[float] = []

    def _queue(self, path: Path, owner: str) -> SqliteQueue:
        queue = SqliteQueue(path, owner=owner, lease_seconds=30.0, uptime=virtual_loop().time)
        queue.database = Inline(path)
        return queue

    @property
    def passed(self) -> float:
        return virtual_loop().time() - self._start

    def time(self) -> float:
        now = self._wall(self.passed)
        self.latest = max(self.latest, now)
        return now

    def _behave(self, path: str) -> Answer:
        target = path.rpartition("/")[2]
        tries = self.tries.setdefault(target, [])
        tries.append(self.passed)
        if target.startswith("later"):
            self.due_by_wall.append(self.latest)
        if target.startswith("busy") and len(tries) == 1:
            return Answer(503, headers=(("retry-after", str(int(ASKED_FOR))),))
        if target.startswith("flaky") and len(tries) <= 2:
            return Answer(503)
        return Answer(delay=35.0 if target.startswith("slow") else 0.0)

    async def submit(self, word: str, count: int, **times: float) -> Job:
        job = Job(
            id=new_job_id(), app="shop", lane=Lane.PROMOTIONAL, message=Message(title="hello"),
            created_at=self.time(), resend_unknown=False, **times,
        )  # fmt: skip
        tokens = b"\n".join(b"%s-%d" % (word.encode(), index) for index in range(count))
        batch = NewBatch(new_batch_id(), SHOP, count, tokens, (tokens, b"\n" * (count - 1)))
        await self.queue.submit(job, None, [batch], b"{}")
        self.dispatcher.wake()
        return job

    async def states(self, job: Job) -> set[str]:
        page = await ReceiptStore(self.queue.database).receipts(job.id, 0, 1000)
        assert page is not None
        return {receipt.state for receipt in page.receipts} if page.finished else {"open"}

    async def take_over(self) -> None:
        """Another worker asks for work all the time: nothing that is held is for it."""
        while True:
            await asyncio.sleep(2.5)
            for lease in await self.other.lease(Room(4, 4, (), {}), time.time()):
                assert lease.crashes == 0, "a live batch changed hands"
                await self.other.defer(lease, 0.0, [], time.time())

    async def live(self) -> None:
        await self.queue.open()
        await self.other.open()
        running = [asyncio.ensure_future(each) for each in (self.dispatcher.run(), self.take_over())]
        try:
            await self.attack()
            assert not any(task.done() for task in running), [task.exception() for task in running if task.done()]
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            await self.dispatcher.drain(1.0)
            await self.other.close()
            await self.queue.close()

    async def attack(self) -> None:
        expires_at = self.time() + 2 * HOUR
        later_at = self.time() + 80.0
        endless = [await self.submit(word, 20) for word in ("plain", "slow", "busy", "flaky")]
        ending = await self.submit("busy-ending", 20, expires_at=expires_at)
        later = await self.submit("later", 5, deliver_at=later_at)
        await asyncio.sleep(130.0)
        late = await self.submit("plain-late", 5)
        await asyncio.sleep(5.0)
        for job in (*endless, late):
            assert await self.states(job) == {"accepted"}, job
        assert await self.states(ending) <= ({"accepted", "expired"} if self.latest >= expires_at else {"accepted"})
        assert all(at >= later_at for at in self.due_by_wall)
        assert (await self.states(later) == {"accepted"}) == bool(self.due_by_wall)
        assert bool(self.due_by_wall) == (self.latest > later_at), "what was scheduled goes by the wall clock"
        for target, tries in self.tries.items():
            least = ASKED_FOR if target.startswith("busy") else 0.4 if target.startswith("flaky") else 0.0
            assert len(tries) <= 3, "a burst of retries"
            assert all(after - before >= least for before, after in pairwise(tries)), target


@pytest.mark.timeout(300)
def test_the_clock_is_set_under_a_worker(
    long: bool, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued, held, put off and retried goes by what passed; schedules and expiry by what the clock shows."""
    monkeypatch.setenv("TZ", os.environ.get("TZ", "UTC"))
    for number, case in enumerate(cases(long)):
        print(case.name)
        with asyncio.Runner(loop_factory=VirtualLoop) as runner, monkeypatch.context() as clock:
            world = runner.run(_world(tmp_path / f"{number}.db", case.wall))
            clock.setattr(time, "time", world.time)
            runner.run(world.live())
    monkeypatch.undo()
    time.tzset()
    figures = {"cases": len(cases(long)), "early_expiries": 0, "bursts": 0, "delayed": 0, "changed_hands": 0}
    evidence.record("the wall clock is set, frozen or runs away under a worker, 135 virtual seconds a case", figures)


async def _world(path: Path, wall: Wall) -> World:
    return World(path, wall)


def claims(headers: Any) -> dict[str, float]:
    """Of the JWT in an `authorization` header."""
    import base64
    import json

    token = dict(headers)[b"authorization"].split(b" ")[1].removeprefix(b"t=").rstrip(b",")
    payload = token.split(b".")[1]
    decoded: dict[str, float] = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    return decoded


def test_signatures_follow_the_clock(long: bool, evidence: Evidence, tmp_path: Path) -> None:
    """Whatever is done to the clock, what is signed next is valid at the time that it shows."""
    key = written(tmp_path / "key.p8", pem(EC_KEY))
    raw = written(tmp_path / "vapid.txt", base64url(EC_KEY.private_numbers().private_value.to_bytes(32, "big")))
    apns, webpush = PROVIDERS["apns"], PROVIDERS["webpush"]
    signed = 0
    for case in cases(long):
        provider_token = apns.credential(
            apns.settings(team_id="A" * 10, key_id="B" * 10, key_file=key, topic="com.example.shop")
        )
        vapid = webpush.credential(webpush.settings(vapid_key_file=raw, subject="mailto:push@example.com"))
        for passed in [*range(0, 200, 2), *range(200, 100_000, 500)]:
            now = case.wall(float(passed))
            issued = claims(provider_token.headers("https://api.push.apple.com", now))["iat"]
            assert now - HOUR < issued <= now, case.name
            expires = claims(vapid.headers("https://push.example", now))["exp"]
            assert now < expires <= now + DAY, case.name
            signed += 2
    evidence.record("APNs and VAPID tokens looked at while the clock is set", {"tokens_checked": signed, "invalid": 0})
