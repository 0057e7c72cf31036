"""pywebpush: `webpush_async` with one session and one key, both made once."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import aiohttp
import uvloop
from py_vapid import Vapid
from pywebpush import webpush_async

from bench.peers import workload

CONCURRENCY = 1
"""One connection, which with HTTP/1.1 carries one request at a time."""


async def main() -> None:
    work = workload.load()
    key = Vapid.from_file(os.environ["VAPID_KEY_FILE"])
    claims = {"sub": os.environ["SUBJECT"]}
    connector = aiohttp.TCPConnector(limit=CONCURRENCY, ssl=ssl.create_default_context(cafile=work.ca_file))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(subscription: dict[str, Any]) -> bool:
            response = await webpush_async(subscription, work.payload, key, claims, ttl=3600, aiohttp_session=session)
            return isinstance(response, aiohttp.ClientResponse) and response.status == 201

        warm_up = [workload.subscription(target) for target in work.warm_up]
        counted = [workload.subscription(target) for target in work.counted]
        await workload.measure(warm_up, counted, send, CONCURRENCY)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
