"""Simulators asked and told things over HTTP/1.1 on loopback.

```
GET  /stats      counts by service, CPU and memory of the process
GET  /ledger     lines `key seen accepted`, the key with its blanks and backslashes escaped
POST /take       the same of what came since the last time, and forget it: for runs without an end
POST /arrivals   keys, a line each: lines `key seconds`, when each was first seen by the monotonic clock
GET  /messages   what Web Push decrypted last: NDJSON of path and text
POST /script     a `Script`; replaces what is played
POST /reset      forget what was seen
POST /goaway     {"code": 0, "debug": ""}; NO_ERROR is graceful, in two steps
POST /settings   {"3": 10}: SETTINGS by identifier
POST /cut        end all connections
POST /restart    {"seconds": 1}: end all connections, and listen again after so long
```
All but /stats take `?service=`; without it they concern every service.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web

from .script import Script
from .simulator import Simulator
from .webpush import WebPush

T = TypeVar("T")


class Goaway(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /goaway."""

    code: int = 0
    debug: str = ""


class Restart(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /restart."""

    seconds: float = 1.0


class Registered(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /register: a key that is taken from now on."""

    id: str
    public_key: str


class Revoked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /revoke."""

    id: str


class Control:
    """The listener of a process's simulators."""

    def __init__(self, simulators: Sequence[Simulator]) -> None:
        self._simulators = {simulator.name: simulator for simulator in simulators}
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listens, and says the port."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/stats", self._stats),
                web.get("/ledger", self._ledger),
                web.post("/take", self._take),
                web.post("/arrivals", self._arrivals),
                web.get("/messages", self._messages),
                web.post("/script", self._script),
                web.post("/reset", self._reset),
                web.post("/register", self._register),
                web.post("/revoke", self._revoke),
                web.post("/goaway", self._goaway),
                web.post("/settings", self._settings),
                web.post("/cut", self._cut),
                web.post("/restart", self._restart),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _stats(self, request: web.Request) -> web.Response:
        document = {
            "pid": os.getpid(),
            "cpu_seconds": time.process_time(),
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "services": {name: simulator.stats() for name, simulator in self._simulators.items()},
        }
        return _json(document)

    async def _ledger(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        for simulator in self._chosen(request):
            for lines in _ledger_lines(simulator):
                await response.write(lines)
        await response.write_eof()
        return response

    async def _take(self, request: web.Request) -> web.Response:
        body: list[bytes] = []
        for simulator in self._chosen(request):
            body += _ledger_lines(simulator)
            simulator.reset()  # at once: nothing arrives in between
        return web.Response(body=b"".join(body), content_type="text/plain")

    async def _arrivals(self, request: web.Request) -> web.Response:
        keys = (await request.text()).splitlines()
        found = [simulator.journal.arrivals(keys) for simulator in self._chosen(request)]
        return web.Response(text="".join(f"{key} {at}\n" for times in found for key, at in times.items()))

    async def _messages(self, request: web.Request) -> web.Response:
        lines = [
            orjson.dumps({"path": path, "text": text.decode("utf-8", "backslashreplace")})
            for simulator in self._chosen(request)
            if isinstance(simulator.service, WebPush)
            for path, text in simulator.service.messages
        ]
        return web.Response(body=b"".join(line + b"\n" for line in lines), content_type="application/x-ndjson")

    async def _script(self, request: web.Request) -> web.Response:
        script = _decode(await request.read(), Script)
        return self._told(request, lambda simulator: simulator.load(script))

    async def _reset(self, request: web.Request) -> web.Response:
        return self._told(request, Simulator.reset)

    async def _register(self, request: web.Request) -> web.Response:
        what = _decode(await request.read(), Registered)
        return self._told(request, lambda simulator: simulator.register(what.id, what.public_key.encode()))

    async def _revoke(self, request: web.Request) -> web.Response:
        what = _decode(await request.read(), Revoked)
        return self._told(request, lambda simulator: simulator.revoke(what.id))

    async def _goaway(self, request: web.Request) -> web.Response:
        what = _decode(await request.read() or b"{}", Goaway)
        return self._told(request, lambda simulator: simulator.goaway(what.code, what.debug.encode()))

    async def _settings(self, request: web.Request) -> web.Response:
        values = _decode(await request.read(), dict[int, int])
        return self._told(request, lambda simulator: simulator.settings(values))

    async def _cut(self, request: web.Request) -> web.Response:
        return self._told(request, Simulator.cut)

    async def _restart(self, request: web.Request) -> web.Response:
        what = _decode(await request.read() or b"{}", Restart)
        await asyncio.gather(*(simulator.restart(what.seconds) for simulator in self._chosen(request)))
        return self._told(request, lambda simulator: None)

    def _chosen(self, request: web.Request) -> list[Simulator]:
        name = request.query.get("service")
        if name is None:
            return list(self._simulators.values())
        for known, simulator in self._simulators.items():
            if known == name:
                return [simulator]
        raise web.HTTPNotFound(text=f"no such service here: one of {', '.join(self._simulators)}\n")

    def _told(self, request: web.Request, what: Callable[[Simulator], None]) -> web.Response:
        chosen = self._chosen(request)
        try:
            for simulator in chosen:
                what(simulator)
        except (KeyError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"{error.args[0]}\n") from None
        return _json({"services": [simulator.name for simulator in chosen]})


def _ledger_lines(simulator: Simulator) -> Iterator[bytes]:
    seen, accepted = simulator.journal.counts(), simulator.journal.accepted()
    lines = [f"{_word(key)} {times} {accepted.get(key, 0)}\n" for key, times in seen.items()]
    for start in range(0, len(lines), 10_000):
        yield "".join(lines[start : start + 10_000]).encode()


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from None


def _word(key: str) -> str:
    """Without anything that a line is split at."""
    return key.replace("\\", "\\\\").replace(" ", "\\x20").replace("\n", "\\n").replace("\r", "\\r")


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")
