"""firebase-admin: `send_each_async` with 500 messages at a time, the most that it takes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

import firebase_admin
import uvloop
from firebase_admin import credentials, messaging
from google.oauth2 import service_account

from bench.peers import workload

PORTION = 500


def message(target: str, document: dict[str, dict[str, str]]) -> messaging.Message:
    notification = messaging.Notification(**document["notification"])
    return messaging.Message(token=target, notification=notification, data=document["data"])


def initialise(work: workload.Workload) -> None:
    messaging._MessagingService.FCM_URL = work.origin + "/v1/projects/{0}/messages:send"
    account = json.loads(Path(os.environ["SERVICE_ACCOUNT"]).read_text())
    # The library names Google's token endpoint in its assertion, whatever the account's file says.
    service_account._GOOGLE_OAUTH2_TOKEN_ENDPOINT = account["token_uri"]
    firebase_admin.initialize_app(credentials.Certificate(account))


async def main() -> None:
    work = workload.load()
    initialise(work)
    document = json.loads(work.payload)

    async def send(portion: Sequence[messaging.Message]) -> int:
        answers = await messaging.send_each_async(list(portion))
        return int(answers.success_count)

    warm_up = list(workload.portions([message(target, document) for target in work.warm_up], PORTION))
    counted = list(workload.portions([message(target, document) for target in work.counted], PORTION))
    await workload.measure(warm_up, counted, send, 1)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
