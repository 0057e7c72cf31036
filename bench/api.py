"""The gateway's HTTP API as these programs use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
from yarl import URL

DEADLINES = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=60)
"""Seconds of a request that may upload or read a lot: nothing waits for an answer for ever."""


class ApiError(Exception):
    """The gateway answered with a problem; the message is its own."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """A client of one gateway."""

    def __init__(self, url: str, session: aiohttp.ClientSession, credential: Mapping[str, str]) -> None:
        self.url = url
        self.credential = credential
        """The header that every request carries."""
        self._session = session

    async def ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def readiness(self) -> str:
        """What `/readyz` says, as text."""
        async with self._session.get(f"{self.url}/readyz") as response:
            return await response.text()

    async def submit(self, chunks: Iterable[bytes], key: str | None = None) -> dict[str, Any]:
        """Upload a job as NDJSON and return the answer.

        Raises:
            ApiError: it was not accepted.
        """
        headers = {"Content-Type": "application/x-ndjson", **self.credential}
        if key is not None:
            headers["Idempotency-Key"] = key
        async with self._session.post(f"{self.url}/v1/jobs", data=_stream(chunks), headers=headers) as response:
            return await _answer(response, 202)

    async def submit_document(self, document: bytes) -> dict[str, Any]:
        """Post a job as one JSON document and return the answer.

        Raises:
            ApiError: it was not accepted.
        """
        headers = {"Content-Type": "application/json", **self.credential}
        async with self._session.post(f"{self.url}/v1/jobs", data=document, headers=headers) as response:
            return await _answer(response, 202)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        async with self._session.delete(f"{self.url}/v1/jobs/{job_id}", headers=self.credential) as response:
            return await _answer(response, 202)

    async def job(self, job_id: str) -> dict[str, Any]:
        """A job's status."""
        async with self._session.get(f"{self.url}/v1/jobs/{job_id}", headers=self.credential) as response:
            return await _answer(response, 200)

    async def receipts(self, job_id: str, limit: int = 10_000) -> AsyncIterator[dict[str, Any]]:
        """All receipts of a finished job, page by page."""
        async for page in self.receipt_pages(job_id, limit):
            for line in page.splitlines():
                yield json.loads(line)

    async def receipt_pages(self, job_id: str, limit: int = 10_000) -> AsyncIterator[bytes]:
        """The same as NDJSON."""
        link: str | None = f"/v1/jobs/{job_id}/receipts?limit={limit}"
        while link is not None:
            async with self._session.get(self.url + link, headers=self.credential) as response:
                if response.status != 200:
                    await _answer(response, 200)
                body = await response.read()
                following = response.links.get("next")
            yield body
            link = URL(str(following["url"])).path_qs if following and body else None

    async def replay_parked(self) -> int:
        """Have all parked batches sent after all, as an operator would; how many there were."""
        async with self._session.get(f"{self.url}/v1/parked", headers=self.credential) as response:
            parked = (await _answer(response, 200))["parked"]
        for batch in parked:
            path = f"/v1/parked/{batch['id']}/replay"
            async with self._session.post(self.url + path, headers=self.credential) as response:
                await _answer(response, 202)
        return len(parked)

    async def metrics(self) -> str:
        async with self._session.get(f"{self.url}/metrics", headers=self.credential) as response:
            return await response.text()


async def _stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


async def _answer(response: aiohttp.ClientResponse, expected: int) -> dict[str, Any]:
    text = await response.text()
    if response.status != expected:
        message = f"{response.method} {response.url.path} answered {response.status}: {text[:2000]}"
        raise ApiError(message, response.status)
    answer: dict[str, Any] = json.loads(text)
    return answer
