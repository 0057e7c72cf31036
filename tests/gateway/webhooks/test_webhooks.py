"""Receipts reach who an app names, each of them, or it is shown that they do not."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from gateway.egress.guard import Found, Guard
from gateway.model import State
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.queue.base import DeadTarget
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from gateway.webhooks import courier, service, signing
from gateway.webhooks.service import Webhooks
from gateway.webhooks.settings import Webhook
from tests.gateway.queue.samples import batch, room, stored
from tests.gateway.webhooks.receiver import (
    SECRET,
    Behaviour,
    Receiver,
    at_first,
    broken,
    elsewhere,
    gone,
    hangs,
)
from tests.gateway.webhooks.running import Receive, Tell, ended, until

OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of 32 bytes, yes!").decode()


async def test_an_endpoint_is_told_of_every_receipt_once(queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
    receiver = await receive()
    told = await tell(receiver)
    ids = await ended(queue, 150, 1, 3)
    await until(lambda: len(receiver.deliveries) >= 154)
    assert receiver.deliveries == ids
    assert receiver.largest <= courier.LARGEST
    event = receiver.events[0]
    assert (event["specversion"], event["type"], event["source"]) == (
        "1.0",
        "carillon.receipt.list",
        "/carillon/apps/shop",
    )
    assert event["id"] == receiver.ids[0]
    assert event["data"]["receipts"][0]["state"] == "accepted"
    assert receiver.headers[0]["Content-Type"] == "application/cloudevents+json"

    async def settled() -> bool:
        standing = await told.standing()
        return standing.backlog == (0, 0) and standing.endpoint.delivered == receiver.requests

    await until(settled)


async def test_of_other_apps_it_is_told_nothing(queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
    receiver = await receive()
    await tell(receiver)
    await ended(queue, 5, app="bank")
    ids = await ended(queue, 2)
    await ended(queue, 5, app="acme/shop")
    await until(lambda: len(receiver.deliveries) == 2)
    assert receiver.deliveries == ids


async def test_it_is_told_of_what_ends_after_it_was_named(queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
    before = await ended(queue, 3)
    receiver = await receive()
    told = await tell(receiver)
    ids = await ended(queue, 2)
    await until(lambda: len(receiver.deliveries) == 2)
    assert receiver.deliveries == ids[3:]
    await told.webhooks.replay("shop", "crm", 0.0)
    await until(lambda: set(receiver.deliveries) >= set(before))


async def test_dead_targets_are_told_too(queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
    receiver = await receive()
    await tell(receiver, events=["tokens"])
    await ended(queue, 2, dead=(DeadTarget(b"token-0", 5.0, "Unregistered"), DeadTarget(b"token-1", 6.0, "Gone")))
    await until(lambda: len(receiver.events) == 1)
    (event,) = receiver.events
    assert event["type"] == "carillon.token.invalid.list"
    assert event["data"]["tokens"] == [
        {"provider": "apns", "key": "token-0", "since": 5.0, "reason": "Unregistered"},
        {"provider": "apns", "key": "token-1", "since": 6.0, "reason": "Gone"},
    ]


async def test_a_body_is_small_however_long_the_recipients_ids_are(
    queue: SqliteQueue, tell: Tell, receive: Receive
) -> None:
    receiver = await receive()
    await tell(receiver)
    names = b"\n".join(b"%0128d" % number for number in range(200))
    await stored(queue, msgspec.structs.replace(batch(200), recipients=names))
    (lease,) = await queue.lease(room(batches=1), time.time())
    lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
    await queue.complete(lease, (), time.time())
    await until(lambda: len(receiver.deliveries) == 200)
    assert len(set(receiver.deliveries)) == 200
    assert receiver.largest <= courier.LARGEST


class TestSignatures:
    def test_each_secret_signs_and_each_alone_verifies(self) -> None:
        """While one secret replaces another, receivers with either of them take the message."""
        body = b'{"type":"x"}'
        signers = [signing.signer(SECRET), signing.signer(OTHER_SECRET)]
        headers = signing.headers("msg_1", time.time(), body, signers)
        for secret in (SECRET, OTHER_SECRET):
            Verifier(secret).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(body + b" ", headers)

    def test_an_asymmetric_one_is_verified_with_the_public_key(self) -> None:
        private = Ed25519PrivateKey.generate()
        secret = "whsk_" + base64.b64encode(private.private_bytes_raw()).decode()
        headers = signing.headers("msg_1", 1_700_000_000.9, b"body", [signing.signer(secret)])
        version, _, signature = headers["webhook-signature"].partition(",")
        assert version == "v1a"
        private.public_key().verify(base64.b64decode(signature), b"msg_1.1700000000.body")

    @pytest.mark.parametrize(
        "secret", ["", "whsec_", "whsec_!!", "whsec_c2hvcnQ=", "whsk_c2hvcnQ=", "MfKQ9r8GKYqrTwjU"]
    )
    def test_what_is_no_secret_is_refused_unshown(self, secret: str) -> None:
        with pytest.raises(ValidationError) as refusal:
            Webhook(url="https://example.com/", secrets=[secret])  # type: ignore[arg-type]
        assert not secret[6:] or secret[6:] not in str(refusal.value)

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/",
            "https://localhost/",
            "https://10.0.0.1/",
            "https://u:p@example.com/",
            "ftp://example.com",
        ],
    )
    def test_a_stranger_s_place_is_public_and_speaks_tls(self, url: str) -> None:
        with pytest.raises(ValidationError):
            Webhook(url=url, secrets=[SECRET])  # type: ignore[arg-type]

    def test_nothing_shows_where_it_is_or_what_it_is_signed_with(self) -> None:
        settings = Webhook(url="https://example.com/s3cret", secrets=[SECRET])  # type: ignore[arg-type]
        assert "s3cret" not in repr(settings)
        assert SECRET[6:] not in repr(settings)


class TestTrouble:
    async def test_it_is_tried_again_with_the_same_id_until_it_is_taken(
        self, queue: SqliteQueue, tell: Tell, receive: Receive
    ) -> None:
        receiver = await receive(at_first(3, broken))
        told = await tell(receiver)
        ids = await ended(queue, 5)
        await until(lambda: len(receiver.events) == 1)
        assert receiver.deliveries == ids
        assert {headers["webhook-id"] for headers in receiver.headers} == set(receiver.ids)
        assert len(set(receiver.bodies)) == 1
        assert receiver.requests == 4

        async def recovered() -> bool:
            return (await told.standing()).endpoint.failing_since is None

        await until(recovered)

    async def test_one_bad_message_does_not_hold_up_the_others(
        self, queue: SqliteQueue, tell: Tell, receive: Receive
    ) -> None:
        async def allergic(receiver: Receiver) -> Any:
            return await broken(receiver) if receiver.headers[-1]["webhook-id"] == poison else None

        poison = ""
        receiver = await receive(at_first(1, broken))
        await tell(receiver)
        first = await ended(queue, 1)
        await until(lambda: receiver.requests >= 1)
        poison = receiver.headers[0]["webhook-id"]
        receiver.behave = allergic
        ids = await ended(queue, 300)
        await until(lambda: set(receiver.deliveries) >= set(ids) - set(first))
        assert first[0] not in receiver.deliveries

    @pytest.mark.parametrize("behave", [broken, hangs, elsewhere])
    async def test_what_is_never_taken_is_shown_as_exhausted_and_can_be_replayed(
        self, queue: SqliteQueue, tell: Tell, receive: Receive, behave: Behaviour, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receiver = await receive(behave)
        told = await tell(receiver, retry_for=0.3, timeout=0.1)
        ids = await ended(queue, 5)

        async def exhausted() -> bool:
            return (await told.standing()).backlog == (0, 1)

        await until(exhausted)
        assert receiver.deliveries == []
        assert receiver.requests >= 2
        receiver.behave = None
        receiver.released.set()
        await told.webhooks.replay("shop", "crm", None)
        await until(lambda: receiver.deliveries == ids)

    async def test_no_redirect_is_followed(self, queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
        paths: list[str] = []

        async def redirecting(receiver: Receiver) -> Any:
            paths.append("one")
            return await elsewhere(receiver)

        receiver = await receive(redirecting)
        told = await tell(receiver)
        assert await told.webhooks.test("shop", "crm") == courier.Answer(307, "it answered 307", 0.0)
        assert paths == ["one"]

    async def test_410_disables_it_until_it_is_enabled(self, queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
        receiver = await receive(gone)
        told = await tell(receiver)
        ids = await ended(queue, 3)

        async def disabled() -> bool:
            return (await told.standing()).endpoint.disabled != ""

        await until(disabled)
        requests = receiver.requests
        ids = await ended(queue, 3)
        await until(lambda: "webhook shop/crm" in str(told.readiness.describe()))
        await asyncio.sleep(0.3)
        assert receiver.requests == requests
        receiver.behave = None
        await told.webhooks.enable("shop", "crm")
        await until(lambda: len(receiver.deliveries) == 6)
        assert sorted(receiver.deliveries) == sorted(ids)
        await until(lambda: "webhook shop/crm" not in str(told.readiness.describe()))

    async def test_days_of_failure_disable_it(self, queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
        receiver = await receive(broken)
        told = await tell(receiver, disable_after=0.3)
        await ended(queue, 3)

        async def disabled() -> bool:
            return "took nothing" in (await told.standing()).endpoint.disabled

        await until(disabled)

    async def test_a_restart_goes_on_where_it_was(self, queue: SqliteQueue, tell: Tell, receive: Receive) -> None:
        receiver = await receive(broken)
        await tell(receiver)
        ids = await ended(queue, 100)
        await until(lambda: receiver.requests >= 2)
        receiver.behave = None
        await tell(receiver)
        await until(lambda: len(set(receiver.deliveries)) == 100)
        assert sorted(set(receiver.deliveries)) == sorted(ids)

    async def test_an_address_inside_is_not_called(
        self, tell: Tell, receive: Receive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A public name that leads to loopback, as an attacker's does."""
        receiver = await receive()

        async def resolve(host: str, port: int) -> list[Found]:
            assert host == "hooks.example.com"
            return [Found(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(service, "Guard", lambda: Guard(resolve))
        told = await tell(None, url=f"https://hooks.example.com:{receiver.port}/", private=False)
        answer = await told.webhooks.test("shop", "crm")
        assert answer == courier.Answer(None, "the host is not on the public internet")
        assert receiver.requests == 0

    async def test_what_it_was_asked_to_wait_it_waits(
        self, queue: SqliteQueue, tell: Tell, receive: Receive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(courier, "LONGEST_WAIT", 5.0)

        async def busy(receiver: Receiver) -> Any:
            from aiohttp import web

            return web.Response(status=429, headers={"Retry-After": "1"})

        receiver = await receive(at_first(1, busy))
        await tell(receiver)
        await ended(queue, 1)
        await until(lambda: receiver.requests == 1)
        began = time.monotonic()
        await until(lambda: len(receiver.events) == 1)
        assert time.monotonic() - began > 0.7


async def test_app_without_webhooks_costs_nothing(queue: SqliteQueue, tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics", "worker-0", {})
    webhooks = Webhooks({}, queue.database, ReceiptStore(queue.database), metrics, Readiness(), tmp_path / "turn")
    async with AsyncExitStack() as stack:
        await webhooks.start(stack)
        await webhooks.run()  # and is done
    assert not (tmp_path / "turn").exists()
    metrics.close()
