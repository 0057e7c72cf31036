"""Jobs and batches for tests."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model import Job, Lane, Route, new_batch_id, new_job_id
from gateway.queue.base import NewBatch, Queue, Room, load
from providers.base import Message

NOW = 1_800_000_000.0
APNS = Route("shop", "apns")
FCM = Route("shop", "fcm")
WEB = Route("shop", "webpush", "https://push.example")


def job(
    *,
    lane: Lane = Lane.PROMOTIONAL,
    deliver_at: float | None = None,
    created_at: float = NOW,
    key: str | None = None,
    app: str = "shop",
    expires_at: float | None = None,
) -> Job:
    return Job(
        id=new_job_id(),
        app=app,
        lane=lane,
        message=Message(title="Hello {{name}}"),
        variables=("name",),
        ordering_key=key,
        expires_at=expires_at,
        created_at=created_at,
        deliver_at=deliver_at,
        resend_unknown=lane is Lane.TRANSACTIONAL,
    )


def batch(count: int = 3, route: Route = APNS) -> NewBatch:
    numbers = range(count)
    return NewBatch(
        id=new_batch_id(),
        route=route,
        count=count,
        recipients=b"\n".join(b"user-%d" % number for number in numbers),
        columns=(
            b"\n".join(b"token-%d" % number for number in numbers),
            b"\n".join(b"Name %d" % number for number in numbers),
            b"\n".join(b"" for _ in numbers),
        ),
    )


ONE = load(1)
"""What a batch of one delivery takes of a holder's room."""


def room(
    batches: int = 100,
    per_route: int = 100_000,
    closed: tuple[Route, ...] = (),
    weights: Mapping[str, float] | None = None,
    **held: int,
) -> Room:
    """Room for a holder; `held` is promotional load by provider of the app `shop`."""
    by_route = {(Lane.PROMOTIONAL, route): held[route.provider] for route in (APNS, FCM, WEB) if route.provider in held}
    return Room(batches, per_route, closed, by_route, weights=weights or {})


async def stored(
    queue: Queue,
    *batches: NewBatch,
    lane: Lane = Lane.PROMOTIONAL,
    deliver_at: float | None = None,
    key: str | None = None,
    app: str = "shop",
) -> Job:
    """A job of these batches, ready to be leased."""
    new = job(lane=lane, deliver_at=deliver_at, key=key, app=app)
    assert await queue.submit(new, None, batches, b"{}") is None
    return new
