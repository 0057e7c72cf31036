"""The jobs of a run, made as ingest makes them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import NamedTuple

from gateway.ingest.batching import Splitter
from gateway.ingest.limits import Limits
from gateway.ingest.recipients import Recipient, Refusals, Slice
from gateway.model import Job, Lane, new_job_id
from gateway.queue.base import NewBatch
from providers import PROVIDERS
from providers.base import Message, ProviderSettings, Subscription
from tests.providers.material import EC_KEY, b64, point
from tests.simulation.services import WEB, Journal

SHARE_DEAD = 0.06
SHARE_BAD = 0.04
SHARE_POISONOUS = 0.003
SUBSCRIBER = {"p256dh": b64(point(EC_KEY)), "auth": b64(bytes(16))}


class Submission(NamedTuple):
    job: Job
    batches: list[NewBatch]
    targets: dict[str, str]
    """Recipient's id -> target."""


class Callers:
    """Who submit jobs."""

    def __init__(
        self, rng: random.Random, settings: Mapping[str, ProviderSettings], journal: Journal, *, poison: bool
    ) -> None:
        """`poison`: whether some targets are."""
        self._rng = rng
        self._settings = settings
        self._journal = journal
        self._poison = poison
        self._numbers = itertools.count()

    def submission(self, now: float) -> Submission:
        """A job of one to some dozens of recipients, at `now` (UNIX seconds)."""
        rng = self._rng
        lane = Lane.TRANSACTIONAL if rng.random() < 0.4 else Lane.PROMOTIONAL
        count = 1 if rng.random() < 0.2 else rng.randint(2, 40)
        names = rng.choice([["apns"], ["fcm"], ["apns", "fcm"], ["apns", "fcm", "webpush"]])
        recipients = [self._recipient(rng.choice(names)) for _ in range(count)]
        job = Job(
            id=new_job_id(),
            app="shop",
            lane=lane,
            message=Message(title="Hello"),
            created_at=now,
            deliver_at=now + rng.uniform(1, 120) if rng.random() < 0.1 else None,
            expires_at=now + rng.choice([5, 30, 120, 3600]) if rng.random() < 0.4 else None,
            ordering_key=rng.choice(["left", "right"]) if rng.random() < 0.15 else None,
            resend_unknown=rng.random() < (0.9 if lane is Lane.TRANSACTIONAL else 0.3),
        )
        splitter = Splitter(job, PROVIDERS, self._settings, Refusals(10), Limits())
        batches = splitter.add(Slice(recipients, range(count), count)) + splitter.rest()
        assert not splitter.refusals.count, splitter.refusals.listed()
        return Submission(job, batches, {recipient.id: _target(recipient) for recipient in recipients})

    def _recipient(self, provider: str) -> Recipient:
        number = next(self._numbers)
        token, subscription = None, None
        match provider:
            case "apns":
                token = f"{number:064x}"
            case "fcm":
                token = f"fcm-{number}"
            case _:
                # Encryption is most of such a request's cost, so there are few.
                if number % 4:
                    return self._recipient("apns")
                subscription = Subscription(f"https://{self._rng.choice(WEB)}/wpush/{number}", SUBSCRIBER)
        recipient = Recipient(id=f"u{number}", provider=provider, token=token, subscription=subscription)
        fate = self._rng.random()
        if fate < SHARE_DEAD:
            self._journal.dead.add(_target(recipient))
        elif fate < SHARE_DEAD + SHARE_BAD:
            self._journal.bad.add(_target(recipient))
        elif self._poison and fate > 1.0 - SHARE_POISONOUS:
            self._journal.poison.add(_target(recipient))
        return recipient


def _target(recipient: Recipient) -> str:
    return recipient.token or (recipient.subscription.endpoint if recipient.subscription else "")
