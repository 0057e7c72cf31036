"""Receivers of webhooks on loopback, which verify what they are sent with the library of the specification."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook as Verifier

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Behaviour = Callable[["Receiver"], Awaitable[web.StreamResponse | None]]


class Receiver:
    """What it took, once it has verified it; `behave` answers instead of 204."""

    def __init__(self, behave: Behaviour | None = None, secret: str = SECRET) -> None:
        self.behave = behave
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.requests = 0
        self.largest = 0
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.released = asyncio.Event()
        """Lets those go that hang."""
        self._verifier = Verifier(secret)
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/s3cret-path"

    @property
    def deliveries(self) -> list[str]:
        """Ids of deliveries whose receipts it took."""
        return [receipt["id"] for event in self.events for receipt in event["data"].get("receipts", ())]

    async def start(self) -> None:
        app = web.Application(client_max_size=2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.released.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        self.largest = max(self.largest, len(body))
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        self._verifier.verify(body, dict(request.headers))  # otherwise 500, and nothing is taken
        if self.behave is not None and (answer := await self.behave(self)) is not None:
            return answer
        self.events.append(json.loads(body))
        self.ids.append(request.headers["webhook-id"])
        return web.Response(status=204)


async def broken(receiver: Receiver) -> web.StreamResponse:
    return web.Response(status=500)


async def gone(receiver: Receiver) -> web.StreamResponse:
    return web.Response(status=410)


async def elsewhere(receiver: Receiver) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "/elsewhere"})


async def hangs(receiver: Receiver) -> web.StreamResponse:
    await receiver.released.wait()
    return web.Response(status=500)


def at_first(times: int, behave: Behaviour) -> Behaviour:
    """So many requests are answered like that, those behind them are taken."""

    async def answer(receiver: Receiver) -> web.StreamResponse | None:
        return await behave(receiver) if receiver.requests <= times else None

    return answer
