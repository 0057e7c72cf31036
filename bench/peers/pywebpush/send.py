"""pywebpush: `WebPusher` with one session and one signature for the origin, as its docstring shows."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from typing import Any

import aiohttp
import uvloop
from py_vapid import Vapid
from pywebpush import WebPusher

from bench.peers import workload

CONCURRENCY = 1
"""One connection, which with HTTP/1.1 carries one request at a time."""


async def main() -> None:
    work = workload.load()
    claims = {"aud": work.origin, "sub": os.environ["SUBJECT"], "exp": int(time.time()) + 12 * 3600}
    signature = Vapid.from_file(os.environ["VAPID_KEY_FILE"]).sign(claims)
    connector = aiohttp.TCPConnector(limit=CONCURRENCY, ssl=ssl.create_default_context(cafile=work.ca_file))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(subscription: dict[str, Any]) -> bool:
            pusher = WebPusher(subscription, aiohttp_session=session)
            response = await pusher.send_async(work.payload, signature, ttl=3600)
            return bool(response.status == 201)

        warm_up = [workload.subscription(target) for target in work.warm_up]
        counted = [workload.subscription(target) for target in work.counted]
        await workload.measure(warm_up, counted, send, CONCURRENCY)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
