"""How callers are seen off while a process leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.gateway.ingest.conftest import NDJSON, Gateway, document, lines, recipient


class Upload:
    """A job that is sent piece by piece."""

    def __init__(self, gateway: Gateway) -> None:
        self.read = asyncio.Event()
        """Somebody asks for more than the first piece."""
        self._rest = asyncio.Event()
        self.answer = asyncio.create_task(self._send(gateway))

    def finish(self) -> None:
        self._rest.set()

    async def _send(self, gateway: Gateway) -> tuple[int, str | None, str | None]:
        async with gateway.session.post("/v1/jobs", data=self._pieces(), headers=NDJSON) as response:
            await response.read()
            return response.status, response.headers.get("Retry-After"), response.headers.get("Connection")

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield lines(recipient(0))
        self.read.set()
        await self._rest.wait()
        yield lines(recipient(1)).splitlines(keepends=True)[1]


async def test_after_the_last_call_a_connection_has_one_more_answer(gateway: Gateway) -> None:
    """The request is served, and the caller told to open another connection for its next one."""
    async with gateway.session.post("/v1/jobs", json=document()) as response:
        assert (response.status, response.headers.get("Connection")) == (202, None)
    gateway.door.last_call()
    async with gateway.session.post("/v1/jobs", json=document(recipient(1))) as response:
        assert (response.status, response.headers["Connection"]) == (202, "close")
    assert gateway.stored == [("u0",), ("u1",)]


async def test_behind_a_shut_door_jobs_are_refused_and_questions_answered(gateway: Gateway) -> None:
    """503 with `Retry-After`; what became of earlier jobs can still be read."""
    _, answer = await gateway.post(document())
    gateway.door.shut()
    async with gateway.session.post("/v1/jobs", json=document()) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert "send it again" in (await response.json(content_type=None))["detail"]
    async with gateway.session.get(f"/v1/jobs/{answer['job']}") as response:
        assert response.status == 200
    assert len(gateway.stored) == 1


async def test_an_upload_has_some_time_to_end(gateway: Gateway) -> None:
    """The job that was being received when the door was shut is taken, and its caller told so."""
    upload = Upload(gateway)
    await upload.read.wait()
    await asyncio.sleep(0.05)
    gateway.door.shut()
    emptying = asyncio.create_task(gateway.door.empty(30))
    await asyncio.sleep(0)
    assert not emptying.done()
    upload.finish()
    status, *_ = await upload.answer
    await emptying
    assert status == 202
    assert gateway.stored == [("u0", "u1")]


async def test_an_upload_that_does_not_end_is_refused(gateway: Gateway) -> None:
    """It gets an answer instead of a cut connection, nothing of it stays, and the door does not wait for its rest."""
    upload = Upload(gateway)
    await upload.read.wait()
    await asyncio.sleep(0.05)
    await gateway.door.empty(0.01)
    assert await upload.answer == (503, "5", "close")
    assert gateway.stored == []


async def test_nobody_inside_is_not_waited_for(gateway: Gateway) -> None:
    async with asyncio.timeout(1):
        await gateway.door.empty(60)
