"""Tells one endpoint: cuts the feeds into messages, sends those that are due, and keeps what came of each."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from gateway.egress.web import Reply, Unreached, Web
from gateway.queue.base import QueueError
from gateway.receipts.events import Event, invalid_token_list_event, receipt_list_event, structured
from gateway.receipts.store import ReceiptStore
from gateway.webhooks import signing
from gateway.webhooks.settings import Webhook
from gateway.webhooks.store import LONGEST_PENDING, Endpoint, Kind, Message, WebhookStore

LARGEST = 20_000
"""Bytes of a body, which any receiver takes (Standard Webhooks, "payload size")."""

PIECE = 64
"""Receipts, or dead targets, that a message has room for at most; some 250 bytes each."""

AT_ONCE = 4
"""Messages on the wire to an endpoint that takes them. One that does not is tried with one at a time."""

FIRST_WAIT, LONGEST_WAIT = 5.0, 3600.0
"""Seconds until a message is tried again: they double, and are drawn between a half and the whole."""

LOOK = 0.5
"""Seconds between looks at the feeds while there is nothing to do."""

log = structlog.get_logger()


class Meter(Protocol):
    """Where counts go."""

    def attempted(self, result: str) -> None:
        """One request: taken, refused or unreached."""

    def exhausted(self) -> None:
        """A message is tried no more."""

    def backlog(self, pending: int, exhausted: int) -> None:
        """So many wait, and so many are tried no more."""


class Answer(NamedTuple):
    """What became of a request."""

    status: int | None
    trouble: str
    """"" if it was taken."""
    wait: float = 0.0
    """Seconds that the receiver wants to be left alone."""


class Courier:
    """One endpoint's. `state` is told why it is disabled, and "" when it is not."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Webhook,
        store: WebhookStore,
        receipts: ReceiptStore,
        web: Web,
        meter: Meter,
        state: Callable[[str], None],
        jitter: random.Random,
    ) -> None:
        self.app, self.name, self.number = endpoint.app, endpoint.name, endpoint.number
        self._settings = settings
        self._signers = [signing.signer(secret.get_secret_value()) for secret in settings.secrets]
        self._store = store
        self._receipts = receipts
        self._web = web
        self._meter = meter
        self._state = state
        self._jitter = jitter
        self._disabled: str | None = None
        self._looked: dict[Kind, tuple[int, int]] = {}
        """From which stored cursor on up to which one there is nothing: not worth a transaction."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                busy = await self.round()
            except QueueError as error:
                log.warning("webhook.not_stored", app=self.app, name=self.name, reason=str(error))
                busy = False
            except Exception as error:  # a defect of ours must end neither the worker nor the others
                log.error("webhook.failed", app=self.app, name=self.name, error=type(error).__name__)
                busy = False
            if not busy:
                await asyncio.sleep(LOOK)

    async def round(self) -> bool:
        """Do once what there is to do; False if there was nothing."""
        endpoint = await self._store.endpoint(self.number)
        if endpoint.disabled != self._disabled:
            self._disabled = endpoint.disabled
            self._state(endpoint.disabled)
        if endpoint.disabled:
            return False
        cut = await self._cut(endpoint)
        due = await self._store.due(self.number, time.time(), 1 if endpoint.failing_since is not None else AT_ONCE)
        await asyncio.gather(*(self._deliver(endpoint, message) for message in due))
        return cut or bool(due)

    # Cutting

    async def _cut(self, endpoint: Endpoint) -> bool:
        """Make one more message of each feed. False if there is nothing, or no room."""
        backlog = await self._store.backlog(self.number)
        self._meter.backlog(*backlog)
        if backlog.pending >= LONGEST_PENDING:
            return False
        cut = False
        for kind in Kind:
            if kind.value in self._settings.events:
                cut |= await self._cut_feed(endpoint, kind)
        return cut

    async def _cut_feed(self, endpoint: Endpoint, kind: Kind) -> bool:
        stored, count = endpoint.cursor(kind), PIECE
        since, start = self._looked.get(kind, (stored, stored))
        if since != stored:
            start = stored
        while True:
            found, stop = await self._found(kind, start, count)
            if found and found > 1 and len(await self._body(kind, start, stop, count) or b"") > LARGEST:
                count = found // 2
                continue
            if found:
                await self._store.cut(endpoint, kind, start, stop, found, time.time())
            else:
                self._looked[kind] = stored, stop
            return stop != start

    async def _found(self, kind: Kind, start: int, count: int) -> tuple[int, int]:
        """How many there are behind a cursor, `count` at most, and the cursor behind them."""
        if kind is Kind.RECEIPTS:
            page = await self._receipts.feed_of_app(self.app, start, count)
            return len(page.receipts), page.cursor
        dead = await self._receipts.invalid_tokens(self.app, start, count)
        return len(dead.tokens), dead.cursor

    # Sending

    async def _deliver(self, endpoint: Endpoint, message: Message) -> None:
        body = await self._body(message.kind, message.start, message.stop, message.holds)
        if body is None:
            await self._nothing_left(message)
            return
        answer = await self.post(self._id(message.kind, message.start, message.stop), body)
        now = time.time()
        if not answer.trouble:
            await self._store.took(self.number, message, now)
            return
        await self._refused(endpoint, message, answer, now)

    async def _nothing_left(self, message: Message) -> None:
        """Dead targets that were all declared dead anew are told of again; receipts are older than they are kept."""
        if message.kind is Kind.TOKENS:
            await self._store.drop(message)
            return
        self._meter.exhausted()
        log.error("webhook.exhausted", app=self.app, name=self.name, reason="its receipts are older than they are kept")
        await self._store.exhaust(message)

    async def _refused(self, endpoint: Endpoint, message: Message, answer: Answer, now: float) -> None:
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(message.attempts, 20)) * self._jitter.uniform(0.5, 1.0)
        due: float | None = now + max(wait, min(answer.wait, LONGEST_WAIT))
        if now - message.since >= self._settings.retry_for:
            due = None
            self._meter.exhausted()
            log.error("webhook.exhausted", app=self.app, name=self.name, reason=answer.trouble)
        await self._store.refused(self.number, message, due, answer.trouble, now)
        failing = now - (endpoint.failing_since or now)
        if answer.status == 410:
            await self._disable("it answered 410: it is gone for good")
        elif failing >= self._settings.disable_after:
            await self._disable(f"it took nothing for {failing / 86400:.1f} days; last: {answer.trouble}")

    async def _disable(self, reason: str) -> None:
        log.error("webhook.disabled", app=self.app, name=self.name, reason=reason)
        await self._store.disable(self.number, reason)

    async def post(self, message_id: str, body: bytes) -> Answer:
        """One signed request."""
        headers = {
            "Content-Type": "application/cloudevents+json",
            "User-Agent": "carillon",
            **signing.headers(message_id, time.time(), body, self._signers),
        }
        try:
            reply = await self._web.request("POST", self._settings.url.get_secret_value(), headers=headers, body=body)
        except Unreached as error:
            self._meter.attempted("unreached")
            return Answer(None, str(error))
        taken = 200 <= reply.status < 300
        self._meter.attempted("taken" if taken else "refused")
        return Answer(reply.status, "" if taken else f"it answered {reply.status}", 0.0 if taken else _wait(reply))

    async def _body(self, kind: Kind, start: int, stop: int, count: int) -> bytes | None:
        """What a message says; None if nothing of it is left to say."""
        event: Event
        if kind is Kind.RECEIPTS:
            receipts = await self._receipts.receipts_between(self.app, start, stop, count)
            if not receipts:
                return None
            event = receipt_list_event(self.app, self._id(kind, start, stop), receipts)
        else:
            tokens = await self._receipts.tokens_between(self.app, start, stop)
            if not tokens:
                return None
            event = invalid_token_list_event(self.app, self._id(kind, start, stop), tokens)
        return structured(event)

    def _id(self, kind: Kind, start: int, stop: int) -> str:
        named = f"{self.app}\n{self.name}\n{kind}\n{start}\n{stop}".encode()
        return f"msg_{hashlib.blake2b(named, digest_size=16).hexdigest()}"


def _wait(reply: Reply) -> float:
    value = next((text for name, text in reply.headers.items() if name.lower() == "retry-after"), "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 9 else 0.0
