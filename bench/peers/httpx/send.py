"""httpx: one AsyncClient with HTTP/2 and one connection, APNs-shaped requests."""

from __future__ import annotations

import asyncio
import os
import ssl

import httpx
import uvloop

from bench.peers import workload

CONCURRENCY = 10
"""Least CPU of 10, 30 and 100: the cost of its pool and of its HTTP/2 library grows with what is under way."""


async def main() -> None:
    work = workload.load()
    headers = {
        "authorization": f"bearer {os.environ['PROVIDER_TOKEN']}",
        "apns-topic": os.environ["TOPIC"],
        "apns-push-type": "alert",
    }
    body = work.payload.encode()
    context = ssl.create_default_context(cafile=work.ca_file)
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        http2=True, verify=context, limits=limits, base_url=work.origin, headers=headers, timeout=60
    ) as client:

        async def send(target: str) -> bool:
            response = await client.post(f"/3/device/{target}", content=body)
            return bool(response.status_code == 200)

        await workload.measure(work.warm_up, work.counted, send, CONCURRENCY)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
