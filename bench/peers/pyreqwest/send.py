"""pyreqwest: one Client with HTTP/2, APNs-shaped requests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import uvloop
from pyreqwest.client import Client, ClientBuilder

from bench.peers import workload

CONCURRENCY = 300


def client(work: workload.Workload) -> Client:
    headers = {
        "authorization": f"bearer {os.environ['PROVIDER_TOKEN']}",
        "apns-topic": os.environ["TOPIC"],
        "apns-push-type": "alert",
    }
    builder = ClientBuilder().base_url(work.origin).default_headers(headers)
    builder = builder.add_root_certificate_pem(Path(work.ca_file).read_bytes())
    return builder.http2(True).http2_prior_knowledge().build()


async def main() -> None:
    work = workload.load()
    body = work.payload.encode()
    async with client(work) as http:

        async def send(target: str) -> bool:
            response = await http.post(f"/3/device/{target}").body_bytes(body).build().send()
            return bool(response.status == 200)

        await workload.measure(work.warm_up, work.counted, send, CONCURRENCY)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
