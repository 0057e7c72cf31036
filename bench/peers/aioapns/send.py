"""aioapns: one APNs client with one connection, notifications sent concurrently as tasks."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from pathlib import Path

import uvloop
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol

from bench.peers import workload

CONCURRENCY = 100
"""The service's window is 65,535 bytes: past it aioapns sleeps for a second and gives up after the fifth time."""


def client(work: workload.Workload) -> APNs:
    APNsProductionClientProtocol.APNS_SERVER = work.host
    APNsProductionClientProtocol.APNS_PORT = work.port
    return APNs(
        key=Path(os.environ["KEY_FILE"]).read_text(),
        key_id=os.environ["KEY_ID"],
        team_id=os.environ["TEAM_ID"],
        topic=os.environ["TOPIC"],
        max_connections=1,
        ssl_context=ssl.create_default_context(cafile=work.ca_file),
    )


async def main() -> None:
    work = workload.load()
    message, apns = json.loads(work.payload), client(work)

    async def send(request: NotificationRequest) -> bool:
        result = await apns.send_notification(request)
        return bool(result.is_successful)

    warm_up = [NotificationRequest(target, message, push_type=PushType.ALERT) for target in work.warm_up]
    counted = [NotificationRequest(target, message, push_type=PushType.ALERT) for target in work.counted]
    await workload.measure(warm_up, counted, send, CONCURRENCY)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
