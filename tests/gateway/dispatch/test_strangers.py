"""Where a subscription leads is checked when it is connected to, unless the settings name it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.store import CredentialStore
from gateway.dispatch.dispatcher import Dispatcher
from gateway.model import Job, Lane, Route, State, new_batch_id, new_job_id
from gateway.observe.health import Readiness
from gateway.queue.base import NewBatch
from gateway.settings import Settings
from providers.base import Message
from tests.gateway.dispatch.scripted import Silent
from tests.gateway.fakes import MemoryQueue
from tests.gateway.virtual import EPOCH, Service, until, virtual_loop
from tests.providers.material import EC_KEY, b64, pem, point, written

LOOPS = ("virtual",)

OURS, THEIRS = "push.company.example", "push.stranger.com"


class World:
    """A dispatcher of an app that names one origin and allows any; both hosts are at the same address inside."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int]] = []
        monkeypatch.setattr(virtual_loop(), "getaddrinfo", self._resolve)
        block = {
            "vapid_key_file": written(folder / "vapid.pem", pem(EC_KEY)),
            "subject": "mailto:ops@shop.com",
            "endpoints": [f"https://{OURS}"],
            "allow_any_public": True,
        }
        settings = Settings(apps={"shop": {"webpush": block}})  # type: ignore[dict-item]
        self.services = {host: virtual_loop().serve(host, Service()) for host in (OURS, THEIRS)}
        self.queue = MemoryQueue()
        self.readiness = Readiness("queue")
        self.dispatcher = Dispatcher(
            settings,
            self.queue,
            CredentialStore(settings.blocks()),
            Silent(),  # type: ignore[arg-type]
            self.readiness,
            jitter=random.Random(1),
        )

    async def _resolve(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append((host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.7", port))]

    async def submit(self, host: str) -> str:
        now = EPOCH + virtual_loop().time()
        job = Job(
            id=new_job_id(),
            app="shop",
            lane=Lane.TRANSACTIONAL,
            message=Message(title="t"),
            created_at=now,
            expires_at=now + 120,
            resend_unknown=True,
        )
        columns = (b"/push/1", b64(point(EC_KEY)).encode(), b64(bytes(16)).encode(), b"")
        route = Route("shop", "webpush", f"https://{host}")
        await self.queue.submit(job, None, [NewBatch(new_batch_id(now), route, 1, b"u", columns)], b"{}")
        return job.id

    def states(self, job: str) -> set[str]:
        """Of a job that is complete; none before."""
        batches = self.queue.jobs[job].batches
        whole = all(batch.complete_at is not None for batch in batches)
        return {State(state).word for batch in batches for state in batch.progress.states} if whole else set()


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(tmp_path, monkeypatch)
    running = virtual_loop().create_task(world.dispatcher.run())
    yield world
    running.cancel()
    await asyncio.wait([running])
    await world.dispatcher.drain(0.0)


async def test_a_strangers_host_that_leads_inside_is_not_connected_to(world: World) -> None:
    """Its job waits and expires, the operator is told why, and nobody else notices."""
    theirs, ours = await world.submit(THEIRS), await world.submit(OURS)
    part = f"route shop/webpush https://{THEIRS}"
    await until(lambda: part in world.readiness._parts, 30.0)
    assert "cannot connect: the host is not on the public internet" in world.readiness._parts[part][1]
    await until(lambda: world.states(ours) == {"accepted"}, 30.0)
    await until(lambda: world.states(theirs) == {"expired"}, 200.0)
    assert world.services[THEIRS].dials == []
    assert {host for host, _ in world.asked} == {THEIRS}, "what the settings name is the operator's own affair"
